#pragma once
/// An HTTP/2 peer's frames, made by hand so that they may be wrong (RFC 9113 §4.1, RFC 7541 §6.2.2:
/// every field a literal that is not indexed). Thread: values.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace meshnode::fuzz {

enum Frame : std::uint8_t {
  kData = 0,
  kHeaders = 1,
  kPriority = 2,
  kReset = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindow = 8,
  kContinuation = 9
};
inline constexpr std::uint8_t kEndStream = 1;  // and the ACK of SETTINGS and PING
inline constexpr std::uint8_t kEndHeaders = 4;

inline std::string octets(std::uint64_t value, unsigned count) {
  std::string out;
  while (count-- > 0) out.push_back(static_cast<char>(value >> (8 * count)));
  return out;
}

inline std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t stream,
                         std::string_view payload) {
  std::string out = octets(payload.size(), 3) + octets(type, 1) + octets(flags, 1);
  return out + octets(stream, 4) + std::string(payload);
}

inline std::string hpack_length(std::size_t size) {
  if (size < 127) return octets(size, 1);
  std::string out = octets(127, 1);
  for (size -= 127; size >= 128; size >>= 7) out += octets(128 | (size & 127), 1);
  return out + octets(size, 1);
}

inline std::string field(std::string_view name, std::string_view value) {
  return octets(0, 1) + hpack_length(name.size()) + std::string(name) + hpack_length(value.size()) +
         std::string(value);
}

inline std::string fields(
    std::initializer_list<std::pair<std::string_view, std::string_view>> all) {
  std::string out;
  for (const auto& [name, value] : all) out += field(name, value);
  return out;
}

}  // namespace meshnode::fuzz
