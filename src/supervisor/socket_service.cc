#include "supervisor/socket_service.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "base/log.h"
#include "io/loop.h"
#include "io/space_protocol.h"
#include "supervisor/message.h"
#include "supervisor/send_descriptors.h"

namespace meshnode::supervisor {
namespace {

constexpr const char* kScope = "sockets";
constexpr int kBacklog = 128;
// The least the kernel grants: a few answers that nobody reads fill it.
constexpr int kSendBuffer = 1;

Error failed(const std::string& path, int code) {
  return {ErrorCode::kUnavailable,
          path + ": " + std::strerror(code) + "; check the directory or choose another --run-dir"};
}

pid_t peer_of(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : -1;
}

Descriptor make_socket(std::uint8_t kind) {
  switch (static_cast<io::SpaceSocket>(kind)) {
    case io::SpaceSocket::kTcp4:
      return Descriptor(
          ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
    case io::SpaceSocket::kTcp6:
      return Descriptor(
          ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
    case io::SpaceSocket::kDiag:
      return Descriptor(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  }
  errno = EINVAL;
  return {};
}

bool is_well_formed(const io::SpaceRequest& request) {
  const auto kind = static_cast<io::SpaceSocket>(request.kind);
  return request.slot != 0 && request.count >= 1 && request.count <= io::kMaxSpaceSockets &&
         (kind == io::SpaceSocket::kTcp4 || kind == io::SpaceSocket::kTcp6 ||
          kind == io::SpaceSocket::kDiag);
}

bool answer(int to, const io::SpaceAnswer& text, const std::vector<Descriptor>& sockets) {
  static_assert(io::kMaxSpaceSockets <= kMaxListeners);
  const std::string_view bytes(reinterpret_cast<const char*>(&text), sizeof text);
  return send_descriptors(to, bytes, sockets) == static_cast<ssize_t>(sizeof text);
}

}  // namespace

/// What the thread does. It alone has the connections.
class SocketService::Server {
 public:
  explicit Server(SocketService& service) : service_(service) {}

  void run() {
    sigset_t every;
    ::sigfillset(&every);
    ::pthread_sigmask(SIG_BLOCK, &every, nullptr);
    while (step()) {
    }
  }

 private:
  struct Client {
    Descriptor socket;
    pid_t pid;
    unsigned left = kMaxSocketRequests;  // in this second
    Instant since{};
  };

  bool step() {
    std::vector<pollfd> polls{{service_.wake_.get(), POLLIN, 0},
                              {service_.listener_.get(), POLLIN, 0}};
    for (const Client& client : clients_) polls.push_back({client.socket.get(), POLLIN, 0});
    if (::poll(polls.data(), polls.size(), -1) < 0 && errno != EINTR) std::abort();
    // Before the looking: what is said in between wakes again.
    if (polls[0].revents != 0) {
      std::uint64_t told = 0;
      static_cast<void>(!::read(service_.wake_.get(), &told, sizeof told));
    }
    pid_t worker = -1;
    {
      const std::lock_guard lock(service_.mutex_);
      if (service_.stopping_) return false;
      worker = service_.worker_;
    }
    for (std::size_t i = 2; i < polls.size(); ++i) {
      Client& client = clients_[i - 2];
      const bool stays = client.pid == worker && (polls[i].revents == 0 || serve(client));
      if (!stays) client.socket = Descriptor();
    }
    std::erase_if(clients_, [](const Client& client) { return !client.socket; });
    if (polls[1].revents != 0) accept(worker);
    return true;
  }

  void accept(pid_t worker) {
    Descriptor socket(
        ::accept4(service_.listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      // Without a free descriptor the connection stays in the queue and poll() tells again at once.
      if (errno == EMFILE || errno == ENFILE) ::poll(nullptr, 0, 100);
      return;
    }
    const pid_t pid = peer_of(socket.get());
    if (pid <= 0 || pid != worker || clients_.size() == kMaxSocketClients) {
      log::warn(kScope, "somebody other than the worker, or too many, asked for sockets",
                {{"pid", pid}});
      return;
    }
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
    clients_.push_back({std::move(socket), pid, kMaxSocketRequests, io::monotonic_now()});
  }

  /// One request, so that no connection keeps the others waiting. False ends the connection.
  bool serve(Client& client) {
    // One octet more than a request has, so that a longer one shows.
    std::array<char, sizeof(io::SpaceRequest) + 1> text{};
    const ssize_t got = ::recv(client.socket.get(), text.data(), text.size(), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    io::SpaceRequest request;
    std::memcpy(&request, text.data(), sizeof request);
    if (got != sizeof request || !is_well_formed(request)) return cut_off(client, "nonsense");
    const Instant now = io::monotonic_now();
    if (now - client.since >= std::chrono::seconds(1)) {
      client.since = now;
      client.left = kMaxSocketRequests;
    }
    if (client.left-- == 0) return cut_off(client, "more requests than are allowed");
    std::vector<Descriptor> sockets;
    const int error = make(request, sockets);
    if (answer(client.socket.get(), {request, static_cast<std::uint32_t>(error)}, sockets)) {
      return true;
    }
    return cut_off(client, "unread answers");
  }

  static bool cut_off(const Client& client, const char* why) {
    log::warn(kScope, "a connection that asks for sockets is cut off",
              {{"pid", client.pid}, {"reason", why}});
    return false;
  }

  /// 0 or errno.
  int make(const io::SpaceRequest& request, std::vector<Descriptor>& sockets) {
    std::shared_ptr<const io::NetNamespace> place;
    {
      const std::lock_guard lock(service_.mutex_);
      const auto found = service_.granted_.find(request.slot);
      if (found == service_.granted_.end()) return ENOENT;
      place = found->second;
    }
    if (::setns(place->fd(), CLONE_NEWNET) != 0) return errno;
    int error = 0;
    for (std::uint8_t i = 0; i < request.count && error == 0; ++i) {
      Descriptor socket = make_socket(request.kind);
      if (socket) {
        sockets.push_back(std::move(socket));
      } else {
        error = errno;
      }
    }
    // What is made from here on would be in the wrong namespace.
    if (::setns(service_.home_.get(), CLONE_NEWNET) != 0) std::abort();
    return sockets.empty() ? error : 0;
  }

  SocketService& service_;
  std::vector<Client> clients_;
};

SocketService::SocketService(std::string path, Descriptor listener, Descriptor wake,
                             Descriptor home)
    : path_(std::move(path)),
      listener_(std::move(listener)),
      wake_(std::move(wake)),
      home_(std::move(home)) {}

SocketService::~SocketService() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
  if (thread_.joinable()) thread_.join();
  ::unlink(path_.c_str());
}

Result<std::unique_ptr<SocketService>> SocketService::open(const std::string& path) {
  sockaddr_un at{};
  if (path.size() >= sizeof(at.sun_path)) return fail(failed(path, ENAMETOOLONG));
  at.sun_family = AF_UNIX;
  std::memcpy(at.sun_path, path.c_str(), path.size());
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // The lock of the run directory is ours, so whatever lies there serves nobody.
  ::unlink(path.c_str());
  const mode_t before = ::umask(0177);
  const bool bound =
      socket && ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0;
  const int code = errno;
  ::umask(before);
  if (!bound) return fail(failed(path, code));
  if (::listen(socket.get(), kBacklog) != 0) return fail(failed(path, errno));
  Descriptor wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return fail(failed(path, errno));
  Descriptor home(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!home) return fail(failed("/proc/thread-self/ns/net", errno));
  return std::unique_ptr<SocketService>(
      new SocketService(path, std::move(socket), std::move(wake), std::move(home)));
}

void SocketService::wake() const {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(wake_.get(), &one, sizeof one));
}

void SocketService::serve(pid_t worker) {
  {
    const std::lock_guard lock(mutex_);
    worker_ = worker;
  }
  wake();
}

Status SocketService::grant(std::uint16_t slot, std::shared_ptr<const io::NetNamespace> place) {
  {
    const std::lock_guard lock(mutex_);
    granted_[slot] = std::move(place);
  }
  if (thread_.joinable()) return {};
  try {
    thread_ = std::thread([this] { Server(*this).run(); });
  } catch (const std::system_error& error) {
    return fail(ErrorCode::kUnavailable, std::string("no thread for sockets: ") + error.what());
  }
  return {};
}

void SocketService::revoke(std::uint16_t slot) {
  const std::lock_guard lock(mutex_);
  granted_.erase(slot);
}

}  // namespace meshnode::supervisor
