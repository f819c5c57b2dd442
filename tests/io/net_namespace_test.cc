#include "io/net_namespace.h"

#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <thread>

#include "io/host_kernel.h"
#include "io/interfaces.h"
#include "io/listening.h"
#include "io/rule_events.h"
#include "support/namespaces.h"

using namespace meshnode;
using namespace meshnode::io;
using meshnode::test::NamespaceFile;
using meshnode::test::TestNamespace;

namespace {

ino_t own_inode() {
  struct stat info {};
  REQUIRE(::stat("/proc/thread-self/ns/net", &info) == 0);
  return info.st_ino;
}

/// A namespace, and what acts in it.
struct Inside {
  explicit Inside(bool loopback_up = true) : space(loopback_up), opened(open()) {}
  NetNamespace open() const {
    auto found = NetNamespace::at(space.path());
    REQUIRE(found);
    return std::move(*found);
  }
  void ip(const std::string& lines) {
    const auto ran = kernel.run({"ip", "-batch", "-"}, lines);
    REQUIRE(ran);
    INFO(ran->error);
    REQUIRE(ran->exit_code == 0);
  }
  TestNamespace space;
  NetNamespace opened;
  HostKernel host;
  NamespaceKernel kernel{host, opened};
};

}  // namespace

TEST_CASE("a network namespace is opened by a path and by a process, as the same one") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const TestNamespace other;
  NamespaceFile file;
  file.name(one);
  const auto by_path = NetNamespace::at(file.path);
  const auto by_process = NetNamespace::of_process(one.pid());
  const auto another = NetNamespace::of_process(other.pid());
  REQUIRE(by_path);
  REQUIRE(by_process);
  REQUIRE(another);
  CHECK(by_path->id() == by_process->id());
  CHECK(by_path->id() != another->id());
  CHECK_FALSE(by_path->is_own());
  CHECK(by_path->is_named());
  const auto own = NetNamespace::of_process(static_cast<std::uint32_t>(::getpid()));
  REQUIRE(own);
  CHECK(own->is_own());
}

TEST_CASE("whatever is no network namespace is refused, and nothing happens to it") {
  const auto code = [](const std::string& path) { return NetNamespace::at(path).error().code; };
  CHECK(code("/nowhere/at/all") == ErrorCode::kNotFound);
  CHECK(code("/etc/passwd") == ErrorCode::kInvalid);
  CHECK(code("/dev/null") == ErrorCode::kInvalid);
  CHECK(code("/proc/self/ns/mnt") == ErrorCode::kInvalid);
  CHECK(code("/proc/self/ns") == ErrorCode::kInvalid);
  std::string fifo = "/tmp/meshnode-fifo-XXXXXX";
  REQUIRE(::mkdtemp(fifo.data()) != nullptr);
  const std::string path = fifo + "/pipe";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(code(path) == ErrorCode::kInvalid);  // and does not wait for a writer
  ::unlink(path.c_str());
  ::rmdir(fifo.c_str());
  CHECK(NetNamespace::of_process(4'194'304).error().code == ErrorCode::kNotFound);
}

TEST_CASE("a path that leads elsewhere names the namespace no more") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const TestNamespace other;
  NamespaceFile file;
  file.name(one);
  const auto opened = NetNamespace::at(file.path);
  REQUIRE(opened);
  file.name(other);
  CHECK_FALSE(opened->is_named());
  file.clear();
  CHECK_FALSE(opened->is_named());
  file.name(one);
  CHECK(opened->is_named());
}

TEST_CASE("a process that ended names nothing, also when somebody gets its number") {
  if (!test::may_make_namespaces()) return;
  TestNamespace one;
  const std::uint32_t pid = one.pid();
  const auto opened = NetNamespace::of_process(pid);
  REQUIRE(opened);
  CHECK_FALSE(opened->process_ended());
  one.end();
  CHECK(opened->process_ended());
  CHECK_FALSE(opened->is_named());
  CHECK(NetNamespace::of_process(pid).error().message.find(std::to_string(pid)) !=
        std::string::npos);
}

TEST_CASE("a number that another process got is not taken for the one that ended") {
  if (!test::may_make_namespaces()) return;
  const int code = test::among_own_processes([] {
    HostKernel kernel;
    std::optional<NetNamespace> opened;
    std::uint32_t pid = 0;
    {
      const TestNamespace first;
      pid = first.pid();
      if (auto place = NetNamespace::of_process(pid)) opened = std::move(*place);
    }
    if (!opened || !kernel.write("/proc/sys/kernel/ns_last_pid", std::to_string(pid - 1))) return 1;
    const TestNamespace heir;
    if (heir.pid() != pid) return 2;
    if (!opened->process_ended() || opened->is_named()) return 3;
    const auto now = NetNamespace::of_process(pid);
    return now && now->is_named() && now->id() != opened->id() ? 0 : 4;
  });
  CHECK(code == 0);
}

