#include "io/kernel_list.h"

#include <libmnl/libmnl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "io/loop.h"

namespace meshnode::io {
namespace {

Error failed(int cause) { return {ErrorCode::kUnavailable, std::strerror(cause)}; }

}  // namespace

KernelList::KernelList(int protocol, Duration within)
    : fd_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)),
      last_(monotonic_now() + within) {}

KernelList::~KernelList() {
  if (fd_ >= 0) ::close(fd_);
}

Status KernelList::ask(const nlmsghdr& request) {
  // Connected, it takes only what the kernel says.
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  const timeval patience{1, 0};
  if (fd_ < 0 ||
      ::connect(fd_, reinterpret_cast<const sockaddr*>(&kernel), sizeof kernel) != 0 ||
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0 ||
      ::send(fd_, &request, request.nlmsg_len, 0) < 0) {
    return fail(failed(errno));
  }
  interrupted_ = false;
  left_ = 0;
  return {};
}

Status KernelList::receive() {
  for (;;) {
    sockaddr_nl from{};
    socklen_t size = sizeof from;
    const ssize_t got = ::recvfrom(fd_, answer_.data(), answer_.size(), 0,
                                   reinterpret_cast<sockaddr*>(&from), &size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(failed(errno));
    if (monotonic_now() > last_) return fail(failed(ETIMEDOUT));
    if (from.nl_pid != 0) continue;  // it came before the socket was connected
    at_ = reinterpret_cast<const nlmsghdr*>(answer_.data());
    left_ = static_cast<int>(got);
    return {};
  }
}

Result<const nlmsghdr*> KernelList::next() {
  while (!mnl_nlmsg_ok(at_, left_)) {
    if (auto received = receive(); !received) return fail(received.error());
  }
  const nlmsghdr* message = at_;
  at_ = mnl_nlmsg_next(message, &left_);
  if ((message->nlmsg_flags & NLM_F_DUMP_INTR) != 0) interrupted_ = true;
  if (message->nlmsg_type == NLMSG_DONE) return nullptr;
  if (message->nlmsg_type == NLMSG_ERROR &&
      mnl_nlmsg_get_payload_len(message) >= sizeof(nlmsgerr)) {
    return fail(failed(-static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(message))->error));
  }
  return message;
}

}  // namespace meshnode::io
