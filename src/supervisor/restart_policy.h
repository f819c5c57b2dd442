#pragma once
/// When a dead worker is replaced: at once, unless workers keep dying as soon as they start. Pure.

#include <meshnode/time.h>
#include <algorithm>

namespace meshnode::supervisor {

class RestartPolicy {
 public:
  /// A worker that lived this long was not a bad start.
  static constexpr Duration kSettled = std::chrono::seconds(1);
  static constexpr Duration kFirstDelay = std::chrono::milliseconds(100);
  static constexpr Duration kLongestDelay = std::chrono::seconds(1);

  /// How long to wait before the next start after a worker that lived for `lifetime` has died:
  /// nothing for the first, then 100 ms doubling to 1 s.
  Duration next_delay(Duration lifetime) {
    if (lifetime >= kSettled) delay_ = Duration::zero();
    const Duration wait = delay_;
    delay_ = wait == Duration::zero() ? kFirstDelay : std::min(wait * 2, kLongestDelay);
    return wait;
  }

 private:
  Duration delay_ = Duration::zero();
};

}  // namespace meshnode::supervisor
