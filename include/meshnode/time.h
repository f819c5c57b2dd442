#pragma once
/// Time as values. Instant is monotonic and never compared across processes; WallTime is UTC.

#include <chrono>
#include <string>

namespace meshnode {

using Duration = std::chrono::nanoseconds;

/// A point on the monotonic clock of the Clock seam (virtual in the simulator).
struct Instant {
  Duration since_start{};
  auto operator<=>(const Instant&) const = default;
};
inline Instant operator+(Instant at, Duration by) { return {at.since_start + by}; }
inline Duration operator-(Instant a, Instant b) { return a.since_start - b.since_start; }

/// UTC, for certificates, logs and status; may jump.
using WallTime = std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>;

/// RFC 3339 UTC, seconds: "2026-01-02T03:04:05Z".
std::string rfc3339(WallTime time);
/// RFC 3339 UTC with milliseconds, for logs: "2026-01-02T03:04:05.678Z".
std::string rfc3339_millis(WallTime time);

}  // namespace meshnode
