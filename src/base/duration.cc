#include "base/duration.h"

#include <array>
#include <cstdint>

#include "base/escape.h"

namespace meshnode {
namespace {

constexpr std::size_t kMaxText = 32;

struct Unit {
  std::string_view name;
  std::int64_t nanos;
};

// Longer names first, so that "ms" is not read as "m".
constexpr std::array<Unit, 6> kUnits = {{{"ns", 1},
                                         {"us", 1'000},
                                         {"ms", 1'000'000},
                                         {"s", 1'000'000'000},
                                         {"m", 60'000'000'000},
                                         {"h", 3'600'000'000'000}}};

const Unit* take_unit(std::string_view& rest) {
  for (const Unit& unit : kUnits) {
    if (rest.starts_with(unit.name)) {
      rest.remove_prefix(unit.name.size());
      return &unit;
    }
  }
  return nullptr;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Adds `by`, or says that the sum does not fit.
bool add(std::int64_t& sum, std::int64_t by) { return !__builtin_add_overflow(sum, by, &sum); }

// The digits at the front of `rest`, removed from it.
std::string_view take_digits(std::string_view& rest) {
  std::size_t count = 0;
  while (count < rest.size() && is_digit(rest[count])) ++count;
  std::string_view digits = rest.substr(0, count);
  rest.remove_prefix(count);
  return digits;
}

bool to_number(std::string_view digits, std::int64_t& value) {
  value = 0;
  for (char digit : digits) {
    if (__builtin_mul_overflow(value, 10, &value) || !add(value, digit - '0')) return false;
  }
  return true;
}

// One number and unit from the front of `rest` onto `sum`.
bool take_term(std::string_view& rest, std::int64_t& sum) {
  std::string_view digits = take_digits(rest);
  std::int64_t whole = 0;
  if (digits.empty() || !to_number(digits, whole)) return false;
  std::string_view decimals;
  if (!rest.empty() && rest.front() == '.') {
    rest.remove_prefix(1);
    decimals = take_digits(rest);
    if (decimals.empty()) return false;
    decimals = decimals.substr(0, decimals.find_last_not_of('0') + 1);
  }
  const Unit* unit = take_unit(rest);
  std::int64_t part = 0;
  std::int64_t scale = 1;
  if (unit == nullptr || !to_number(decimals, part)) return false;
  for (std::size_t i = 0; i < decimals.size(); ++i) {
    if (__builtin_mul_overflow(scale, 10, &scale)) return false;
  }
  // Less than a whole nanosecond is refused, not rounded.
  std::int64_t nanos = 0;
  if (__builtin_mul_overflow(part, unit->nanos, &part) || part % scale != 0) return false;
  if (__builtin_mul_overflow(whole, unit->nanos, &nanos)) return false;
  return add(nanos, part / scale) && add(sum, nanos);
}

}  // namespace

Result<Duration> parse_duration(std::string_view text, Duration min, Duration max) {
  std::int64_t sum = 0;
  bool good = !text.empty() && text.size() <= kMaxText;
  std::string_view rest = text == "0" ? std::string_view() : text;
  while (good && !rest.empty()) good = take_term(rest, sum);
  if (!good) {
    return fail(ErrorCode::kInvalid,
                "not a duration: " + quoted(text) + "; write it like 24h, 1h30m, 1.5s or 100ms");
  }
  Duration value(sum);
  if (value < min || value > max) {
    return fail(ErrorCode::kInvalid, "duration " + quoted(text) + " is not between " +
                                         duration_text(min) + " and " + duration_text(max));
  }
  return value;
}

std::string duration_text(Duration duration) {
  if (duration == Duration::zero()) return "0s";
  std::string out = duration < Duration::zero() ? "-" : "";
  auto count = static_cast<std::uint64_t>(duration.count());
  std::uint64_t left = duration < Duration::zero() ? 0 - count : count;
  constexpr std::array<std::size_t, 6> kLargestFirst = {5, 4, 3, 2, 1, 0};
  for (std::size_t index : kLargestFirst) {
    auto nanos = static_cast<std::uint64_t>(kUnits[index].nanos);
    if (left < nanos) continue;
    out += std::to_string(left / nanos);
    out += kUnits[index].name;
    left %= nanos;
  }
  return out;
}

}  // namespace meshnode
