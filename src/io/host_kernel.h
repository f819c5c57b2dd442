#pragma once
/// The Kernel seam on the real host. Programs are started from a fixed PATH, never through a shell,
/// with nothing of our environment and no descriptor of ours but the three pipes, and die with us.
/// Thread: any; calls block for up to 10 s. No state, so one object may be shared.

#include <meshnode/kernel.h>
#include <string_view>

namespace meshnode::io {

struct HostKernelLimits {
  int timeout_milliseconds = 10'000;
  std::size_t output_bytes = std::size_t{16} << 20;
  std::size_t file_bytes = std::size_t{1} << 20;
};

class HostKernel : public Kernel {
 public:
  explicit HostKernel(HostKernelLimits limits = {}) : limits_(limits) {}

  Result<CommandResult> run(const std::vector<std::string>& argv,
                            const std::string& input) override;
  Result<std::string> read(const std::string& path) const override;
  Status write(const std::string& path, const std::string& value) override;
  Result<std::uint64_t> cgroup_inode(const std::string& path) const override;

 private:
  HostKernelLimits limits_;
};

/// Where cgroup v2 is mounted, from the text of /proc/self/mountinfo (proc(5)); kUnavailable when
/// it is not. The mount of the hierarchy's root is preferred to one of a part of it.
Result<std::string> cgroup2_mount(std::string_view mountinfo);

}  // namespace meshnode::io
