#include "io/listening.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <string>

using namespace meshnode;
using io::ListeningSocket;

namespace {

/// A socket that is bound to a port of the kernel's choice and, perhaps, listens.
struct Bound {
  Bound(const char* where, bool listening) {
    const SocketAddress wanted{IpAddress::parse(where).value(), 0};
    sockaddr_storage raw{};
    socklen_t size = wanted.to_sockaddr(raw);
    fd = socket(raw.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&raw), size) == 0);
    REQUIRE((!listening || listen(fd, 1) == 0));
    size = sizeof(raw);
    REQUIRE(getsockname(fd, reinterpret_cast<sockaddr*>(&raw), &size) == 0);
    address = SocketAddress::from_sockaddr(reinterpret_cast<sockaddr&>(raw));
  }
  ~Bound() { close(fd); }
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;
  int fd = -1;
  SocketAddress address;
};

}  // namespace

TEST_CASE("who listens is listed with address, user and cgroup, and nobody else") {
  const Bound v4("127.0.0.1", true);
  const Bound v6("::1", true);
  const Bound any("::", true);
  const Bound silent("127.0.0.1", false);
  const auto all = io::listening_sockets().value();
  const auto find = [&](const Bound& bound) {
    return std::find_if(all.begin(), all.end(), [&](const ListeningSocket& socket) {
      return socket.address == bound.address;
    });
  };
  for (const Bound* bound : {&v4, &v6, &any}) {
    CAPTURE(bound->address.text());
    REQUIRE(find(*bound) != all.end());
    CHECK(find(*bound)->uid == getuid());
  }
  CHECK(find(silent) == all.end());
}

TEST_CASE("no more listeners are listed than are asked for, of either family") {
  const Bound v4("127.0.0.1", true);
  const Bound v6("::1", true);
  const auto all = io::listening_sockets().value();
  const auto first = static_cast<std::size_t>(
      std::count_if(all.begin(), all.end(),
                    [](const ListeningSocket& socket) { return socket.address.ip.is_v4(); }));
  const std::size_t second = all.size() - first;
  REQUIRE(std::min(first, second) > 0);
  for (std::size_t most = 0; most <= all.size(); ++most) {
    CHECK(io::listening_sockets(most).value().size() ==
          std::min(most, first) + std::min(most, second));
  }
}

TEST_CASE("a listener's cgroup is one of the tree it runs in") {
  std::ifstream own("/proc/self/cgroup");
  std::string path;
  for (std::string line; std::getline(own, line);) {
    if (line.rfind("0::/", 0) == 0) {
      path = line.substr(4);
    }
  }
  const Bound bound("127.0.0.1", true);
  const auto tree = io::cgroup_tree(path);
  const auto all = io::listening_sockets().value();
  for (const ListeningSocket& socket : all) {
    if (socket.address == bound.address && socket.cgroup != 0 && !tree.empty()) {
      CHECK(tree.contains(socket.cgroup));
    }
  }
  CHECK(io::cgroup_tree("there/is/no/such").empty());
}
