#include "io/source_port.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <numeric>

namespace meshnode::io {
namespace {

// Ports given out one after another lie far apart: connections opened together and held must not
// be one block that every later round runs into.
constexpr unsigned kStride = 12'289;

/// What the kernel says to the request of that number, which it has said by the time send()
/// returns; false when it did not. Whoever is root in the namespace may have sent something too.
bool take_answer(int netlink, std::uint32_t number, std::array<char, 8192>& answer) {
  for (;;) {
    sockaddr_nl from{};
    socklen_t length = sizeof from;
    const ssize_t size = recvfrom(netlink, answer.data(), answer.size(), MSG_DONTWAIT,
                                  reinterpret_cast<sockaddr*>(&from), &length);
    if (size < 0) return false;
    const auto* reply = reinterpret_cast<const nlmsghdr*>(answer.data());
    if (from.nl_pid == 0 && mnl_nlmsg_ok(reply, static_cast<int>(size)) &&
        reply->nlmsg_seq == number) {
      return true;
    }
  }
}

}  // namespace

SourcePorts::SourcePorts(unsigned share, unsigned shares)
    : SourcePorts(share, shares,
                  socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)) {}

SourcePorts::SourcePorts(unsigned share, unsigned shares, int netlink)
    : share_(share), shares_(std::max(shares, 1U)), netlink_(netlink) {
  const unsigned range = kLastSourcePort - kFirstSourcePort + 1U;
  count_ = (range - share_ + shares_ - 1) / shares_;
  stride_ = kStride % count_;
  while (std::gcd(stride_, count_) != 1) {
    ++stride_;
  }
  // From now on it takes only what the kernel says.
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  static_cast<void>(
      connect(netlink_, reinterpret_cast<const sockaddr*>(&kernel), sizeof kernel));
}

SourcePorts::~SourcePorts() {
  if (netlink_ >= 0) {
    close(netlink_);
  }
}

std::uint16_t SourcePorts::next() {
  const auto port = static_cast<std::uint16_t>(kFirstSourcePort + share_ + at_ * shares_);
  at_ = (at_ + stride_) % count_;
  return port;
}

bool SourcePorts::in_use(const SocketAddress& client, const SocketAddress& server) {
  std::array<char, 512> request{};
  nlmsghdr* header = mnl_nlmsg_put_header(request.data());
  header->nlmsg_type = SOCK_DIAG_BY_FAMILY;
  header->nlmsg_flags = NLM_F_REQUEST;
  header->nlmsg_seq = ++asked_;
  auto* ask =
      static_cast<inet_diag_req_v2*>(mnl_nlmsg_put_extra_header(header, sizeof(inet_diag_req_v2)));
  ask->sdiag_family = client.ip.is_v4() ? AF_INET : AF_INET6;
  ask->sdiag_protocol = IPPROTO_TCP;
  ask->idiag_states = 0xffffffffU;
  ask->id.idiag_sport = htons(server.port);
  ask->id.idiag_dport = htons(client.port);
  std::memcpy(ask->id.idiag_src, server.ip.bytes().data(), server.ip.bytes().size());
  std::memcpy(ask->id.idiag_dst, client.ip.bytes().data(), client.ip.bytes().size());
  ask->id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
  ask->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  if (send(netlink_, request.data(), header->nlmsg_len, 0) < 0) {
    return true;
  }
  std::array<char, 8192> answer{};
  if (!take_answer(netlink_, asked_, answer)) {
    return true;
  }
  const auto* reply = reinterpret_cast<const nlmsghdr*>(answer.data());
  if (reply->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
      mnl_nlmsg_get_payload_len(reply) >= sizeof(inet_diag_msg)) {
    // An exact look-up falls back to a listener of that port: only an equal remote end counts.
    const auto* found = static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(reply));
    return found->id.idiag_dport == htons(client.port);
  }
  if (reply->nlmsg_type == NLMSG_ERROR && mnl_nlmsg_get_payload_len(reply) >= sizeof(nlmsgerr)) {
    const auto* error = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(reply));
    return error->error != -ENOENT;
  }
  return true;
}

}  // namespace meshnode::io
