#pragma once
/// Source ports for connections from this host's own addresses. Connection tracking remembers a
/// connection that was reset for ten seconds. A program that meets its 4-tuple again by then would
/// go on where that one was, past the rules that capture it, and be refused; and we, meeting one of
/// a program's, would be led to ourselves. Linux's connect() takes ports of the same parity as the
/// first of net.ipv4.ip_local_port_range while there are any (inet_hashtables.c), so ours have the
/// other. Thread: one loop.

#include <cstdint>
#include <string_view>
#include <vector>

namespace meshnode::io {

class OwnPorts {
 public:
  /// The two files of /proc/sys/net/ipv4 that are named so, and which share of the ports is this
  /// loop's: `share` of `shares`. `first` chooses where it begins.
  OwnPorts(std::string_view ip_local_port_range, std::string_view ip_local_reserved_ports,
           unsigned share, unsigned shares, std::uint64_t first);
  /// The next candidate, round the range, never a neighbour of the last; 0 when there is none: the
  /// kernel may choose.
  std::uint16_t next();

 private:
  std::vector<std::uint16_t> ports_;
  std::size_t stride_ = 1;  // coprime to their number: each comes once a round
  std::size_t at_ = 0;
};

}  // namespace meshnode::io
