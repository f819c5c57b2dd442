#include "io/loop.h"

#include <sched.h>
#include <unistd.h>
#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "io/watch.h"

using namespace meshnode;
using namespace std::chrono_literals;

TEST_CASE("a process confined to one CPU has one") {
  int refused = 0;
  unsigned confined = 0;
  std::thread([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(sched_getcpu()), &one);
    refused = sched_setaffinity(0, sizeof one, &one);
    confined = io::available_cpus();
  }).join();
  REQUIRE(refused == 0);
  CHECK(confined == 1);
}

TEST_CASE("a timer fires once, not before its time") {
  io::Loop loop;
  int fired = 0;
  const Instant start = io::monotonic_now();
  auto timer = loop.timer([&] {
    ++fired;
    loop.stop();
  });
  timer->start(20ms);
  CHECK(timer->running());
  loop.run();
  CHECK(fired == 1);
  CHECK_FALSE(timer->running());
  CHECK(io::monotonic_now() - start >= 19ms);
}

TEST_CASE("a stopped timer never fires, and a timer may end itself") {
  io::Loop loop;
  bool fired = false;
  auto stopped = loop.timer([&] { fired = true; });
  stopped->start(1ms);
  stopped->stop();
  std::unique_ptr<Timer> self;
  self = loop.timer([&] {
    self.reset();
    loop.stop();
  });
  self->start(10ms);
  loop.run();
  CHECK_FALSE(fired);
  CHECK(self == nullptr);
}

TEST_CASE("tasks posted from other threads run in order on the loop's thread") {
  io::Loop loop;
  std::vector<int> seen;
  const auto loop_thread = std::this_thread::get_id();
  bool same_thread = true;
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) {
      loop.post([&, i] {
        seen.push_back(i);
        same_thread = same_thread && std::this_thread::get_id() == loop_thread;
        if (i == 999) {
          loop.stop();
        }
      });
    }
  });
  loop.run();
  other.join();
  REQUIRE(seen.size() == 1000);
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  CHECK(same_thread);
}

TEST_CASE("deferred work and retired objects wait for the callback to return, and no longer") {
  struct Object final : Retirable {
    explicit Object(std::vector<std::string>& log) : log_(log) {}
    ~Object() override { log_.push_back("retired"); }
    std::vector<std::string>& log_;
  };
  io::Loop loop;
  std::vector<std::string> log;
  loop.post([&] {
    loop.retire(std::make_unique<Object>(log));
    loop.defer([&] {
      log.push_back("deferred");
      loop.defer([&] {
        log.push_back("deferred within");
        loop.stop();
      });
    });
    log.push_back("returned");
  });
  loop.run();
  CHECK(log == std::vector<std::string>{"returned", "deferred", "retired", "deferred within"});
}

TEST_CASE("a descriptor that becomes readable calls back until the watch ends") {
  io::Loop loop;
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  std::unique_ptr<io::FdWatch> watch;
  char byte = 0;
  watch = std::make_unique<io::FdWatch>(loop, ends[0], [&] {
    REQUIRE(read(ends[0], &byte, 1) == 1);
    watch.reset();
    loop.stop();
  });
  REQUIRE(write(ends[1], "x", 1) == 1);
  loop.run();
  CHECK(byte == 'x');
  close(ends[0]);
  close(ends[1]);
}

TEST_CASE("a signal is an event") {
  io::Loop loop;
  int count = 0;
  const io::SignalWatch watch(loop, SIGUSR1, [&] {
    ++count;
    loop.stop();
  });
  loop.post([] { kill(getpid(), SIGUSR1); });
  loop.run();
  CHECK(count == 1);
}

TEST_CASE("changes anywhere below a directory are told, once a burst, new folders included") {
  const auto root =
      std::filesystem::temp_directory_path() / ("meshnode-watch-" + std::to_string(getpid()));
  std::filesystem::create_directories(root / "old");
  {
    io::Loop loop;
    int changes = 0;
    const io::TreeWatch watch(loop, root.string(), [&] {
      ++changes;
      loop.stop();
    });
    loop.post([&] {
      std::ofstream(root / "old" / "a.yaml") << "x";
      std::filesystem::create_directory(root / "new");
    });
    loop.run();
    CHECK(changes == 1);
    loop.post([&] { std::ofstream(root / "new" / "b.yaml") << "y"; });
    loop.run();
    CHECK(changes == 2);
    loop.post([&] { std::filesystem::remove(root / "old" / "a.yaml"); });
    loop.run();
    CHECK(changes == 3);
  }
  std::filesystem::remove_all(root);
}
