#include "io/listening.h"

#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <filesystem>

#include "io/host_kernel.h"
#include "io/kernel_list.h"

namespace meshnode::io {
namespace {

constexpr Duration kListedWithin = std::chrono::seconds(1);

Error failed(const Error& cause) {
  return {cause.code, "the kernel does not list listening sockets: " + cause.message};
}

Status ask(KernelList& list, std::uint8_t family) {
  std::array<char, 256> request{};
  nlmsghdr* header = mnl_nlmsg_put_header(request.data());
  header->nlmsg_type = SOCK_DIAG_BY_FAMILY;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  auto* wanted =
      static_cast<inet_diag_req_v2*>(mnl_nlmsg_put_extra_header(header, sizeof(inet_diag_req_v2)));
  wanted->sdiag_family = family;
  wanted->sdiag_protocol = IPPROTO_TCP;
  wanted->idiag_states = 1U << TCP_LISTEN;
  return list.ask(*header);
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

}  // namespace

Result<std::vector<ListeningSocket>> listening_sockets(std::size_t most) {
  std::vector<ListeningSocket> all;
  for (const int family : {AF_INET, AF_INET6}) {
    // Not the same for both: on one whose answer was not read to the end nothing else can be asked.
    KernelList list(NETLINK_SOCK_DIAG, kListedWithin);
    if (auto asked = ask(list, static_cast<std::uint8_t>(family)); !asked) {
      return fail(failed(asked.error()));
    }
    for (std::size_t count = 0; count < most;) {
      const auto message = list.next();
      if (!message) return fail(failed(message.error()));
      if (*message == nullptr) break;
      if ((*message)->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
          mnl_nlmsg_get_payload_len(*message) >= sizeof(inet_diag_msg)) {
        all.push_back(socket_of(*message));
        ++count;
      }
    }
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
