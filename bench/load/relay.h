#pragma once
/// The floor under every user-space proxy: bytes moved between two sockets, and nothing else. A
/// pair of these is what a pair of proxies would cost if TLS, framing, policy and telemetry were
/// free.

#include <netinet/in.h>

#include <cstdint>

namespace meshnode::bench {

/// One thread; serves until the process is ended.
void relay(std::uint16_t port, const sockaddr_in& to);

}  // namespace meshnode::bench
