#pragma once
/// Durations as people and Kubernetes-shaped YAML write them: Go's form ("24h", "1h30m", "100ms")
/// and protobuf's ("1.5s"). Thread: pure functions.

#include <meshnode/result.h>
#include <meshnode/time.h>
#include <string>
#include <string_view>

namespace meshnode {

/// One or more of a decimal number and a unit (ns, us, ms, s, m, h), no sign, no spaces; at most
/// 32 characters; "0" alone needs no unit. The value must lie within [min, max]; kInvalid else.
Result<Duration> parse_duration(std::string_view text, Duration min, Duration max);

/// The shortest exact form with whole numbers, parsed back by parse_duration(): "1h30m", "1s500ms",
/// "0s". Negative durations print as "-" and the rest.
std::string duration_text(Duration duration);

}  // namespace meshnode
