#pragma once
/// Source ports for connections made in a client's name (design §6, source preservation). They
/// come from below the ephemeral range of every common system, and never equal a live
/// connection's between the same client and destination: a second connection with one 4-tuple
/// would make the first vanish. Thread: one loop.

#include <meshnode/address.h>
#include <cstdint>

namespace meshnode::io {

inline constexpr std::uint16_t kFirstSourcePort = 2048;
inline constexpr std::uint16_t kLastSourcePort = 32767;  // Linux clients start at 32768

class SourcePorts {
 public:
  /// Loops take disjoint shares, so that two never try the same port at once.
  SourcePorts(unsigned share, unsigned shares);
  /// Of another network namespace: `netlink` is a NETLINK_SOCK_DIAG socket from there, taken over.
  SourcePorts(unsigned share, unsigned shares, int netlink);
  ~SourcePorts();
  SourcePorts(const SourcePorts&) = delete;
  SourcePorts& operator=(const SourcePorts&) = delete;

  /// The next candidate, round the range, never a neighbour of the last.
  std::uint16_t next();
  /// Whether a socket with local `server` and remote `client` lives in this network namespace
  /// (sock_diag exact look-up, about 10 µs); true when the kernel would not say.
  bool in_use(const SocketAddress& client, const SocketAddress& server);

 private:
  unsigned share_;
  unsigned shares_;
  unsigned count_ = 0;   // ports of this share
  unsigned stride_ = 0;  // coprime to count_: every port comes once a round
  unsigned at_ = 0;
  int netlink_ = -1;
  std::uint32_t asked_ = 0;
};

}  // namespace meshnode::io
