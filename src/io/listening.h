#pragma once
/// Who listens on this host's TCP ports, as the kernel tells it (sock_diag(7)). Thread: any; a call
/// takes some ten microseconds and as long again for every thousand listeners.

#include <meshnode/address.h>
#include <meshnode/result.h>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace meshnode::io {

struct ListeningSocket {
  SocketAddress address;
  std::uint32_t uid = 0;     ///< of whoever created the socket
  std::uint64_t cgroup = 0;  ///< inode of its cgroup2 directory; 0 when the kernel does not say
};

inline constexpr std::size_t kMaxListening = 20'000;  ///< more of a family are not looked at
inline constexpr std::size_t kMaxCgroupTree = 10'000;

/// Of the network namespace the calling thread is in, no more than `most` of each family.
Result<std::vector<ListeningSocket>> listening_sockets(std::size_t most = kMaxListening);

/// The inodes of the cgroup at `path` below the cgroup2 mount and of all within it; empty when it
/// does not exist.
std::set<std::uint64_t> cgroup_tree(const std::string& path);

}  // namespace meshnode::io
