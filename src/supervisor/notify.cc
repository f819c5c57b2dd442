#include "supervisor/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "supervisor/descriptor.h"

namespace meshnode::supervisor {

Status notify(const std::string& socket, std::string_view state) {
  if (socket.empty()) return {};
  sockaddr_un to{};
  if ((socket[0] != '/' && socket[0] != '@') || socket.size() < 2 ||
      socket.size() >= sizeof(to.sun_path)) {
    return fail(ErrorCode::kInvalid, "NOTIFY_SOCKET is neither a path nor an abstract name");
  }
  to.sun_family = AF_UNIX;
  std::memcpy(to.sun_path, socket.data(), socket.size());
  // An abstract name starts with NUL and is not terminated by one.
  if (socket[0] == '@') to.sun_path[0] = '\0';
  const std::size_t terminator = socket[0] == '@' ? 0 : 1;
  const auto length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket.size() + terminator);

  const Descriptor from(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!from || ::sendto(from.get(), state.data(), state.size(), MSG_NOSIGNAL,
                        reinterpret_cast<const sockaddr*>(&to), length) < 0) {
    return fail(ErrorCode::kUnavailable,
                "cannot tell the service manager: " + std::string(std::strerror(errno)));
  }
  return {};
}

}  // namespace meshnode::supervisor
