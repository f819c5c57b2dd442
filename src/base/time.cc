#include <fmt/format.h>
#include <meshnode/time.h>

namespace meshnode {
namespace {

// Without the "Z".
std::string to_seconds(WallTime time) {
  auto day = std::chrono::floor<std::chrono::days>(time);
  std::chrono::year_month_day date(day);
  std::chrono::hh_mm_ss clock(std::chrono::floor<std::chrono::seconds>(time - day));
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                     clock.hours().count(), clock.minutes().count(), clock.seconds().count());
}

}  // namespace

std::string rfc3339(WallTime time) { return to_seconds(time) + "Z"; }

std::string rfc3339_millis(WallTime time) {
  auto since_epoch = std::chrono::floor<std::chrono::milliseconds>(time.time_since_epoch());
  auto part = since_epoch - std::chrono::floor<std::chrono::seconds>(since_epoch);
  return to_seconds(time) + fmt::format(".{:03}Z", part.count());
}

}  // namespace meshnode
