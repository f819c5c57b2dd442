#include "supervisor/sockets.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/log.h"

namespace meshnode::supervisor {
namespace {

Error failed(const capture::Listener& wanted, const char* call, int code) {
  const SocketAddress at{wanted.address, wanted.port};
  std::string text = at.text() + ": " + call + ": " + std::strerror(code);
  if (code == EADDRINUSE) {
    text +=
        "; another program has the port: see `ss -ltnp 'sport = :" + std::to_string(wanted.port) +
        "'`";
    return {ErrorCode::kUnavailable, text};
  }
  if (code == EPERM || code == EACCES) {
    return {ErrorCode::kPermission, text + "; run as root"};
  }
  return {ErrorCode::kUnavailable, text + "; see ip(7) and the kernel's log"};
}

bool switch_on(int socket, int level, int option) {
  const int on = 1;
  return ::setsockopt(socket, level, option, &on, sizeof(on)) == 0;
}

Status prepare(int socket, const capture::Listener& wanted) {
  const bool v6 = wanted.family == Family::kV6;
  if (!switch_on(socket, SOL_SOCKET, SO_REUSEADDR)) {
    return fail(failed(wanted, "SO_REUSEADDR", errno));
  }
  if (v6 && !switch_on(socket, IPPROTO_IPV6, IPV6_V6ONLY)) {
    return fail(failed(wanted, "IPV6_V6ONLY", errno));
  }
  if (wanted.transparent &&
      !switch_on(socket, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT)) {
    return fail(failed(wanted, "IP_TRANSPARENT", errno));
  }
  return {};
}

Status bind_and_listen(int socket, const capture::Listener& wanted) {
  sockaddr_storage raw{};
  const socklen_t length = SocketAddress{wanted.address, wanted.port}.to_sockaddr(raw);
  if (::bind(socket, reinterpret_cast<const sockaddr*>(&raw), length) != 0) {
    return fail(failed(wanted, "bind", errno));
  }
  if (::listen(socket, kBacklog) != 0) return fail(failed(wanted, "listen", errno));
  return {};
}

/// A queue shorter than kBacklog drops connections while a worker is replaced under load.
void warn_about_somaxconn() {
  int limit = kBacklog;
  if (std::ifstream("/proc/sys/net/core/somaxconn") >> limit && limit < kBacklog) {
    log::warn("supervisor", "net.core.somaxconn shortens the queues of new connections",
              {{"is", limit}, {"wanted", kBacklog}});
  }
}

}  // namespace

std::vector<capture::Listener> agent_listeners() {
  auto all = capture::listeners();
  const IpAddress any4;
  const IpAddress any6 = IpAddress::v6({});
  all.push_back({"metrics4", Family::kV4, any4, kMetricsPort, false});
  all.push_back({"metrics6", Family::kV6, any6, kMetricsPort, false});
  all.push_back({"ready4", Family::kV4, any4, kReadyPort, false});
  all.push_back({"ready6", Family::kV6, any6, kReadyPort, false});
  return all;
}

Result<std::vector<OpenListener>> open_listeners(const std::vector<capture::Listener>& wanted) {
  std::vector<OpenListener> opened;
  for (const auto& one : wanted) {
    const bool v6 = one.family == Family::kV6;
    Descriptor socket(
        ::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
    if (!socket && v6 && errno == EAFNOSUPPORT) continue;
    if (!socket) return fail(failed(one, "socket", errno));
    if (auto ok = prepare(socket.get(), one); !ok) return fail(ok.error());
    if (auto ok = bind_and_listen(socket.get(), one); !ok) return fail(ok.error());
    opened.push_back({one.name, std::move(socket)});
  }
  warn_about_somaxconn();
  return opened;
}

Result<OpenListener> open_admin_socket(const std::string& path) {
  sockaddr_un at{};
  if (path.size() >= sizeof(at.sun_path)) {
    return fail(ErrorCode::kInvalid, path + ": longer than the " +
                                         std::to_string(sizeof(at.sun_path) - 1) +
                                         " octets of a socket's name; choose another --run-dir");
  }
  at.sun_family = AF_UNIX;
  std::memcpy(at.sun_path, path.c_str(), path.size());
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // The lock of the run directory is ours, so whatever lies there serves nobody.
  ::unlink(path.c_str());
  // Never there with a wider mode, not even for a moment.
  const mode_t before = ::umask(0177);
  const bool bound =
      socket && ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)) == 0;
  const int code = errno;
  ::umask(before);
  if (!bound || ::listen(socket.get(), kBacklog) != 0) {
    return fail(ErrorCode::kUnavailable, path + ": " + std::strerror(bound ? errno : code) +
                                             "; check the directory or choose another --run-dir");
  }
  return OpenListener{"admin", std::move(socket)};
}

}  // namespace meshnode::supervisor
