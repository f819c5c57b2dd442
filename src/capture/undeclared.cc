#include "capture/undeclared.h"

#include <fmt/format.h>

namespace meshnode::capture {

KnownPorts::KnownPorts(const Spec& spec)
    : ports_(spec.exclude_ports.begin(), spec.exclude_ports.end()) {
  for (const Enrolled& workload : spec.workloads) {
    ports_.insert(workload.ports.begin(), workload.ports.end());
  }
}

bool KnownPorts::leave_out(const SocketAddress& address) const {
  return address.ip.is_loopback() || is_own_port(address.port) || ports_.contains(address.port);
}

std::string in_words(const std::set<SocketAddress>& addresses) {
  std::string text;
  std::size_t named = 0;
  for (const SocketAddress& address : addresses) {
    if (named == kListenersNamed) {
      return text + fmt::format(" and {} more", addresses.size() - named);
    }
    text += (named++ == 0 ? "" : ", ") + address.text();
  }
  return text;
}

}  // namespace meshnode::capture
