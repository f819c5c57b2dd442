#pragma once
/// HBONE's request header fields as values: what we send with a CONNECT and what we accept
/// (ztunnel's conventions). Pure; every input may come from a hostile peer.

#include <meshnode/address.h>
#include <cstdint>
#include <string>

#include "proxy/hbone_session.h"
#include "snapshot/snapshot.h"

namespace meshnode::proxy {

/// `random` makes the traceparent (W3C Trace Context level 1 §3.2, not sampled).
ConnectRequest make_connect(const SocketAddress& destination, const SocketAddress& source,
                            const snapshot::Party& caller, const std::string& service_host,
                            std::uint64_t random_high, std::uint64_t random_low);

/// The authority as a literal address and port; host names are no endpoints of ours.
Result<SocketAddress> parse_authority(const std::string& authority);

/// The `host=` of a forwarded field (RFC 7239 §4), for telemetry only; empty when there is none or
/// it is no DNS name.
std::string forwarded_host(const std::string& forwarded);

}  // namespace meshnode::proxy
