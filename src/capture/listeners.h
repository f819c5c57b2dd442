#pragma once
/// The listening sockets that the capture rules lead to, as values; the supervisor opens exactly
/// these. All are wildcard: every workload's capture address (capture/spec.h) ends at the one
/// outbound listener, and TPROXY needs a listener that takes any local address. The INPUT backstop
/// (capture/rules.h) keeps strangers away from 15001 and 15006, not the bind address. Pure.
///
/// What an accepted socket of each says:
/// - "outbound4/6" (15001): getsockname() is the caller's capture address (slot_of() names the
///   workload), SO_ORIGINAL_DST (IP6T_SO_ORIGINAL_DST = 80 at SOL_IPV6) the destination. A local
///   address that is no capture address, or a destination that equals the local address, was
///   dialled directly: refuse it.
/// - "inbound4/6" (15006): a local port other than 15006 came by TPROXY from outside and
///   getsockname() is the destination; a local port of 15006 came from this host by REDIRECT and
///   SO_ORIGINAL_DST is the destination, which must not be 15006 itself.
/// - "tunnel4/6" (15008): HBONE; getsockname() is the destination address of the tunnel.

#include <meshnode/address.h>
#include <string>
#include <vector>

namespace meshnode::capture {

struct Listener {
  std::string name;
  Family family = Family::kV4;
  IpAddress address;  ///< to bind to
  std::uint16_t port = 0;
  /// IP_TRANSPARENT (SOL_IP) or IPV6_TRANSPARENT (SOL_IPV6) = 1 before bind(): without it TPROXY
  /// drops the connection. Needs CAP_NET_RAW or CAP_NET_ADMIN.
  bool transparent = false;
  bool operator==(const Listener&) const = default;
};

/// Both families, each with a socket of its own: IPV6_V6ONLY = 1 on the IPv6 ones, since an
/// IPv4-mapped address would hide the family from SO_ORIGINAL_DST. SO_REUSEADDR on all. A host
/// without IPv6 has none of the IPv6 ones.
std::vector<Listener> listeners();

}  // namespace meshnode::capture
