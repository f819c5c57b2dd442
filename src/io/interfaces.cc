#include "io/interfaces.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace meshnode::io {
namespace {
constexpr std::size_t kMaxAddresses = 1024;
}

Result<std::vector<IpAddress>> host_addresses() {
  std::vector<IpAddress> found;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) {
    return fail(ErrorCode::kUnavailable,
                std::string("the host's addresses: ") + std::strerror(errno));
  }
  for (const ifaddrs* at = all; at != nullptr && found.size() < kMaxAddresses; at = at->ifa_next) {
    const sockaddr* raw = at->ifa_addr;
    if (raw == nullptr || (at->ifa_flags & IFF_UP) == 0 ||
        (raw->sa_family != AF_INET && raw->sa_family != AF_INET6)) {
      continue;
    }
    const IpAddress ip = SocketAddress::from_sockaddr(*raw).ip;
    if (!ip.is_loopback() && !ip.is_link_local() &&
        std::find(found.begin(), found.end(), ip) == found.end()) {
      found.push_back(ip);
    }
  }
  freeifaddrs(all);
  return found;
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) {
    return "localhost";
  }
  return name.data();
}

}  // namespace meshnode::io
