#pragma once
/// Two hosts as network namespaces, joined by a veth pair, for tests against the real kernel:
/// "host" is where rules are applied, "peer" is another machine. The test process itself moves
/// between them and leaves nothing behind. Needs root. One thread.

#include <meshnode/address.h>
#include <meshnode/kernel.h>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "capture/listeners.h"
#include "io/host_kernel.h"

namespace meshnode::capture::test {

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd();
  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }

 private:
  int fd_;
};

/// Whether this process may make namespaces; says loudly when not.
bool can_make_namespaces();

/// The host's kernel, with the iptables programs of one backend ("-nft", "-legacy" or "" for the
/// system's choice), and what a test wants to happen in between.
class LabKernel : public io::HostKernel {
 public:
  explicit LabKernel(std::string backend = "") : backend_(std::move(backend)) {}
  Result<CommandResult> run(const std::vector<std::string>& argv,
                            const std::string& input) override;
  /// Runs a program and requires success; its output.
  std::string must(const std::vector<std::string>& argv, const std::string& input = "");

 private:
  std::string backend_;
};

/// Addresses: host 10.9.0.1 and fd00:9::1, peer 10.9.0.2 and fd00:9::2.
class Lab {
 public:
  Lab();
  ~Lab();
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;
  void enter_host() const;
  void enter_peer() const;

 private:
  Fd before_;
  Fd host_;
  Fd peer_;
};

/// A cgroup below the cgroup2 mount, removed again at the end. Empty path where none is mounted.
class LabCgroup {
 public:
  explicit LabCgroup(const std::string& name);
  ~LabCgroup();
  LabCgroup(const LabCgroup&) = delete;
  LabCgroup& operator=(const LabCgroup&) = delete;
  const std::string& path() const { return path_; }
  void create() const;
  void destroy() const;
  /// Runs `body` with this process inside the cgroup.
  void inside(const std::function<void()>& body) const;

 private:
  std::string path_;
  std::string directory_;
  std::string mount_;
};

struct Accepted {
  Fd socket;
  SocketAddress local;
  SocketAddress peer;
  std::optional<SocketAddress> original;  ///< SO_ORIGINAL_DST
};

struct DialAs {
  unsigned uid = 0;
  std::uint32_t mark = 0;
  std::optional<SocketAddress> from{};  ///< with IP_TRANSPARENT
};

/// A listening socket as the supervisor would open it.
Fd open_listener(const Listener& listener);
Fd listen_on(const SocketAddress& at);
/// Connects within 2 s as `as`; the socket, or the errno in `error`. `device`: the scope of an IPv6
/// link-local address.
Fd dial(const SocketAddress& to, const DialAs& as, int& error, const std::string& device = "");
/// Whatever arrives within `wait`.
std::optional<Accepted> accept_one(const Fd& listener,
                                   std::chrono::milliseconds wait = std::chrono::seconds(1));
/// Bytes pass both ways.
bool echo(const Fd& a, const Fd& b);

SocketAddress at(const std::string& text);

}  // namespace meshnode::capture::test
