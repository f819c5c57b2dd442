// What a taken-over worker may ask of sockets.sock: whoever keeps to the protocol gets what was
// asked for and nothing else, everybody else is cut off, a stranger is never served, the others are
// served on, and no descriptor is left behind. The namespace that is granted is the program's own.

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/log.h"
#include "fuzz/input.h"
#include "io/net_namespace.h"
#include "io/space_protocol.h"
#include "supervisor/socket_service.h"

using namespace meshnode;
using namespace meshnode::supervisor;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::size_t kMaxSteps = 40;
constexpr std::size_t kMaxClients = 8;
constexpr std::uint16_t kGranted = 1;

struct Place {
  Place() {
    log::set_sink([](std::string_view) {});
    std::string name = "/tmp/meshnode-fuzz-XXXXXX";
    require(::mkdtemp(name.data()) != nullptr);
    directory = name;
    auto opened = io::NetNamespace::of_process(static_cast<std::uint32_t>(::getpid()));
    require(opened.has_value());
    own = std::make_shared<const io::NetNamespace>(std::move(*opened));
  }
  ~Place() {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  std::string directory;
  std::shared_ptr<const io::NetNamespace> own;
};

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

struct Reply {
  bool ended = false;
  io::SpaceAnswer text;
  std::vector<Descriptor> sockets;
};

Reply reply_of(const Descriptor& client) {
  Reply reply;
  iovec part{&reply.text, sizeof reply.text};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * 64)> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = -1;
  do {
    got = ::recvmsg(client.get(), &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);  // the fuzzer's alarm
  reply.ended = got <= 0;
  if (reply.ended) return reply;
  require(got == sizeof reply.text && (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0);
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  const std::size_t size = header == nullptr ? 0 : header->cmsg_len - CMSG_LEN(0);
  for (std::size_t at = 0; at < size; at += sizeof(int)) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header) + at, sizeof fd);
    reply.sockets.emplace_back(fd);
  }
  return reply;
}

bool is_valid(const io::SpaceRequest& request) {
  return request.slot != 0 && request.count >= 1 && request.count <= io::kMaxSpaceSockets &&
         (request.kind == 1 || request.kind == 4 || request.kind == 6);
}

