#pragma once
/// Network namespaces other than the agent's own: opened by name, told apart, entered. Thread: any;
/// entering concerns the calling thread alone. Opening another's needs CAP_SYS_PTRACE for a
/// process, entering it CAP_SYS_ADMIN.

#include <meshnode/address.h>
#include <meshnode/kernel.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace meshnode::io {

/// Of an nsfs file. No other namespace gets it while somebody holds a descriptor of this one.
struct NamespaceId {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  auto operator<=>(const NamespaceId&) const = default;
};

class NetNamespace {
 public:
  /// `path`: of an nsfs file, usually below /run/netns. kNotFound when it is not there, kInvalid
  /// when it is anything else; whatever it is, opening it has no effect on it.
  static Result<NetNamespace> at(const std::string& path);
  /// kNotFound when there is no such process, or it has ended.
  static Result<NetNamespace> of_process(std::uint32_t pid);
  NetNamespace(NetNamespace&& other) noexcept;
  NetNamespace& operator=(NetNamespace&& other) noexcept;
  ~NetNamespace();

  int fd() const { return fd_; }
  NamespaceId id() const { return id_; }
  /// Whether it is the agent's, which no workload can be told by.
  bool is_own() const;
  /// Whether what it was opened by still names it: the path leads to it, or that very process lives
  /// and is in it. A few system calls.
  bool is_named() const;
  /// Whether the process it was opened by has ended; whoever has its number now is another.
  bool process_ended() const;

 private:
  NetNamespace(std::string name, int fd, NamespaceId id, int pidfd)
      : name_(std::move(name)), fd_(fd), id_(id), pidfd_(pidfd) {}
  static Result<NetNamespace> open(std::string path, int pidfd);

  std::string name_;
  int fd_ = -1;
  NamespaceId id_;
  int pidfd_ = -1;
};

/// The calling thread is in that namespace while this lives. A process that could not come back
/// would do to the one what is meant for the other: it ends.
class InNamespace {
 public:
  explicit InNamespace(const NetNamespace& place);
  ~InNamespace();
  InNamespace(const InNamespace&) = delete;
  InNamespace& operator=(const InNamespace&) = delete;
  /// Nothing must be done on an error: the thread is where it was.
  const Status& entered() const { return entered_; }

 private:
  int home_ = -1;
  Status entered_;
};

struct NamespaceAddresses {
  bool loopback_up = false;
  std::vector<IpAddress> addresses;  ///< as host_addresses()
};
Result<NamespaceAddresses> addresses_in(const NetNamespace& place);

/// What prolong() adds where less is left; the last program may begin just before.
inline constexpr Duration kProlonged = std::chrono::seconds(2);

/// The Kernel seam inside a network namespace: programs run and files of /proc/net and
/// /proc/sys/net are as they are there; cgroups are as outside.
class NamespaceKernel final : public Kernel {
 public:
  /// Both must outlive this.
  NamespaceKernel(Kernel& outside, const NetNamespace& place) : outside_(outside), place_(place) {}
  /// Programs started from now on have this long all together, until the next call; those that come
  /// later are not run (kTimeout). Whoever is root inside can make each of them slow.
  void begin_turn(Duration budget);
  Result<CommandResult> run(const std::vector<std::string>& argv,
                            const std::string& input) override;
  Result<std::string> read(const std::string& path) const override;
  Status write(const std::string& path, const std::string& value) override;
  Result<std::uint64_t> cgroup_inode(const std::string& path) const override;
  bool foreign() const override { return true; }
  void prolong() override;

 private:
  Kernel& outside_;
  const NetNamespace& place_;
  Duration budget_{};
  std::optional<Instant> turn_ends_;
};

/// A path, for NetNamespace::at(), of every network namespace that a file of /run/netns or
/// /run/docker/netns or a process names, once each, but the agent's own; at most kMaxFound. None is
/// held open, so one may be gone, or another's, when its turn comes.
inline constexpr std::size_t kMaxFound = 4096;
std::vector<std::string> find_namespaces();

}  // namespace meshnode::io