TEST_CASE("a thread is inside a namespace for a while and back afterwards") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const auto opened = NetNamespace::at(one.path());
  REQUIRE(opened);
  const ino_t home = own_inode();
  {
    const InNamespace inside(*opened);
    REQUIRE(inside.entered());
    CHECK(own_inode() == opened->id().inode);
  }
  CHECK(own_inode() == home);
}

TEST_CASE("programs and files of a namespace are those inside, cgroups those outside") {
  if (!test::may_make_namespaces()) return;
  Inside one;
  const ino_t home = own_inode();
  auto made = one.kernel.run({"ip", "link", "add", "mn-inside", "type", "bridge"}, "");
  REQUIRE(made);
  INFO(made->error);
  REQUIRE(made->exit_code == 0);
  const auto devices = one.kernel.read("/proc/net/dev");
  REQUIRE(devices);
  CHECK(devices->find("mn-inside") != std::string::npos);
  CHECK(one.host.read("/proc/net/dev")->find("mn-inside") == std::string::npos);
  const std::string forward = "/proc/sys/net/ipv4/conf/mn-inside/forwarding";
  CHECK(one.kernel.write(forward, "1"));
  CHECK(*one.kernel.read(forward) == "1\n");
  CHECK_FALSE(one.host.read(forward));
  CHECK(*one.kernel.read("/proc/self/cgroup") == *one.host.read("/proc/self/cgroup"));
  CHECK(own_inode() == home);

  // Also from a thread that is not the process's first.
  std::thread([&] {
    CHECK(one.kernel.read("/proc/net/dev")->find("mn-inside") != std::string::npos);
  }).join();
}

TEST_CASE("programs in a namespace have a turn's time together, and none begins after it") {
  if (!test::may_make_namespaces()) return;
  Inside one;
  one.kernel.begin_turn(std::chrono::milliseconds(20));
  CHECK(one.kernel.run({"sleep", "0.05"}, ""));
  const auto late = one.kernel.run({"ip", "link"}, "");
  REQUIRE_FALSE(late);
  CHECK(late.error().code == ErrorCode::kTimeout);
  CHECK(late.error().message.find("ip: not run, as the programs before it took 20 ms") == 0);
  one.kernel.prolong();  // for what must be put back
  CHECK(one.kernel.run({"ip", "link"}, ""));
  one.kernel.begin_turn(std::chrono::seconds(5));
  CHECK(one.kernel.run({"ip", "link"}, ""));
}

TEST_CASE("addresses of a namespace are told without loopback, and whether loopback is up") {
  if (!test::may_make_namespaces()) return;
  Inside one(false);
  CHECK_FALSE(addresses_in(one.opened)->loopback_up);
  CHECK(addresses_in(one.opened)->addresses.empty());
  one.ip("link set lo up\nlink add mn0 type bridge\nlink set mn0 up\n"
         "address add 10.9.8.7/24 dev mn0\n");
  const auto now = addresses_in(one.opened);
  REQUIRE(now);
  CHECK(now->loopback_up);
  CHECK(now->addresses == std::vector<IpAddress>{*IpAddress::parse("10.9.8.7")});
}

TEST_CASE("addresses are told as the kernel has them, and no more of them than are asked for") {
  if (!test::may_make_namespaces()) return;
  Inside one;
  one.ip("link add mn0 type bridge\nlink add mn1 type bridge\nlink set mn0 up\n"
     "address add 10.9.8.7 peer 10.9.8.1/32 dev mn0\naddress add 10.9.7.1/24 dev mn1\n"
     "address add fd00::7/64 dev mn0 nodad\n");
  CHECK(addresses_in(one.opened)->addresses == std::vector<IpAddress>{*IpAddress::parse("10.9.8.7"),
                                                                  *IpAddress::parse("fd00::7")});
  std::string many;
  for (unsigned i = 0; i < kMaxAddressesRead; ++i) {
    many += "address add 127.1." + std::to_string(i / 256) + "." + std::to_string(i % 256) +
            "/32 dev lo\n";
  }
  one.ip(many);
  CHECK(addresses_in(one.opened)->addresses.empty());
}

