#include <arpa/inet.h>
#include <meshnode/address.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/escape.h"

namespace meshnode {
namespace {

constexpr std::size_t kMaxAddressText = 45;  // the longest IPv6 text form
constexpr std::array<std::uint8_t, 12> kMappedPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

std::size_t mix(std::size_t seed, std::uint64_t value) {
  std::uint64_t x = seed ^ value;
  x = (x ^ (x >> 33U)) * 0xff51afd7ed558ccdULL;
  x = (x ^ (x >> 33U)) * 0xc4ceb9fe1a85ec53ULL;
  return static_cast<std::size_t>(x ^ (x >> 33U));
}

tl::unexpected<Error> not_an_address(std::string_view text) {
  return fail(ErrorCode::kInvalid,
              "not an IP address: " + quoted(text) + "; write it like 10.0.0.1 or 2001:db8::1");
}

tl::unexpected<Error> not_a_socket_address(std::string_view text) {
  return fail(ErrorCode::kInvalid, "not an address and port: " + quoted(text) +
                                       "; write it like 10.0.0.1:80 or [2001:db8::1]:80");
}

bool parse_port(std::string_view text, std::uint16_t& port) {
  if (text.empty() || text.size() > 5 || (text.size() > 1 && text[0] == '0')) return false;
  const char* end = text.data() + text.size();
  auto [stop, failure] = std::from_chars(text.data(), end, port);
  return failure == std::errc() && stop == end;
}

}  // namespace

IpAddress IpAddress::v4(std::array<std::uint8_t, 4> bytes) {
  IpAddress ip;
  std::copy(bytes.begin(), bytes.end(), ip.bytes_.begin());
  return ip;
}

IpAddress IpAddress::v6(std::array<std::uint8_t, 16> bytes) {
  if (std::equal(kMappedPrefix.begin(), kMappedPrefix.end(), bytes.begin())) {
    return v4({bytes[12], bytes[13], bytes[14], bytes[15]});
  }
  IpAddress ip;
  ip.family_ = Family::kV6;
  ip.bytes_ = bytes;
  return ip;
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
  std::array<char, kMaxAddressText + 1> copy{};
  if (text.empty() || text.size() > kMaxAddressText || text.find('\0') != text.npos) {
    return not_an_address(text);
  }
  std::copy(text.begin(), text.end(), copy.begin());
  if (text.find(':') == text.npos) {
    // inet_pton refuses leading zeros, short forms and anything but decimal.
    std::array<std::uint8_t, 4> raw{};
    if (inet_pton(AF_INET, copy.data(), raw.data()) != 1) return not_an_address(text);
    return v4(raw);
  }
  std::array<std::uint8_t, 16> raw{};
  if (inet_pton(AF_INET6, copy.data(), raw.data()) != 1) return not_an_address(text);
  return v6(raw);
}

bool IpAddress::is_loopback() const {
  if (is_v4()) return bytes_[0] == 127;
  return std::all_of(bytes_.begin(), bytes_.end() - 1, [](auto b) { return b == 0; }) &&
         bytes_[15] == 1;
}

bool IpAddress::is_unspecified() const {
  return std::all_of(bytes_.begin(), bytes_.end(), [](auto b) { return b == 0; });
}

bool IpAddress::is_link_local() const {
  if (is_v4()) return bytes_[0] == 169 && bytes_[1] == 254;
  return bytes_[0] == 0xfe && (bytes_[1] & 0xc0U) == 0x80;
}

bool IpAddress::is_multicast() const {
  return is_v4() ? (bytes_[0] & 0xf0U) == 0xe0 : bytes_[0] == 0xff;
}

std::string IpAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> out{};
  if (is_v4()) {
    inet_ntop(AF_INET, bytes_.data(), out.data(), out.size());
    return out.data();
  }
  // glibc writes the deprecated ::a.b.c.d form for IPv4-compatible addresses; RFC 5952 §5 keeps
  // the mixed form for well-known prefixes only.
  bool compatible = std::all_of(bytes_.begin(), bytes_.begin() + 12, [](auto b) { return b == 0; });
  unsigned high = static_cast<unsigned>(bytes_[12]) << 8U | bytes_[13];
  unsigned low = static_cast<unsigned>(bytes_[14]) << 8U | bytes_[15];
  if (compatible && high != 0) {
    auto end = std::to_chars(out.data() + 2, out.data() + out.size(), high, 16).ptr;
    out[0] = out[1] = *end++ = ':';
    std::to_chars(end, out.data() + out.size(), low, 16);
    return out.data();
  }
  inet_ntop(AF_INET6, bytes_.data(), out.data(), out.size());
  return out.data();
}

