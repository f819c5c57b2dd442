#pragma once
/// Seam: the host kernel beyond sockets and files: packet filter, routing rules, cgroups. The
/// product's is io/host_kernel.h. Used by the supervisor and `capture show|remove` only. Calls
/// block.

#include <meshnode/result.h>
#include <cstdint>
#include <string>
#include <vector>

namespace meshnode {

struct CommandResult {
  int exit_code = 0;
  std::string output;  ///< stdout
  std::string error;   ///< stderr
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  /// Runs a program with `input` on its stdin, without a shell, with a clean environment;
  /// argv[0] is looked up in /usr/sbin:/usr/bin:/sbin:/bin only. kUnavailable when it cannot be
  /// started, kTimeout after 10 s, kLimit when it prints more than 16 MiB. A program that ends
  /// with an error is a CommandResult like any other; one killed by signal N has exit_code 128+N.
  virtual Result<CommandResult> run(const std::vector<std::string>& argv,
                                    const std::string& input) = 0;
  /// Whether others than the host's administrator may have written what is read here: the network
  /// namespace of a workload.
  virtual bool foreign() const { return false; }
  /// Where time is bounded, there is a little more from now on: to put back what is half done.
  virtual void prolong() {}
  /// A file of /proc, /sys or cgroupfs: at most 1 MiB, else kLimit.
  virtual Result<std::string> read(const std::string& path) const = 0;
  virtual Status write(const std::string& path, const std::string& value) = 0;
  /// Inode number of the cgroup v2 directory `path` (relative to the cgroup2 mount, wherever that
  /// is): it changes when the cgroup is removed and created again. kNotFound when it does not
  /// exist, kUnavailable when no cgroup2 is mounted.
  virtual Result<std::uint64_t> cgroup_inode(const std::string& path) const = 0;
};

}  // namespace meshnode
