#pragma once
/// The commands that talk to an agent or to the kernel.

#include <meshnode/kernel.h>
#include <meshnode/time.h>
#include <functional>
#include <string>

#include "admin/client.h"
#include "cli/arguments.h"
#include "cli/outcome.h"

namespace meshnode::cli {

/// admin::get(), or a test's.
using Ask =
    std::function<Result<admin::Answer>(const std::string& socket_path, const std::string& target)>;

/// Prints GET /status; exit 1 when the node is degraded.
Outcome status(const Invocation& asked, const Ask& ask, WallTime now);

/// Where capture rules may be: the network namespace of the command, and others.
struct CapturePlaces {
  Kernel& here;
  /// Goes from one to the next of the others, with only that one open: there may be thousands.
  using Visit = std::function<void(const std::string& name, Kernel& kernel)>;
  std::function<void(const Visit& visit)> others;
  /// capture::HostFacts::agent of an agent that runs, or ran, here: rules of another's, which may
  /// have a host of its own in a namespace of this machine, are left alone.
  std::string agent;
};
/// As iptables-restore takes them, or as JSON places[]{namespace, rules[]}, the command's own
/// namespace as "".
Outcome capture_show(const CapturePlaces& places, Output output);
Outcome capture_remove(const CapturePlaces& places);

}  // namespace meshnode::cli