void require_answers(const Reply& reply, const io::SpaceRequest& request, bool granted) {
  require(!reply.ended);
  require(std::memcmp(&reply.text.request, &request, sizeof request) == 0);
  if (!granted || request.slot != kGranted) {
    require(reply.text.error == ENOENT && reply.sockets.empty());
    return;
  }
  // Without the right to enter a namespace there are none.
  require(reply.text.error == 0 ? reply.sockets.size() == request.count
                                : reply.text.error == EPERM && reply.sockets.empty());
  for (const Descriptor& each : reply.sockets) {
    int domain = 0;
    socklen_t size = sizeof domain;
    require(::getsockopt(each.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0);
    require(domain == (request.kind == 1 ? AF_NETLINK : request.kind == 4 ? AF_INET : AF_INET6));
  }
}

struct Lab {
  Lab(const Place& place, std::string at) : own(place.own), path(std::move(at)) {
    auto opened = SocketService::open(path);
    require(opened.has_value());
    service = std::move(*opened);
    service->serve(::getpid());
    grant();
  }
  void grant() {
    granted = service->grant(kGranted, own).has_value();
    require(granted);
  }

  Descriptor connect() const {
    Descriptor client(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    path.copy(at.sun_path, sizeof(at.sun_path) - 1);
    require(::connect(client.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
    return client;
  }
  static bool send(const Descriptor& client, Bytes text) {
    ssize_t sent = -1;
    do {
      sent = ::send(client.get(), text.data(), text.size(), MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0;
  }
  static bool send(const Descriptor& client, const io::SpaceRequest& request) {
    return send(client, {reinterpret_cast<const std::uint8_t*>(&request), sizeof request});
  }

  /// Whether the connection lives on.
  bool ask(const Descriptor& client, const io::SpaceRequest& request) const {
    if (!send(client, request)) return false;
    const Reply reply = reply_of(client);
    if (!is_valid(request)) {
      require(reply.ended);
      return false;
    }
    require_answers(reply, request, granted);
    return true;
  }
  /// Any octets: one message.
  bool say(const Descriptor& client, Bytes text) const {
    io::SpaceRequest request;
    if (text.size() == sizeof request) {
      std::memcpy(&request, text.data(), sizeof request);
      return ask(client, request);
    }
    if (text.empty()) return false;
    require(send(client, text));
    require(reply_of(client).ended);
    return false;
  }
  /// Many requests before the first answer is read.
  bool hurry(const Descriptor& client, const io::SpaceRequest& request, std::size_t times) const {
    std::size_t sent = 0;
    while (sent < times && send(client, request)) ++sent;
    for (; sent > 0; --sent) {
      const Reply reply = reply_of(client);
      if (reply.ended) return false;
      require_answers(reply, request, granted);
    }
    return true;
  }

  std::shared_ptr<const io::NetNamespace> own;
  std::string path;
  std::unique_ptr<SocketService> service;
  std::vector<Descriptor> clients;
  bool granted = false;
};

io::SpaceRequest some_request(Input& in) {
  io::SpaceRequest request;
  request.slot = in.one_of<std::uint16_t>({kGranted, kGranted, 2, 0, in.pair()});
  request.kind = in.one_of<std::uint8_t>({4, 6, 1, 4, in.octet()});
  constexpr std::uint8_t kMost = io::kMaxSpaceSockets;
  request.count = in.one_of<std::uint8_t>({1, 2, kMost, kMost + 1, 0, in.octet()});
  return request;
}

/// Another process is the worker now: all that there are hear it, and no more are served.
void replace_worker(Lab& lab) {
  lab.service->serve(1);
  for (const Descriptor& each : lab.clients) require(reply_of(each).ended);
  lab.clients.clear();
  require(reply_of(lab.connect()).ended);
  lab.service->serve(::getpid());
}

void act(Input& in, Lab& lab) {
  const std::uint8_t choice = in.octet() % 12;
  if (lab.clients.empty() || (choice == 0 && lab.clients.size() < kMaxClients)) {
    lab.clients.push_back(lab.connect());
  }
  const auto at =
      lab.clients.begin() + static_cast<std::ptrdiff_t>(in.up_to(lab.clients.size() - 1));
  bool stays = true;
  switch (choice) {
    case 1:
      stays = lab.say(*at, in.take(in.one_of<std::size_t>({4, 3, 5, in.octet()})));
      break;
    case 2:
      stays = lab.hurry(*at, {kGranted, 4, 1}, in.octet());
      break;
    case 3:
      stays = false;
      break;
    case 4:
      return replace_worker(lab);
    case 5:
      lab.service->revoke(kGranted);
      lab.granted = false;
      break;
    case 6:
      lab.grant();
      break;
    default:
      stays = lab.ask(*at, some_request(in));
  }
  if (!stays) lab.clients.erase(at);
}

/// One connection asks more often than any proxy loop; it is cut off unless this machine is slow.
void flood(const Lab& lab) {
  const Descriptor greedy = lab.connect();
  const io::SpaceRequest request{2, 4, 1};
  for (unsigned i = 0; i < kMaxSocketRequests + 200; ++i) {
    if (!Lab::send(greedy, request) || reply_of(greedy).ended) {
      require(i >= kMaxSocketRequests);
      return;
    }
  }
}

/// As many connections as are kept, and one.
void crowd(Lab& lab) {
  for (std::size_t i = 0; i < kMaxSocketClients; ++i) {
    lab.clients.push_back(lab.connect());
    require(lab.ask(lab.clients.back(), {2, 4, 1}));
  }
  require(reply_of(lab.connect()).ended);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Place place;
  const std::size_t before = open_descriptors();
  Input in(data, size);
  const std::uint16_t kind = in.pair();
  if (kind == 1 || kind == 2) {
    const std::string name = kind == 1 ? std::string(200, 'x') : "none/s";
    const auto refused = SocketService::open(place.directory + "/" + name);
    require(!refused && !refused.error().message.empty());
  } else {
    Lab lab(place, place.directory + "/s");
    if (kind == 3) flood(lab);
    if (kind == 4) crowd(lab);
    for (std::size_t step = 0; step < kMaxSteps && !in.empty(); ++step) act(in, lab);
    // Whatever went before, the next is served.
    lab.clients.clear();
    require(lab.ask(lab.connect(), {2, 4, 1}));
  }
  require(open_descriptors() == before);
  return 0;
}
