#include "io/own_ports.h"

#include <bitset>
#include <charconv>
#include <numeric>
#include <optional>
#include <utility>

namespace meshnode::io {
namespace {

constexpr std::size_t kStride = 4'099;

std::optional<unsigned> take_number(std::string_view& text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value > 65'535) {
    return std::nullopt;
  }
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

/// "32768\t60999\n", and the elements of "8080,9148-9150\n".
std::optional<std::pair<unsigned, unsigned>> take_range(std::string_view& text, char between) {
  const auto low = take_number(text);
  if (!low || !text.starts_with(between)) {
    return low ? std::optional(std::pair(*low, *low)) : std::nullopt;
  }
  text.remove_prefix(1);
  const auto high = take_number(text);
  return high ? std::optional(std::pair(*low, *high)) : std::nullopt;
}

std::bitset<65'536> reserved_in(std::string_view text) {
  std::bitset<65'536> reserved;
  while (const auto range = take_range(text, '-')) {
    for (unsigned port = range->first; port <= range->second; ++port) {
      reserved.set(port);
    }
    if (text.starts_with(',')) {
      text.remove_prefix(1);
    }
  }
  return reserved;
}

}  // namespace

OwnPorts::OwnPorts(std::string_view ip_local_port_range, std::string_view ip_local_reserved_ports,
                   unsigned share, unsigned shares, std::uint64_t first) {
  const auto range = take_range(ip_local_port_range, '\t');
  if (!range) {
    return;
  }
  const std::bitset<65'536> reserved = reserved_in(ip_local_reserved_ports);
  for (unsigned port = range->first + 1; port <= range->second; port += 2) {
    if (port / 2 % shares == share && !reserved.test(port)) {
      ports_.push_back(static_cast<std::uint16_t>(port));
    }
  }
  if (!ports_.empty()) {
    stride_ = kStride;
    while (std::gcd(ports_.size(), stride_) != 1) {
      ++stride_;
    }
    at_ = first % ports_.size();
  }
}

std::uint16_t OwnPorts::next() {
  if (ports_.empty()) {
    return 0;
  }
  at_ = (at_ + stride_) % ports_.size();
  return ports_[at_];
}

}  // namespace meshnode::io
