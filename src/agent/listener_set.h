#pragma once
/// From the names under which the supervisor hands sockets over (capture/listeners.h) to what the
/// proxy loops accept from. Thread: any.

#include <map>
#include <string>

#include "proxy/proxy_loop.h"

namespace meshnode::agent {

/// Borrows the descriptors.
proxy::ListenerSet listener_set(const std::map<std::string, int>& by_name);
/// Takes them: closed when the last loop has let go of the set.
proxy::ListenerSet owning_listener_set(const std::map<std::string, int>& by_name);

}  // namespace meshnode::agent
