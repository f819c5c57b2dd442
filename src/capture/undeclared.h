#pragma once
/// Which addresses that somebody listens at no Workload declares, and how people are told of them.
/// Pure.

#include <meshnode/address.h>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

#include "capture/spec.h"

namespace meshnode::capture {

/// Loopback, meshnode's own ports and those that `spec` declares or excludes are nobody's concern.
class KnownPorts {
 public:
  explicit KnownPorts(const Spec& spec);
  bool leave_out(const SocketAddress& address) const;

 private:
  std::set<std::uint16_t> ports_;
};

inline constexpr std::size_t kListenersNamed = 5;

/// The first kListenersNamed and how many more.
std::string in_words(const std::set<SocketAddress>& addresses);

}  // namespace meshnode::capture
