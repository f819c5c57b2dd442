#pragma once
/// Seam: time. The product's is on a libuv loop (io/loop.h), the simulator's is virtual.
/// Thread: everything here belongs to the thread of the loop it came from.

#include <functional>
#include <memory>
#include <meshnode/time.h>

namespace meshnode {

/// Destroying a timer cancels it; the callback never runs after that.
class Timer {
 public:
  virtual ~Timer() = default;
  /// One shot; restarts if already running.
  virtual void start(Duration after) = 0;
  virtual void stop() = 0;
  virtual bool running() const = 0;
};

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Instant now() const = 0;
  virtual WallTime wall_now() const = 0;
  /// The callback may destroy the timer's owner only through Executor::retire().
  virtual std::unique_ptr<Timer> timer(std::function<void()> on_fire) = 0;
};

}  // namespace meshnode