Result<IpPrefix> IpPrefix::parse(std::string_view text) {
  const auto wrong = [&](std::string_view why) {
    return fail(ErrorCode::kInvalid,
                quoted(text) + " is not an address block: " + std::string(why));
  };
  const std::size_t slash = text.find('/');
  if (slash == text.npos) return wrong("write it like 10.0.0.0/8 or fd00::/8");
  auto base = IpAddress::parse(text.substr(0, slash));
  if (!base) return wrong("write it like 10.0.0.0/8 or fd00::/8");
  if (base->is_v4() && text.find(':') != text.npos) return wrong("write it as an IPv4 block");
  const std::string_view digits = text.substr(slash + 1);
  std::uint16_t length = 0;  // "0" to "65535" without leading zeros, as a port is written
  const std::size_t bits = base->bytes().size() * 8;
  if (!parse_port(digits, length) || length > bits) {
    return wrong("the length is not 0 to " + std::to_string(bits));
  }
  IpPrefix prefix;
  prefix.length_ = length;
  std::array<std::uint8_t, 16> kept{};
  const Bytes bytes = base->bytes();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::size_t inside = std::clamp<std::size_t>(length, i * 8, i * 8 + 8) - i * 8;
    kept[i] = static_cast<std::uint8_t>(bytes[i] & (0xff00U >> inside));
  }
  prefix.base_ = base->is_v4() ? IpAddress::v4({kept[0], kept[1], kept[2], kept[3]})
                               : IpAddress::v6(kept);
  if (prefix.base_ != *base) return wrong("it has bits beyond its length; write " + prefix.text());
  return prefix;
}

std::string IpPrefix::text() const { return base_.text() + "/" + std::to_string(length_); }

Result<SocketAddress> SocketAddress::parse(std::string_view text) {
  std::size_t colon = text.rfind(':');
  if (colon == text.npos) return not_a_socket_address(text);
  SocketAddress address;
  std::string_view host = text.substr(0, colon);
  if (!parse_port(text.substr(colon + 1), address.port)) return not_a_socket_address(text);
  bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (bracketed != (host.find(':') != host.npos)) return not_a_socket_address(text);
  auto ip = IpAddress::parse(host);
  if (!ip) return not_a_socket_address(text);
  address.ip = *ip;
  return address;
}

SocketAddress SocketAddress::from_sockaddr(const sockaddr& raw) {
  SocketAddress address;
  if (raw.sa_family == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, &raw, sizeof in);
    std::array<std::uint8_t, 4> bytes{};
    std::memcpy(bytes.data(), &in.sin_addr, bytes.size());
    return {IpAddress::v4(bytes), ntohs(in.sin_port)};
  }
  if (raw.sa_family == AF_INET6) {
    sockaddr_in6 in{};
    std::memcpy(&in, &raw, sizeof in);
    std::array<std::uint8_t, 16> bytes{};
    std::memcpy(bytes.data(), &in.sin6_addr, bytes.size());
    return {IpAddress::v6(bytes), ntohs(in.sin6_port)};
  }
  return address;
}

unsigned SocketAddress::to_sockaddr(sockaddr_storage& raw) const {
  raw = {};
  if (ip.is_v4()) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    std::memcpy(&in.sin_addr, ip.bytes().data(), 4);
    std::memcpy(&raw, &in, sizeof in);
    return sizeof in;
  }
  sockaddr_in6 in{};
  in.sin6_family = AF_INET6;
  in.sin6_port = htons(port);
  std::memcpy(&in.sin6_addr, ip.bytes().data(), 16);
  std::memcpy(&raw, &in, sizeof in);
  return sizeof in;
}

std::string SocketAddress::text() const {
  std::string host = ip.text();
  return (ip.is_v4() ? host : "[" + host + "]") + ":" + std::to_string(port);
}

std::size_t hash_value(const IpAddress& ip) {
  std::array<std::uint64_t, 2> words{};
  std::memcpy(words.data(), ip.bytes().data(), ip.bytes().size());
  return mix(mix(ip.is_v4() ? 4 : 6, words[0]), words[1]);
}

std::size_t hash_value(const SocketAddress& address) {
  return mix(hash_value(address.ip), address.port);
}

}  // namespace meshnode
