#pragma once
/// How a worker that hangs is noticed: each proxy loop counts its rounds, once a second, in a page
/// that worker and supervisor share; a counter that stands still while the supervisor goes on
/// looking is a loop that does not come round. The page is all that is between them: the control
/// loop, which may wait for a disk, has no part in it. docs/decisions/0010.

#include <meshnode/clock.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "supervisor/descriptor.h"

namespace meshnode::supervisor {

inline constexpr std::size_t kMaxLoops = 64;
inline constexpr Duration kBeatEvery = std::chrono::seconds(1);
/// Looks, one a second, at which a loop's counter may stand still.
inline constexpr int kHungAfterLooks = 10;
/// The same for a worker none of whose loops has begun: it may have a huge configuration to read.
inline constexpr int kLooksToBegin = 120;
/// The name under which the page's descriptor goes to the worker, beside the listeners.
inline constexpr const char* kHeartbeats = "heartbeats";

using Beats = std::array<std::uint64_t, kMaxLoops>;  ///< 0: that loop has not begun

/// Looks to a verdict. Pure.
class Watchdog {
 public:
  explicit Watchdog(int hung_after = kHungAfterLooks) : hung_after_(hung_after) {}
  /// To be called about once kBeatEvery. What is wrong with the worker, once it is.
  std::optional<std::string> look(Instant now, const Beats& beats);

 private:
  int hung_after_;
  Beats last_{};
  std::array<int, kMaxLoops> still_{};  // regular looks without a beat
  int unbegun_ = 0;
  std::optional<Instant> looked_;
};

/// The supervisor's end. The worker may write what it likes into the page, but not make it smaller
/// (memfd_create(2), file sealing), and numbers are all that is read there.
class HeartbeatPage {
 public:
  static Result<HeartbeatPage> make();
  /// For the worker; stays this object's.
  int descriptor() const { return memory_.get(); }
  Beats read() const;

 private:
  struct Unmap {
    void operator()(const void* page) const;
  };
  HeartbeatPage(Descriptor memory, const void* page) : memory_(std::move(memory)), page_(page) {}

  Descriptor memory_;
  std::unique_ptr<const void, Unmap> page_;
};

/// The worker's end; its pulses may be on different threads.
class Heartbeats {
 public:
  /// Maps what HeartbeatPage::descriptor() is here.
  static Result<std::unique_ptr<Heartbeats>> open(int descriptor);
  ~Heartbeats();
  Heartbeats(const Heartbeats&) = delete;
  Heartbeats& operator=(const Heartbeats&) = delete;

  /// `loop` is below kMaxLoops.
  void beat(unsigned loop);

 private:
  explicit Heartbeats(void* page) : page_(page) {}
  void* page_;
};

/// Beats for one loop from its construction until its end. Thread: the loop's.
class Pulse {
 public:
  Pulse(Clock& clock, Heartbeats& heartbeats, unsigned loop);

 private:
  void beat();
  Heartbeats& heartbeats_;
  unsigned loop_;
  std::unique_ptr<Timer> timer_;
};

}  // namespace meshnode::supervisor
