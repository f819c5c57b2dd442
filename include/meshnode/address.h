#pragma once
/// IP and socket addresses as values. Text forms follow RFC 5952 (IPv6) and dotted quad; an IPv6
/// socket address is written "[v6]:port". IPv4-mapped IPv6 addresses are normalised to IPv4.

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <meshnode/bytes.h>
#include <meshnode/result.h>
#include <string>
#include <string_view>

struct sockaddr;
struct sockaddr_storage;

namespace meshnode {

enum class Family : std::uint8_t { kV4, kV6 };

class IpAddress {
 public:
  IpAddress() = default;  ///< 0.0.0.0
  static IpAddress v4(std::array<std::uint8_t, 4> bytes);
  static IpAddress v6(std::array<std::uint8_t, 16> bytes);
  /// The only way from text. No zone ids, no leading zeros in IPv4 parts, no prefixes.
  static Result<IpAddress> parse(std::string_view text);

  Family family() const { return family_; }
  bool is_v4() const { return family_ == Family::kV4; }
  bool is_loopback() const;     ///< 127.0.0.0/8 or ::1
  bool is_unspecified() const;  ///< 0.0.0.0 or ::
  bool is_link_local() const;   ///< 169.254.0.0/16 or fe80::/10
  bool is_multicast() const;
  Bytes bytes() const { return {bytes_.data(), is_v4() ? 4U : 16U}; }
  std::string text() const;

  auto operator<=>(const IpAddress&) const = default;

 private:
  Family family_ = Family::kV4;
  std::array<std::uint8_t, 16> bytes_{};
};

/// A block of addresses (CIDR, RFC 4632), all bits beyond the prefix zero.
class IpPrefix {
 public:
  IpPrefix() = default;  ///< 0.0.0.0/0
  /// "10.0.0.0/8" or "fd00::/8"; an address alone is no prefix. No bits beyond the length.
  static Result<IpPrefix> parse(std::string_view text);

  const IpAddress& base() const { return base_; }
  Family family() const { return base_.family(); }
  unsigned length() const { return length_; }
  std::string text() const;

  auto operator<=>(const IpPrefix&) const = default;

 private:
  IpAddress base_;
  unsigned length_ = 0;
};

struct SocketAddress {
  IpAddress ip;
  std::uint16_t port = 0;

  /// "1.2.3.4:80" or "[::1]:80"; the port is mandatory, 0 to 65535, no leading zeros.
  static Result<SocketAddress> parse(std::string_view text);
  static SocketAddress from_sockaddr(const sockaddr& raw);
  /// Returns the length used.
  unsigned to_sockaddr(sockaddr_storage& raw) const;
  std::string text() const;

  auto operator<=>(const SocketAddress&) const = default;
};

std::size_t hash_value(const IpAddress& ip);
std::size_t hash_value(const SocketAddress& address);

}  // namespace meshnode

template <>
struct std::hash<meshnode::IpAddress> {
  std::size_t operator()(const meshnode::IpAddress& ip) const { return meshnode::hash_value(ip); }
};
template <>
struct std::hash<meshnode::SocketAddress> {
  std::size_t operator()(const meshnode::SocketAddress& a) const {
    return meshnode::hash_value(a);
  }
};
