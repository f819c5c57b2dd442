#pragma once
/// Starting a worker: a fork and exec that sheds everything the worker does not need.

#include <meshnode/result.h>
#include <sys/types.h>
#include <string>
#include <vector>

#include "supervisor/descriptor.h"

namespace meshnode::supervisor {

struct WorkerProcess {
  pid_t pid = -1;
  Descriptor pidfd;  ///< readable once the process has ended (pidfd_open(2))
};

/// Runs `program` (a path) with `channel` as descriptor kChannelDescriptor, standard streams
/// (stdin from /dev/null) and nothing else open. The process has CAP_NET_RAW at most and can gain
/// nothing (bounding set, no_new_privs), dies with this thread, writes no core, has default
/// signals but for SIGHUP, SIGINT and SIGTERM, which it ignores, as many descriptors as the hard
/// limit allows, and no NOTIFY_SOCKET in its environment. Must be called on the thread that lives
/// as long as the process. A program that cannot be started shows as a worker that exits with code
/// 126 or 127.
Result<WorkerProcess> spawn_worker(const std::string& program, const std::vector<std::string>& argv,
                                   int channel);

/// Collects a process whose pidfd is readable: "exited with code 1", "killed by signal 9 (Killed)".
std::string reap(pid_t pid);

}  // namespace meshnode::supervisor
