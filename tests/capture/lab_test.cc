#include "capture/lab.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netfilter_ipv4.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <iostream>

namespace meshnode::capture::test {
namespace {

constexpr int kIp6OriginalDst = 80;  // IP6T_SO_ORIGINAL_DST

SocketAddress named(int fd, int (*ask)(int, sockaddr*, socklen_t*)) {
  sockaddr_storage raw{};
  socklen_t length = sizeof raw;
  REQUIRE(ask(fd, reinterpret_cast<sockaddr*>(&raw), &length) == 0);
  return SocketAddress::from_sockaddr(reinterpret_cast<sockaddr&>(raw));
}

std::optional<SocketAddress> original_destination(int fd, Family family) {
  sockaddr_storage raw{};
  socklen_t length = sizeof raw;
  const int failed = family == Family::kV4
                         ? ::getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, &raw, &length)
                         : ::getsockopt(fd, SOL_IPV6, kIp6OriginalDst, &raw, &length);
  if (failed != 0) return std::nullopt;
  return SocketAddress::from_sockaddr(reinterpret_cast<sockaddr&>(raw));
}

void set(int fd, int level, int option, int value) {
  REQUIRE(::setsockopt(fd, level, option, &value, sizeof value) == 0);
}

void set_transparent(int fd, Family family) {
  set(fd, family == Family::kV4 ? SOL_IP : SOL_IPV6,
      family == Family::kV4 ? IP_TRANSPARENT : IPV6_TRANSPARENT, 1);
}

Fd tcp_socket(Family family) {
  Fd fd(::socket(family == Family::kV4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(fd.open());
  set(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (family == Family::kV6) set(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1);
  return fd;
}

void bind_and_listen(const Fd& fd, const SocketAddress& at) {
  sockaddr_storage raw{};
  const unsigned length = at.to_sockaddr(raw);
  INFO("listening at " << at.text());
  REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&raw), length) == 0);
  REQUIRE(::listen(fd.get(), 64) == 0);
  REQUIRE(::fcntl(fd.get(), F_SETFL, O_NONBLOCK) == 0);
}

void enter(const Fd& ns) { REQUIRE(::setns(ns.get(), CLONE_NEWNET) == 0); }

Fd this_namespace() { return Fd(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)); }

