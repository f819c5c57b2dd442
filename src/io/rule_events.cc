#include "io/rule_events.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <initializer_list>
#include <utility>

#include "io/loop.h"
#include "io/watch.h"

namespace meshnode::io {
namespace {

constexpr Duration kSettle = std::chrono::milliseconds(100);
// Others (containers, ban lists, routing daemons) may change rules all day long.
constexpr Duration kAtMostEvery = std::chrono::seconds(1);

int subscribe(int protocol, std::initializer_list<int> groups) {
  const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
  if (fd < 0) {
    return -1;
  }
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  bool ok = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  for (const int group : groups) {
    ok = ok && setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0;
  }
  if (!ok) {
    close(fd);
    return -1;
  }
  return fd;
}

int subscribe_filter() { return subscribe(NETLINK_NETFILTER, {NFNLGRP_NFTABLES}); }

int subscribe_routes() {
  return subscribe(NETLINK_ROUTE,
                   {RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE});
}

}  // namespace

struct RuleEvents::Impl {
  Impl(Loop& on, std::function<void()> on_change)
      : loop(on),
        settle(loop.timer([this, told = std::move(on_change)] {
          last = loop.now();
          told();
        })),
        filter(subscribe_filter()),
        routes(subscribe_routes()) {
    if (filter >= 0) {
      filter_watch = std::make_unique<FdWatch>(loop, filter, [this] { drain(filter); });
    }
    if (routes >= 0) {
      routes_watch = std::make_unique<FdWatch>(loop, routes, [this] { drain(routes); });
    }
  }
  ~Impl() {
    filter_watch.reset();
    routes_watch.reset();
    for (const int fd : {filter, routes}) {
      if (fd >= 0) {
        close(fd);
      }
    }
  }

  void drain(int fd) {
    // What changed does not matter; ENOBUFS (events lost) is a change too.
    std::array<char, 8192> buffer;
    ssize_t size = 0;
    do {
      size = recv(fd, buffer.data(), buffer.size(), 0);
    } while (size > 0 || (size < 0 && errno == ENOBUFS));
    if (!settle->running()) {
      const Instant now = loop.now();
      settle->start(std::max(kSettle, Duration(last + kAtMostEvery - now)));
    }
  }

  Loop& loop;
  Instant last{};
  std::unique_ptr<Timer> settle;
  int filter;
  int routes;
  std::unique_ptr<FdWatch> filter_watch;
  std::unique_ptr<FdWatch> routes_watch;
};

RuleEvents::RuleEvents(Loop& loop, std::function<void()> on_change)
    : impl_(std::make_unique<Impl>(loop, std::move(on_change))) {}

RuleEvents::~RuleEvents() = default;

bool RuleEvents::hears() const { return impl_->filter >= 0 && impl_->routes >= 0; }

RuleChanges::RuleChanges() : filter_(subscribe_filter()), routes_(subscribe_routes()) {
  for (const int fd : {filter_, routes_}) {
    if (fd < 0) {
      continue;
    }
    // Nobody wants to know what changed. The kernel gives the least it has, and says so (ENOBUFS)
    // when that is full.
    const int least = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof least);
  }
}

RuleChanges::~RuleChanges() {
  for (const int fd : {filter_, routes_}) {
    if (fd >= 0) {
      close(fd);
    }
  }
}

bool RuleChanges::hears() const { return filter_ >= 0 && routes_ >= 0; }

bool RuleChanges::any() {
  // Whoever changes rules all the time must not keep us here; what is left is a change next time.
  constexpr int kMaxEvents = 64;
  bool changed = false;
  for (const int fd : {filter_, routes_}) {
    for (int i = 0; fd >= 0 && i < kMaxEvents; ++i) {
      std::array<char, 64> start;
      if (recv(fd, start.data(), start.size(), 0) <= 0 && errno != ENOBUFS) {
        break;
      }
      changed = true;
    }
  }
  return changed;
}

}  // namespace meshnode::io
