#include "supervisor/space_thread.h"

#include <unistd.h>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <mutex>

#include "io/host_kernel.h"
#include "io/loop.h"
#include "support/namespaces.h"
#include "supervisor/space_offers.h"

using namespace meshnode;
using namespace meshnode::supervisor;
using meshnode::test::TestNamespace;
using namespace std::chrono_literals;

namespace {

/// Holds the first program until it is let on.
class Gate : public io::HostKernel {
 public:
  Result<CommandResult> run(const std::vector<std::string>& argv,
                            const std::string& input) override {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
    lock.unlock();
    return io::HostKernel::run(argv, input);
  }
  void open() {
    {
      const std::lock_guard lock(mutex_);
      open_ = true;
    }
    opened_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

struct Lab {
  explicit Lab(Duration look_within = kLookWithin)
      : thread(loop, kernel, marker,
               {[this](const TakenUp& space) { taken.push_back(space.workload); },
                [this](std::uint16_t) { taken.emplace_back("gone"); },
                [this](std::uint16_t, const auto&) { taken.emplace_back("captured"); }},
               [this] { ++news; }, look_within) {}
  ~Lab() {
    kernel.open();
    static_cast<void>(thread.remove());
    ::unlink(marker.c_str());
  }
  void run(Duration time) {
    const auto timer = loop.timer([this] { loop.stop(); });
    timer->start(time);
    loop.run();
  }
  bool run_until(const std::function<bool()>& holds) {
    for (int i = 0; i < 1000 && !holds(); ++i) run(10ms);
    return holds();
  }
  CaptureReport report() const {
    CaptureReport all;
    thread.add_to(all);
    return all;
  }

  io::Loop loop;
  Gate kernel;
  std::string marker = "/tmp/meshnode-thread-marker-" + std::to_string(::getpid());
  std::vector<std::string> taken;
  int news = 0;
  SpaceThread thread;
};

capture::Spec one(std::uint32_t pid) {
  capture::Spec spec;
  spec.workloads.push_back({"shop/web", 7, capture::ByNamespace{"", pid}, {8080}});
  return spec;
}

}  // namespace

TEST_CASE("namespaces are looked after on a thread, and the loop waits for none of it") {
  if (!test::own_network()) return;
  const TestNamespace place;
  Lab lab;
  lab.thread.want({});
  CHECK(lab.thread.settled());  // nothing to do: no thread
  lab.thread.want(one(place.pid()));
  lab.thread.look();
  CHECK(lab.run_until([&] { return lab.taken == std::vector<std::string>{"shop/web"}; }));
  CHECK_FALSE(lab.thread.settled());
  lab.kernel.open();
  CHECK(lab.run_until([&] { return lab.thread.settled(); }));
  CHECK(lab.taken == std::vector<std::string>{"shop/web", "captured"});
  CHECK(lab.report().spaces.contains("shop/web"));
  CHECK(lab.report().failed.empty());

  // What nothing changes is no news.
  const int before = lab.news;
  lab.thread.look();
  lab.run(100ms);
  CHECK(lab.news == before);

  std::optional<Status> released;
  lab.thread.release([&](Status done) { released = std::move(done); });
  CHECK(lab.run_until([&] { return released.has_value(); }));
  CHECK(released->has_value());
  CHECK(lab.thread.remove());
}

TEST_CASE("a thread that is held for too long keeps nothing waiting, and is a problem of all") {
  if (!test::own_network()) return;
  const TestNamespace place;
  Lab lab(200ms);
  lab.thread.want(one(place.pid()));
  lab.thread.look();
  CHECK_FALSE(lab.thread.settled());
  REQUIRE(lab.run_until([&] { return !lab.taken.empty(); }));
  lab.thread.look();  // not taken while a program runs
  lab.run(300ms);
  CHECK(lab.thread.settled());
  CHECK(lab.report().failed.at("shop/web").find("have not been looked at") != std::string::npos);
  lab.kernel.open();
  CHECK(lab.run_until([&] { return lab.report().failed.empty() && lab.thread.settled(); }));
}

TEST_CASE("the end waits for a thread that is held no longer than it is told to") {
  if (!test::own_network()) return;
  const TestNamespace place;
  Lab lab;
  lab.thread.want(one(place.pid()));
  lab.thread.look();
  REQUIRE(lab.run_until([&] { return !lab.taken.empty(); }));
  const auto removed = lab.thread.remove(100ms);
  REQUIRE_FALSE(removed);
  CHECK(removed.error().message.find("in network namespaces they stay") == 0);
  CHECK(lab.thread.held());
}

TEST_CASE("first tries that take long keep nothing waiting, however often more is wanted") {
  if (!test::own_network()) return;
  const TestNamespace place;
  Lab lab(500ms);
  lab.thread.want(one(place.pid()));
  lab.thread.look();  // taken, so that only the try is slow
  REQUIRE(lab.run_until([&] { return !lab.taken.empty(); }));
  capture::Spec more = one(place.pid());
  for (std::uint16_t port = 1; port <= 3; ++port) {
    CHECK_FALSE(lab.thread.settled());
    more.exclude_ports = {port};
    lab.thread.want(more);
    lab.run(100ms);
  }
  lab.run(300ms);
  CHECK(lab.thread.settled());
  CHECK(lab.report().failed.empty());
  lab.kernel.open();
  // Once one was settled, the next has its own time.
  const auto has_time_anew = [&] {
    lab.thread.look();
    lab.run(400ms);
    lab.thread.want(one(place.pid()));
    return !lab.thread.settled();
  };
  bool anew = false;
  for (int i = 0; i < 20 && !anew; ++i) anew = has_time_anew();
  CHECK(anew);
  lab.thread.look();
  CHECK(lab.run_until([&] { return lab.thread.settled(); }));
}

TEST_CASE("what the worker or the socket service could not be told is told again, once") {
  bool listeners_fail = true;
  bool grant_fails = true;
  std::vector<std::string> said;
  SpaceOffers offers({[&](const SpaceListeners& message, const std::vector<int>&) -> Status {
                        if (listeners_fail) return fail(ErrorCode::kUnavailable, "no descriptor");
                        said.push_back("listeners " + std::to_string(message.slot));
                        return {};
                      },
                      [&](SpaceGone message) {
                        said.push_back("gone " + std::to_string(message.slot));
                      },
                      [&](std::uint16_t slot, const auto&) -> Status {
                        if (grant_fails) return fail(ErrorCode::kUnavailable, "no thread");
                        said.push_back("grant " + std::to_string(slot));
                        return {};
                      },
                      [&](std::uint16_t slot) {
                        said.push_back("revoke " + std::to_string(slot));
                      }});
  const auto failed = [&] {
    CaptureReport report;
    offers.add_to(report);
    return report.failed;
  };
  using Said = std::vector<std::string>;
  auto place = io::NetNamespace::at("/proc/self/ns/net");
  REQUIRE(place);
  const auto shared = std::make_shared<const io::NetNamespace>(std::move(*place));
  const TakenUp web{"shop/web", 7, std::make_shared<const std::vector<OpenListener>>()};

  // A worker that never heard of it must not hear of its end.
  offers.taken_up(web);
  CHECK(failed().at("shop/web").find("no descriptor") != std::string::npos);
  offers.gone(7);
  CHECK(std::exchange(said, {}) == Said{"revoke 7"});
  CHECK(failed().empty());

  offers.taken_up(web);
  offers.captured(7, shared);
  CHECK(failed().at("shop/web").find("no thread") != std::string::npos);
  listeners_fail = false;
  offers.try_again();
  CHECK(std::exchange(said, {}) == Said{"listeners 7"});
  grant_fails = false;
  offers.try_again();
  offers.try_again();
  CHECK(std::exchange(said, {}) == Said{"grant 7"});
  CHECK(failed().empty());

  // The next worker is told; the socket service knows.
  offers.new_worker();
  CHECK(std::exchange(said, {}) == Said{"listeners 7"});
  offers.gone(7);
  CHECK(std::exchange(said, {}) == Said{"revoke 7", "gone 7"});
}
