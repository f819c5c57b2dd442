#include "io/interfaces.h"

#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <set>

#include "io/kernel_list.h"

namespace meshnode::io {
namespace {
constexpr std::size_t kMaxAddresses = 1024;
constexpr Duration kListedWithin = std::chrono::seconds(1);
constexpr int kTries = 4;  // while others change them

class Socket {
 public:
  Socket(int family, int type, int protocol)
      : fd_(::socket(family, type | SOCK_CLOEXEC, protocol)) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

Error failed(const std::string& cause) {
  return {ErrorCode::kUnavailable, "the host's addresses: " + cause};
}

/// Its own address, which of a point-to-point interface is not IFA_ADDRESS.
std::optional<IpAddress> address_of(const nlmsghdr* message) {
  struct Found {
    const nlattr* local = nullptr;
    const nlattr* address = nullptr;
  } found;
  const auto take = [](const nlattr* attribute, void* into) -> int {
    auto& to = *static_cast<Found*>(into);
    if (mnl_attr_get_type(attribute) == IFA_LOCAL) to.local = attribute;
    if (mnl_attr_get_type(attribute) == IFA_ADDRESS) to.address = attribute;
    return MNL_CB_OK;
  };
  mnl_attr_parse(message, sizeof(ifaddrmsg), take, &found);
  const nlattr* own = found.local != nullptr ? found.local : found.address;
  if (own == nullptr) return std::nullopt;
  const auto* data = static_cast<const std::uint8_t*>(mnl_attr_get_payload(own));
  const std::size_t size = mnl_attr_get_payload_len(own);
  if (size == 4) {
    std::array<std::uint8_t, 4> bytes{};
    std::copy_n(data, bytes.size(), bytes.begin());
    return IpAddress::v4(bytes);
  }
  if (size != 16) return std::nullopt;
  std::array<std::uint8_t, 16> bytes{};
  std::copy_n(data, bytes.size(), bytes.begin());
  return IpAddress::v6(bytes);
}

/// Takes addresses one by one.
class Listing {
 public:
  /// Whether there is room for more.
  bool take(const nlmsghdr* message) {
    const auto* head = static_cast<const ifaddrmsg*>(mnl_nlmsg_get_payload(message));
    const auto ip = address_of(message);
    if (ip && !ip->is_loopback() && !ip->is_link_local() && is_up(head->ifa_index) &&
        seen_.insert(*ip).second) {
      found.push_back(*ip);
    }
    return ++read_ < kMaxAddressesRead && found.size() < kMaxAddresses;
  }

  /// Otherwise every interface would pass for one that is down.
  bool can_ask() const { return any_.fd() >= 0; }

  std::vector<IpAddress> found;

 private:
  bool is_up(unsigned interface) {
    const auto known = up_.find(interface);
    if (known != up_.end()) return known->second;
    ifreq request{};
    request.ifr_ifindex = static_cast<int>(interface);
    return up_[interface] = ::ioctl(any_.fd(), SIOCGIFNAME, &request) == 0 &&
                            ::ioctl(any_.fd(), SIOCGIFFLAGS, &request) == 0 &&
                            (static_cast<unsigned>(request.ifr_flags) & IFF_UP) != 0;
  }

  Socket any_{AF_INET, SOCK_DGRAM, 0};
  std::set<IpAddress> seen_;
  std::map<unsigned, bool> up_;
  std::size_t read_ = 0;
};

/// One listing; nothing when addresses changed in its midst, whereby others may have been skipped.
Result<std::optional<std::vector<IpAddress>>> listed_once(KernelList& list) {
  Listing listing;
  if (!listing.can_ask()) return fail(failed(std::strerror(errno)));
  std::array<char, 256> request{};
  nlmsghdr* header = mnl_nlmsg_put_header(request.data());
  header->nlmsg_type = RTM_GETADDR;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  mnl_nlmsg_put_extra_header(header, sizeof(ifaddrmsg));
  if (auto asked = list.ask(*header); !asked) return fail(failed(asked.error().message));
  for (;;) {
    const auto message = list.next();
    if (!message) return fail(failed(message.error().message));
    if (*message == nullptr) {
      if (list.interrupted()) return std::nullopt;
      return std::move(listing.found);
    }
    if ((*message)->nlmsg_type == RTM_NEWADDR &&
        mnl_nlmsg_get_payload_len(*message) >= sizeof(ifaddrmsg) && !listing.take(*message)) {
      return std::move(listing.found);
    }
  }
}

}  // namespace

Result<std::vector<IpAddress>> host_addresses() {
  KernelList list(NETLINK_ROUTE, kListedWithin);
  for (int tries = 0; tries < kTries; ++tries) {
    auto listed = listed_once(list);
    if (!listed) return fail(std::move(listed.error()));
    if (*listed) return std::move(**listed);
  }
  return fail(failed("they keep changing"));
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) {
    return "localhost";
  }
  return name.data();
}

}  // namespace meshnode::io
