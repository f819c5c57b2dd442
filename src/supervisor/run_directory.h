#pragma once
/// The directories an agent needs, and the lock that keeps a second agent out.

#include <meshnode/result.h>
#include <string>

#include "supervisor/descriptor.h"

namespace meshnode::supervisor {

/// Holds the lock until destroyed; the kernel lets go of it with the process, however it ends.
class RunDirectory {
 public:
  /// Creates `run_dir` (0755) and `state_dir` (0700) where they are missing and locks
  /// `run_dir`/lock. kUnavailable names the process that holds it.
  static Result<RunDirectory> claim(const std::string& run_dir, const std::string& state_dir);

 private:
  explicit RunDirectory(Descriptor lock) : lock_(std::move(lock)) {}
  Descriptor lock_;
};

}  // namespace meshnode::supervisor
