#include "io/listening.h"

#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "io/host_kernel.h"

namespace meshnode::io {
namespace {

/// A sock_diag socket, closed with it.
class Diag {
 public:
  Diag() : fd_(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)) {
    if (fd_ < 0) return;
    const timeval within{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &within, sizeof(within));
  }
  ~Diag() {
    if (fd_ >= 0) ::close(fd_);
  }
  Diag(const Diag&) = delete;
  Diag& operator=(const Diag&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

Error failure(const char* what) {
  return {ErrorCode::kUnavailable,
          fmt::format("the kernel does not list listening sockets: {}: {}", what,
                      std::strerror(errno))};
}

Status ask(const Diag& diag, std::uint8_t family) {
  std::array<char, 256> request{};
  nlmsghdr* header = mnl_nlmsg_put_header(request.data());
  header->nlmsg_type = SOCK_DIAG_BY_FAMILY;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  auto* wanted =
      static_cast<inet_diag_req_v2*>(mnl_nlmsg_put_extra_header(header, sizeof(inet_diag_req_v2)));
  wanted->sdiag_family = family;
  wanted->sdiag_protocol = IPPROTO_TCP;
  wanted->idiag_states = 1U << TCP_LISTEN;
  if (::send(diag.fd(), request.data(), header->nlmsg_len, 0) < 0) return fail(failure("send"));
  return {};
}

ListeningSocket socket_of(const nlmsghdr* message) {
  const auto* found = static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(message));
  ListeningSocket socket;
  if (found->idiag_family == AF_INET) {
    std::array<std::uint8_t, 4> bytes{};
    std::memcpy(bytes.data(), found->id.idiag_src, bytes.size());
    socket.address.ip = IpAddress::v4(bytes);
  } else {
    std::array<std::uint8_t, 16> bytes{};
    std::memcpy(bytes.data(), found->id.idiag_src, bytes.size());
    socket.address.ip = IpAddress::v6(bytes);
  }
  socket.address.port = ntohs(found->id.idiag_sport);
  socket.uid = found->idiag_uid;
  const auto take_cgroup = [](const nlattr* attribute, void* into) -> int {
    if (mnl_attr_get_type(attribute) == INET_DIAG_CGROUP_ID &&
        mnl_attr_get_payload_len(attribute) == sizeof(std::uint64_t)) {
      *static_cast<std::uint64_t*>(into) = mnl_attr_get_u64(attribute);
    }
    return MNL_CB_OK;
  };
  mnl_attr_parse(message, sizeof(inet_diag_msg), take_cgroup, &socket.cgroup);
  return socket;
}

/// Reads the answer to one ask(), up to `most` of all.
Status collect(const Diag& diag, std::vector<ListeningSocket>& all, std::size_t most) {
  std::vector<char> answer(std::size_t{64} * 1024);
  while (all.size() < most) {
    const ssize_t got = ::recv(diag.fd(), answer.data(), answer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return fail(failure("recv"));
    int left = static_cast<int>(got);
    for (auto* message = reinterpret_cast<const nlmsghdr*>(answer.data());
         mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_type == NLMSG_DONE) return {};
      if (message->nlmsg_type == NLMSG_ERROR) {
        errno = -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(message))->error;
        return fail(failure("dump"));
      }
      if (message->nlmsg_type == SOCK_DIAG_BY_FAMILY && all.size() < most &&
          mnl_nlmsg_get_payload_len(message) >= sizeof(inet_diag_msg)) {
        all.push_back(socket_of(message));
      }
    }
  }
  return {};
}

}  // namespace

Result<std::vector<ListeningSocket>> listening_sockets(std::size_t most) {
  std::vector<ListeningSocket> all;
  for (const int family : {AF_INET, AF_INET6}) {
    // Not the same for both: on one whose answer was not read to the end nothing else can be asked.
    const Diag diag;
    if (diag.fd() < 0) return fail(failure("socket"));
    auto asked = ask(diag, static_cast<std::uint8_t>(family));
    if (!asked) return fail(asked.error());
    if (auto told = collect(diag, all, most); !told) return fail(told.error());
  }
  return all;
}

std::set<std::uint64_t> cgroup_tree(const std::string& path) {
  std::set<std::uint64_t> inodes;
  auto mounts = HostKernel().read("/proc/self/mountinfo");
  auto mount = mounts ? cgroup2_mount(*mounts) : Result<std::string>(fail(mounts.error()));
  if (!mount) return inodes;
  std::vector<std::string> ahead{*mount + "/" + path};
  while (!ahead.empty() && inodes.size() < kMaxCgroupTree) {
    const std::string directory = std::move(ahead.back());
    ahead.pop_back();
    struct stat info {};
    if (::stat(directory.c_str(), &info) != 0) continue;  // gone meanwhile
    inodes.insert(info.st_ino);
    std::error_code failed;
    for (std::filesystem::directory_iterator at(directory, failed), end; !failed && at != end;
         at.increment(failed)) {
      std::error_code ignored;
      if (at->is_directory(ignored)) ahead.push_back(at->path().string());
    }
  }
  return inodes;
}

}  // namespace meshnode::io
