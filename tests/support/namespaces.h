#pragma once
/// Network namespaces for tests: each is a process of its own, which does nothing but be there.

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

namespace meshnode::test {

inline bool may_make_namespaces() {
  if (::geteuid() == 0) return true;
  WARN("SKIPPED: needs root, for network namespaces");
  return false;
}

/// One network namespace for the whole program, so that programs which run at the same time are
/// agents of different hosts to each other; false without the rights.
inline bool own_network() {
  if (!may_make_namespaces()) return false;
  static const bool ours = ::unshare(CLONE_NEWNET) == 0;
  return ours;
}

/// Runs `act` in a child that has process numbers and a /proc of its own; what it returned, or 99.
template <class Act>
int among_own_processes(Act act) {
  const pid_t outer = ::fork();
  REQUIRE(outer >= 0);
  if (outer == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) ::_exit(99);
    const pid_t inner = ::fork();
    if (inner == 0) {
      ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
      if (::mount("proc", "/proc", "proc", 0, nullptr) != 0) ::_exit(99);
      ::_exit(act());
    }
    int status = 0;
    ::waitpid(inner, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
  }
  int status = 0;
  ::waitpid(outer, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

class TestNamespace {
 public:
  explicit TestNamespace(bool loopback_up = true) {
    std::array<int, 2> ready{};
    REQUIRE(::pipe2(ready.data(), O_CLOEXEC) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) live(loopback_up, ready[1]);
    ::close(ready[1]);
    char told = 0;
    const bool made = ::read(ready[0], &told, 1) == 1;
    ::close(ready[0]);
    REQUIRE(made);
  }
  ~TestNamespace() { end(); }
  TestNamespace(const TestNamespace&) = delete;
  TestNamespace& operator=(const TestNamespace&) = delete;

  void end() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  std::uint32_t pid() const { return static_cast<std::uint32_t>(pid_); }
  std::string path() const { return "/proc/" + std::to_string(pid_) + "/ns/net"; }

  /// Runs `act` on a thread that is inside.
  template <class Act>
  void inside(Act act) const {
    bool entered = false;
    std::thread([&] {
      const int fd = ::open(path().c_str(), O_RDONLY | O_CLOEXEC);
      entered = fd >= 0 && ::setns(fd, CLONE_NEWNET) == 0;
      ::close(fd);
      if (entered) act();
    }).join();
    REQUIRE(entered);
  }

  static void loopback(bool up) {
    const int any = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ifreq request{};
    std::strncpy(request.ifr_name, "lo", IFNAMSIZ - 1);
    request.ifr_flags = up ? IFF_UP | IFF_RUNNING : 0;
    ::ioctl(any, SIOCSIFFLAGS, &request);
    ::close(any);
  }

 private:
  [[noreturn]] static void live(bool loopback_up, int ready) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (::unshare(CLONE_NEWNET) != 0) ::_exit(1);
    if (loopback_up) loopback(true);
    if (::write(ready, "r", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }

  pid_t pid_ = -1;
};

/// A file that names a namespace, as those of `ip netns add` do.
class NamespaceFile {
 public:
  NamespaceFile() {
    std::string name = "/run/meshnode-netns-XXXXXX";
    const int fd = ::mkstemp(name.data());
    REQUIRE(fd >= 0);
    ::close(fd);
    path = name;
  }
  ~NamespaceFile() {
    clear();
    ::unlink(path.c_str());
  }
  NamespaceFile(const NamespaceFile&) = delete;
  NamespaceFile& operator=(const NamespaceFile&) = delete;

  void name(const TestNamespace& place) {
    clear();
    REQUIRE(::mount(place.path().c_str(), path.c_str(), "none", MS_BIND, nullptr) == 0);
  }
  void clear() { ::umount2(path.c_str(), MNT_DETACH); }

  std::string path;
};

}  // namespace meshnode::test
