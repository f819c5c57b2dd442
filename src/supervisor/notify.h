#pragma once
/// sd_notify(3) in one datagram of our own: libsystemd would bring four libraries along.

#include <meshnode/result.h>
#include <string>
#include <string_view>

namespace meshnode::supervisor {

/// Sends `state` ("READY=1", lines joined by line feeds) to `socket`, the value of $NOTIFY_SOCKET:
/// a path, or "@name" for an abstract socket. An empty `socket` means nobody asked: no error.
/// Never blocks.
Status notify(const std::string& socket, std::string_view state);

}  // namespace meshnode::supervisor
