#pragma once
/// Seam: the host kernel beyond sockets and files: packet filter, routing rules, users, cgroups.
/// Used by the supervisor only. Calls block.

#include <cstdint>
#include <meshnode/result.h>
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
  /// Runs a program (found on a fixed PATH) with `input` on its stdin; kUnavailable when it
  /// cannot be started, kTimeout after 10 s, kLimit when it prints more than 16 MiB.
  virtual Result<CommandResult> run(const std::vector<std::string>& argv,
                                    const std::string& input) = 0;
  /// A file of /proc, /sys or cgroupfs.
  virtual Result<std::string> read(const std::string& path) const = 0;
  virtual Status write(const std::string& path, const std::string& value) = 0;
  /// Numeric id from a user name or a decimal number; looks in /etc/passwd only.
  virtual Result<std::uint32_t> user_id(const std::string& name) const = 0;
  /// Inode number of the cgroup v2 directory `path` (relative to the cgroup2 mount): it changes
  /// when the cgroup is removed and created again.
  virtual Result<std::uint64_t> cgroup_inode(const std::string& path) const = 0;
};

}  // namespace meshnode
