#pragma once
/// A loop on virtual time for tests: Clock and Executor in one. Nothing runs by itself; a test
/// says run() for what is ready now and advance() for what comes later. Thread: the test's, except
/// post().

#include <meshnode/clock.h>
#include <meshnode/executor.h>
#include <cstdlib>
#include <deque>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace meshnode::test {

/// A rule of the seams was broken: the test is at fault, or the code under test.
[[noreturn]] inline void broken_rule(const char* what) {
  std::cerr << "fake seam: " << what << std::endl;
  std::abort();
}

class FakeLoop final : public Clock, public Executor {
 public:
  FakeLoop() = default;
  FakeLoop(const FakeLoop&) = delete;
  FakeLoop& operator=(const FakeLoop&) = delete;
  ~FakeLoop() override { retired_.clear(); }

  Instant now() const override { return now_; }
  WallTime wall_now() const override { return wall_start_ + now_.since_start; }
  /// What wall_now() is at Instant zero; 2026-01-01T00:00:00Z unless set.
  void set_wall_start(WallTime time) { wall_start_ = time; }

  std::unique_ptr<Timer> timer(std::function<void()> on_fire) override {
    return std::make_unique<FakeTimer>(*this, std::move(on_fire));
  }
  std::size_t running_timers() const { return timers_.size(); }

  void post(std::function<void()> task) override {
    std::lock_guard lock(mutex_);
    posted_.push_back(std::move(task));
  }
  void retire(std::unique_ptr<Retirable> object) override { retired_.push_back(std::move(object)); }

  /// Runs posted tasks and due timers, and those they cause, until nothing is ready; what was
  /// retired dies between them. Aborts after a million steps: that is a loop without progress.
  void run() {
    if (running_) broken_rule("run() from within a callback");
    running_ = true;
    for (std::size_t steps = 0; step(); ++steps) {
      if (steps > 1'000'000) broken_rule("a million steps and still not done");
    }
    running_ = false;
  }

  /// Moves time forward, stopping at every timer on the way.
  void advance(Duration by) {
    Instant end = now_ + by;
    run();
    while (!timers_.empty() && timers_.begin()->first.first <= end) {
      now_ = timers_.begin()->first.first;
      run();
    }
    now_ = end;
    run();
  }

 private:
  // Timers due at the same time fire in the order they were started.
  using Due = std::pair<Instant, std::uint64_t>;

  class FakeTimer final : public Timer {
   public:
    FakeTimer(FakeLoop& loop, std::function<void()> on_fire)
        : loop_(loop), on_fire_(std::move(on_fire)) {}
    ~FakeTimer() override {
      if (firing_) broken_rule("a timer was destroyed in its own callback without retire()");
      stop();
    }
    void start(Duration after) override {
      stop();
      due_ = {loop_.now_ + (after < Duration::zero() ? Duration::zero() : after),
              loop_.next_timer_++};
      loop_.timers_.emplace(due_, this);
      running_ = true;
    }
    void stop() override {
      if (running_) loop_.timers_.erase(due_);
      running_ = false;
    }
    bool running() const override { return running_; }
    void fire() {
      stop();
      firing_ = true;
      on_fire_();
      firing_ = false;
    }

   private:
    FakeLoop& loop_;
    std::function<void()> on_fire_;
    Due due_{};
    bool running_ = false;
    bool firing_ = false;
  };

  bool step() {
    if (!retired_.empty()) {
      auto dying = std::exchange(retired_, {});
      return true;
    }
    std::function<void()> task;
    {
      std::lock_guard lock(mutex_);
      if (!posted_.empty()) {
        task = std::move(posted_.front());
        posted_.pop_front();
      }
    }
    if (task) {
      task();
      return true;
    }
    if (timers_.empty() || timers_.begin()->first.first > now_) return false;
    timers_.begin()->second->fire();
    return true;
  }

  Instant now_{};
  WallTime wall_start_{std::chrono::seconds(1'767'225'600)};
  std::uint64_t next_timer_ = 0;
  std::map<Due, FakeTimer*> timers_;
  std::mutex mutex_;
  std::deque<std::function<void()>> posted_;
  std::vector<std::unique_ptr<Retirable>> retired_;
  bool running_ = false;
};

}  // namespace meshnode::test
