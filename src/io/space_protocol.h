#pragma once
/// What a proxy loop asks the supervisor for, over sockets.sock (AF_UNIX, SOCK_SEQPACKET, one
/// message each way, answers in the order of the requests): sockets inside the network namespace of
/// a workload, which the worker may not enter. Both ends are of one build on one host, so numbers
/// are as the processor has them. Values.

#include <cstddef>
#include <cstdint>

namespace meshnode::io {

enum class SpaceSocket : std::uint8_t {
  kTcp4 = 4,
  kTcp6 = 6,
  kDiag = 1,  ///< NETLINK_SOCK_DIAG
};
inline constexpr std::size_t kSpaceKinds = 3;

/// Sockets of one request.
inline constexpr std::uint8_t kMaxSpaceSockets = 32;

struct SpaceRequest {
  std::uint16_t slot = 0;
  std::uint8_t kind = 0;   ///< a SpaceSocket
  std::uint8_t count = 0;  ///< 1 to kMaxSpaceSockets
};

/// With `error` 0 the descriptors come along: as many as were asked for, or fewer.
struct SpaceAnswer {
  SpaceRequest request;
  std::uint32_t error = 0;  ///< errno: ENOENT for a slot that has no namespace in force
};

}  // namespace meshnode::io
