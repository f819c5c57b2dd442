#pragma once
/// Opening the listening sockets that outlive every worker. They are opened once, shared with
/// workers by descriptor, and never closed while the supervisor runs: closing one would reset the
/// connections in its queue.

#include <meshnode/result.h>
#include <cstdint>
#include <string>
#include <vector>

#include "capture/listeners.h"
#include "supervisor/descriptor.h"

namespace meshnode::supervisor {

/// Connections that may wait while a worker is replaced; the kernel caps it at
/// net.core.somaxconn.
inline constexpr int kBacklog = 4096;

inline constexpr std::uint16_t kMetricsPort = 15020;
inline constexpr std::uint16_t kReadyPort = 15021;

/// Those of the capture rules and "metrics4", "metrics6", "ready4", "ready6".
std::vector<capture::Listener> agent_listeners();

struct OpenListener {
  std::string name;
  Descriptor socket;
};

/// Bound, listening, non-blocking and close-on-exec, IPv6 ones for IPv6 only. A listener of a
/// family that the host has switched off is left out. kUnavailable when a port is taken, with the
/// command that names the holder; all or nothing.
Result<std::vector<OpenListener>> open_listeners(const std::vector<capture::Listener>& wanted);

/// A listening AF_UNIX stream socket at `path`, mode 0600; replaces what an earlier agent left.
Result<OpenListener> open_admin_socket(const std::string& path);

}  // namespace meshnode::supervisor
