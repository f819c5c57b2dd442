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
Outcome capture_show(Kernel& kernel);
Outcome capture_remove(Kernel& kernel);

}  // namespace meshnode::cli
