#pragma once
/// Octets and descriptors in one message over an AF_UNIX socket.

#include <sys/types.h>
#include <span>
#include <string_view>

#include "supervisor/descriptor.h"

namespace meshnode::supervisor {

/// The octets that were sent, with which all descriptors travelled, or -1 with errno. Does not
/// wait. At most kMaxListeners descriptors, which stay the caller's.
ssize_t send_descriptors(int socket, std::string_view bytes,
                         std::span<const Descriptor> descriptors);

}  // namespace meshnode::supervisor