TEST_CASE("addresses that others change meanwhile hide none that stays") {
  if (!test::may_make_namespaces()) return;
  Inside one;
  std::string lines = "link add mn0 type bridge\nlink set mn0 up\n";
  constexpr int kStay = 1000;  // several messages of the kernel's
  for (int i = 0; i < kStay + 2; ++i) {
    lines += "address add 10.9." + std::to_string(i / 250) + "." + std::to_string(1 + i % 250) +
             "/32 dev mn0\n";
  }
  const IpAddress first = *IpAddress::parse("10.9.0.1");
  const IpAddress second = *IpAddress::parse("10.9.0.2");
  one.ip(lines);
  std::string flapping;  // the first of the list: all that follow change places
  for (int i = 0; i < 2000; ++i) {
    flapping += "address del 10.9.0.1/32 dev mn0\naddress add 10.9.0.1/32 dev mn0\n"
                "address del 10.9.0.2/32 dev mn0\naddress add 10.9.0.2/32 dev mn0\n";
  }
  std::atomic<bool> over = false;
  std::thread others([&] {
    HostKernel own;
    NamespaceKernel in(own, one.opened);
    while (!over) static_cast<void>(in.run({"ip", "-batch", "-"}, flapping));
  });
  std::size_t listed = 0;
  std::size_t short_ones = 0;
  for (int i = 0; i < 2000; ++i) {
    const auto now = addresses_in(one.opened);
    if (!now) continue;
    ++listed;
    const auto stays = [&](const IpAddress& ip) { return ip != first && ip != second; };
    if (std::count_if(now->addresses.begin(), now->addresses.end(), stays) != kStay) ++short_ones;
  }
  over = true;
  others.join();
  CHECK(short_ones == 0);
  CHECK(listed > 0);
}

TEST_CASE("whoever is root in a namespace does not answer for the kernel") {
  if (!test::may_make_namespaces()) return;
  Inside one;
  one.ip("link add mn0 type bridge\nlink set mn0 up\naddress add 10.9.8.7/32 dev mn0\n");
  const int protocol = GENERATE(NETLINK_ROUTE, NETLINK_SOCK_DIAG);
  int listener = -1;
  std::atomic<bool> ready = false;
  std::atomic<bool> over = false;
  std::thread root([&] {
    const InNamespace inside(one.opened);
    listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ::listen(listener, 1);
    const int liar = ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    sockaddr_nl own{};
    own.nl_family = AF_NETLINK;
    own.nl_pid = 4'000'000'000U;  // the process's number is for who asks
    ::bind(liar, reinterpret_cast<const sockaddr*>(&own), sizeof own);
    nlmsghdr done{NLMSG_LENGTH(0), NLMSG_DONE, NLM_F_MULTI, 0, 0};
    sockaddr_nl to{};
    to.nl_family = AF_NETLINK;
    to.nl_pid = static_cast<unsigned>(::getpid());
    ready = true;
    while (!over) {
      // Refused when it meets a connected socket, and when it meets none.
      ::sendto(liar, &done, sizeof done, MSG_DONTWAIT, reinterpret_cast<const sockaddr*>(&to),
               sizeof to);
    }
    ::close(liar);
  });
  while (!ready) std::this_thread::yield();
  unsigned whole = 0;
  for (int i = 0; i < 3000; ++i) {
    if (protocol == NETLINK_ROUTE) {
      const auto now = addresses_in(one.opened);
      if (now && now->addresses.size() == 1) ++whole;
    } else {
      const InNamespace inside(one.opened);
      const auto now = listening_sockets();
      if (now && now->size() == 1) ++whole;
    }
  }
  over = true;
  root.join();
  ::close(listener);
  CHECK(whole == 3000);
}

TEST_CASE("namespaces are found by the processes in them, each once, without the own") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const auto opened = NetNamespace::at(one.path());
  REQUIRE(opened);
  int times = 0;
  for (const std::string& path : find_namespaces()) {
    const auto found = NetNamespace::at(path);
    if (!found) continue;
    CHECK_FALSE(found->is_own());
    if (found->id() == opened->id()) ++times;
  }
  CHECK(times == 1);
}

TEST_CASE(
    "changes of rules and routes are heard in the namespace they are made in, lost ones too") {
  if (!test::may_make_namespaces()) return;
  Inside one;
  Inside other;
  std::unique_ptr<RuleChanges> changes;
  {
    const InNamespace inside(one.opened);
    REQUIRE(inside.entered());
    changes = std::make_unique<RuleChanges>();
  }
  REQUIRE(changes->hears());
  CHECK_FALSE(changes->any());
  const std::string route = "route add 10.9.0.0/16 dev lo\n";
  other.ip(route);
  CHECK_FALSE(changes->any());
  one.ip(route);
  CHECK(changes->any());
  CHECK_FALSE(changes->any());
  REQUIRE(one.kernel.run({"nft", "add", "table", "ip", "somebody"}, "")->exit_code == 0);
  CHECK(changes->any());
  CHECK_FALSE(changes->any());

  std::string many;
  for (int i = 0; i < 2000; ++i) {
    many += "route add 10." + std::to_string(10 + i / 250) + "." + std::to_string(i % 250) +
            ".0/24 dev lo\n";
  }
  one.ip(many);
  int calls = 0;
  while (changes->any()) ++calls;
  CHECK(calls >= 1);
  CHECK(calls < 5);  // the kernel kept few of them
  one.ip("route del 10.9.0.0/16 dev lo\n");
  CHECK(changes->any());
}
