#include "supervisor/heartbeats.h"

#include <sys/mman.h>
#include <unistd.h>
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <chrono>
#include <thread>

#include "io/loop.h"

using namespace meshnode;
using namespace meshnode::supervisor;
using namespace std::chrono_literals;

namespace {

/// A supervisor that looks, and a worker of two loops that beat as told.
struct Watched {
  Watchdog watchdog;
  Instant now{};
  Beats beats{};

  std::optional<std::string> look(Duration after = kBeatEvery) {
    now = now + after;
    return watchdog.look(now, beats);
  }
  void beat(bool first, bool second) {
    beats[0] += first ? 1 : 0;
    beats[1] += second ? 1 : 0;
  }
  /// The verdict of so many looks, the second loop standing still.
  std::optional<std::string> stuck(int looks, Duration apart = kBeatEvery) {
    std::optional<std::string> verdict;
    for (int i = 0; i < looks && !verdict; ++i) {
      beat(true, false);
      verdict = look(apart);
    }
    return verdict;
  }
};

}  // namespace

TEST_CASE("a loop that stands still for ten looks is hung, and named") {
  Watched worker;
  worker.beat(true, true);
  CHECK_FALSE(worker.look());
  CHECK_FALSE(worker.stuck(kHungAfterLooks - 1));
  CHECK(worker.stuck(1) == "hung: proxy loop 1 did not come round for 10 s");
}

TEST_CASE("one beat in time is enough, however many looks in all saw none") {
  Watched worker;
  worker.beat(true, true);
  for (int round = 0; round < 20; ++round) {
    CHECK_FALSE(worker.look());
    CHECK_FALSE(worker.stuck(kHungAfterLooks - 1));
    worker.beat(true, true);
  }
}

TEST_CASE("a page that is all zero is a worker at its start, with more time than a hung one") {
  Watched worker;
  for (int i = 0; i < kLooksToBegin - 1; ++i) CHECK_FALSE(worker.look());
  SECTION("which may begin late") {
    worker.beat(true, true);
    CHECK_FALSE(worker.look());
    CHECK_FALSE(worker.stuck(kHungAfterLooks - 1));
  }
  SECTION("and not never") { CHECK(worker.look() == "hung: no proxy loop began within 120 s"); }
}

TEST_CASE("what a supervisor could not see is no verdict") {
  Watched worker;
  worker.beat(true, true);
  CHECK_FALSE(worker.look());
  SECTION("both were stopped, or the machine slept, a day long") {
    CHECK_FALSE(worker.look(24h));
    CHECK_FALSE(worker.stuck(kHungAfterLooks - 1));
    worker.beat(true, true);
    CHECK_FALSE(worker.look());
  }
  SECTION("every look was late") { CHECK_FALSE(worker.stuck(1'000, 3 * kBeatEvery + 1ns)); }
  SECTION("looks followed each other at once") { CHECK_FALSE(worker.stuck(1'000, 1ns)); }
  SECTION("but looks that are a little late count") {
    CHECK(worker.stuck(kHungAfterLooks, 3 * kBeatEvery));
  }
}

TEST_CASE("what a worker writes can mislead about itself alone") {
  auto page = HeartbeatPage::make();
  REQUIRE(page);
  CHECK(::ftruncate(page->descriptor(), 0) != 0);
  CHECK(errno == EPERM);
  CHECK(::ftruncate(page->descriptor(), 1 << 20) != 0);
  auto worker = Heartbeats::open(page->descriptor());
  REQUIRE(worker);
  CHECK(page->read() == Beats{});
  (*worker)->beat(0);
  (*worker)->beat(63);
  (*worker)->beat(63);
  Beats expected{};
  expected[0] = 1;
  expected[63] = 2;
  CHECK(page->read() == expected);
  CHECK_FALSE(Heartbeats::open(-1));
}

TEST_CASE("a loop that spins stops beating, its neighbour does not") {
  auto page = HeartbeatPage::make();
  REQUIRE(page);
  auto heartbeats = Heartbeats::open(page->descriptor());
  REQUIRE(heartbeats);
  std::atomic<bool> spin{true};
  std::atomic<int> running{2};
  const auto run = [&](unsigned number) {
    io::Loop loop;
    {
      const Pulse pulse(loop, **heartbeats, number);
      const auto end = loop.timer([&loop] { loop.stop(); });
      end->start(2500ms);
      if (number == 1) {
        loop.post([&spin] {
          while (spin) std::this_thread::yield();
        });
      }
      loop.run();
    }
    --running;
  };
  std::thread turning(run, 0);
  std::thread spinning(run, 1);
  turning.join();
  const Beats beats = page->read();
  CHECK(running == 1);
  spin = false;
  spinning.join();
  CHECK(beats[0] >= 2);
  CHECK(beats[1] == 1);
}