void prepare_namespace() {
  LabKernel kernel;
  kernel.must({"ip", "link", "set", "lo", "up"});
  REQUIRE(kernel.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0"));
  REQUIRE(kernel.write("/proc/sys/net/ipv6/conf/all/accept_dad", "0"));
}

void address_link(const std::string& name, const std::string& last) {
  LabKernel kernel;
  kernel.must({"ip", "address", "add", "10.9.0." + last + "/24", "dev", name});
  kernel.must({"ip", "address", "add", "fd00:9::" + last + "/64", "dev", name, "nodad"});
  kernel.must({"ip", "link", "set", name, "up"});
}

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

bool can_make_namespaces() {
  if (::geteuid() == 0) return true;
  std::cerr << "\n*** SKIPPED: needs root to make network namespaces; capture was NOT tested "
               "against the kernel ***\n\n";
  return false;
}

Result<CommandResult> LabKernel::run(const std::vector<std::string>& argv,
                                     const std::string& input) {
  std::vector<std::string> mapped = argv;
  for (const char* name : {"iptables", "ip6tables"}) {
    for (const char* suffix : {"-save", "-restore", ""}) {
      if (argv[0] == std::string(name) + suffix) mapped[0] = name + backend_ + suffix;
    }
  }
  return io::HostKernel::run(mapped, input);
}

std::string LabKernel::must(const std::vector<std::string>& argv, const std::string& input) {
  auto ran = run(argv, input);
  INFO(argv[0] << " " << (argv.size() > 1 ? argv[1] : ""));
  REQUIRE(ran);
  INFO(ran->error);
  REQUIRE(ran->exit_code == 0);
  return ran->output;
}

Lab::Lab() : before_(this_namespace()) {
  REQUIRE(::unshare(CLONE_NEWNET) == 0);
  peer_ = this_namespace();
  prepare_namespace();
  REQUIRE(::unshare(CLONE_NEWNET) == 0);
  host_ = this_namespace();
  prepare_namespace();
  LabKernel kernel;
  kernel.must({"ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"});
  const std::string peer = "/proc/" + std::to_string(::getpid()) + "/fd/";
  kernel.must({"ip", "link", "set", "veth1", "netns", peer + std::to_string(peer_.get())});
  address_link("veth0", "1");
  enter_peer();
  address_link("veth1", "2");
  enter_host();
}

Lab::~Lab() { ::setns(before_.get(), CLONE_NEWNET); }
void Lab::enter_host() const { enter(host_); }
void Lab::enter_peer() const { enter(peer_); }

LabCgroup::LabCgroup(const std::string& name) {
  LabKernel kernel;
  auto mountinfo = kernel.read("/proc/self/mountinfo");
  REQUIRE(mountinfo);
  auto mount = io::cgroup2_mount(*mountinfo);
  if (!mount) return;
  mount_ = *mount;
  path_ = name + std::to_string(::getpid());
  directory_ = mount_ + "/" + path_;
}

LabCgroup::~LabCgroup() {
  if (!directory_.empty()) ::rmdir(directory_.c_str());
}

void LabCgroup::create() const { REQUIRE(::mkdir(directory_.c_str(), 0755) == 0); }
void LabCgroup::destroy() const { REQUIRE(::rmdir(directory_.c_str()) == 0); }

void LabCgroup::inside(const std::function<void()>& body) const {
  LabKernel kernel;
  auto lines = kernel.read("/proc/self/cgroup");
  REQUIRE(lines);
  const std::size_t begin = lines->find("0::/");
  REQUIRE(begin != lines->npos);
  const std::string home = lines->substr(begin + 3, lines->find('\n', begin) - begin - 3);
  REQUIRE(kernel.write(directory_ + "/cgroup.procs", std::to_string(::getpid())));
  body();
  REQUIRE(kernel.write(mount_ + home + "/cgroup.procs", std::to_string(::getpid())));
}

Fd open_listener(const Listener& listener) {
  Fd fd = tcp_socket(listener.family);
  if (listener.transparent) set_transparent(fd.get(), listener.family);
  bind_and_listen(fd, {listener.address, listener.port});
  return fd;
}

Fd listen_on(const SocketAddress& at) {
  Fd fd = tcp_socket(at.ip.family());
  bind_and_listen(fd, at);
  return fd;
}

Fd dial(const SocketAddress& to, const DialAs& as, int& error, const std::string& device) {
  // The owner match looks at the file system uid that the socket was created with.
  ::setfsuid(as.uid);
  Fd fd = tcp_socket(to.ip.family());
  ::setfsuid(0);
  if (as.mark != 0) set(fd.get(), SOL_SOCKET, SO_MARK, static_cast<int>(as.mark));
  if (as.from) {
    set_transparent(fd.get(), to.ip.family());
    sockaddr_storage raw{};
    const unsigned length = as.from->to_sockaddr(raw);
    REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&raw), length) == 0);
  }
  const timeval limit{2, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  sockaddr_storage raw{};
  const unsigned length = to.to_sockaddr(raw);
  if (!device.empty()) {
    reinterpret_cast<sockaddr_in6&>(raw).sin6_scope_id = ::if_nametoindex(device.c_str());
  }
  error = ::connect(fd.get(), reinterpret_cast<sockaddr*>(&raw), length) == 0 ? 0 : errno;
  return fd;
}

std::optional<Accepted> accept_one(const Fd& listener, std::chrono::milliseconds wait) {
  pollfd ready{listener.get(), POLLIN, 0};
  if (::poll(&ready, 1, static_cast<int>(wait.count())) != 1) return std::nullopt;
  Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.open()) return std::nullopt;
  const SocketAddress local = named(fd.get(), ::getsockname);
  const SocketAddress peer = named(fd.get(), ::getpeername);
  auto original = original_destination(fd.get(), local.ip.family());
  return Accepted{std::move(fd), local, peer, original};
}

bool echo(const Fd& a, const Fd& b) {
  for (const auto& [from, to] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    const timeval limit{2, 0};
    ::setsockopt(to->get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    std::array<char, 8> got{};
    if (::send(from->get(), "hello", 5, MSG_NOSIGNAL) != 5) return false;
    if (::recv(to->get(), got.data(), got.size(), 0) != 5) return false;
  }
  return true;
}

SocketAddress at(const std::string& text) {
  auto parsed = SocketAddress::parse(text);
  REQUIRE(parsed);
  return *parsed;
}

TEST_CASE("a lab's two hosts reach each other in both families") {
  if (!can_make_namespaces()) return;
  const Lab lab;
  for (const char* text : {"10.9.0.1:80", "[fd00:9::1]:80"}) {
    lab.enter_host();
    const Fd listener = listen_on(at(text));
    lab.enter_peer();
    int error = 0;
    const Fd client = dial(at(text), {}, error);
    CHECK(error == 0);
    auto served = accept_one(listener);
    REQUIRE(served);
    CHECK(echo(client, served->socket));
  }
}

}  // namespace meshnode::capture::test
