#pragma once
/// GET /status of the admin API as a page for people. Pure.

#include <meshnode/result.h>
#include <meshnode/time.h>
#include <optional>
#include <string>
#include <string_view>

namespace meshnode::cli {

struct StatusPage {
  bool healthy = false;
  std::string text;
};

/// `json` is of the contract's `status -o json` shape; what is missing from it is left out of the
/// page, what is unknown is ignored. All text is escaped: it may carry what a stranger chose.
/// kInvalid when it is not such an object.
Result<StatusPage> status_page(std::string_view json, WallTime now);

/// RFC 3339 UTC with whole seconds, as in the contract; nothing for anything else.
std::optional<WallTime> parse_rfc3339(std::string_view text);

/// "12 s", "5 min", "3 h 20 min", "4 d 2 h": whole units, rounded down, two at most.
std::string rough(Duration duration);

}  // namespace meshnode::cli
