#include "supervisor/socket_service.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <optional>

#include "io/network.h"
#include "io/space_sockets.h"
#include "support/namespaces.h"

using namespace meshnode;
using namespace meshnode::supervisor;
using meshnode::test::TestNamespace;
using namespace std::chrono_literals;

namespace {

struct Service {
  Service() {
    std::string name = "/tmp/meshnode-sockets-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    directory = name;
    path = directory + "/sockets.sock";
    auto opened = SocketService::open(path);
    REQUIRE(opened);
    service = std::move(*opened);
    service->serve(::getpid());
  }
  ~Service() {
    service.reset();
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  void grant(std::uint16_t slot, const TestNamespace& place) const {
    auto opened = io::NetNamespace::of_process(place.pid());
    REQUIRE(opened);
    REQUIRE(
        service->grant(slot, std::make_shared<const io::NetNamespace>(std::move(*opened))));
  }
  std::string directory;
  std::string path;
  std::unique_ptr<SocketService> service;
};

Descriptor connect_to(const std::string& path) {
  Descriptor client(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const timeval patience{5, 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  path.copy(at.sun_path, sizeof(at.sun_path) - 1);
  if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) return {};
  return client;
}

struct Reply {
  ssize_t size = -1;
  std::uint32_t error = 0;
  std::vector<Descriptor> sockets;
};

Reply reply_of(const Descriptor& client) {
  Reply reply;
  io::SpaceAnswer text;
  iovec part{&text, sizeof text};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * 64)> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  reply.size = ::recvmsg(client.get(), &message, MSG_CMSG_CLOEXEC);
  reply.error = text.error;
  const cmsghdr* header = reply.size > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  for (std::size_t i = 0; header != nullptr && i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
       ++i) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
    reply.sockets.emplace_back(fd);
  }
  return reply;
}

Reply ask(const Descriptor& client, const io::SpaceRequest& request) {
  REQUIRE(::send(client.get(), &request, sizeof request, MSG_NOSIGNAL) == sizeof request);
  return reply_of(client);
}

constexpr auto kTcp4 = static_cast<std::uint8_t>(io::SpaceSocket::kTcp4);
constexpr auto kTcp6 = static_cast<std::uint8_t>(io::SpaceSocket::kTcp6);
constexpr auto kDiag = static_cast<std::uint8_t>(io::SpaceSocket::kDiag);

/// Inode of the namespace that a socket lives in (SIOCGSKNS opens it).
ino_t namespace_of(int fd) {
  constexpr unsigned long kSiocGskNs = 0x894C;
  const Descriptor found(::ioctl(fd, kSiocGskNs));
  struct stat info {};
  REQUIRE(found);
  REQUIRE(::fstat(found.get(), &info) == 0);
  return info.st_ino;
}

ino_t inode_of(const TestNamespace& place) {
  struct stat info {};
  REQUIRE(::stat(place.path().c_str(), &info) == 0);
  return info.st_ino;
}

/// A listening socket in a namespace.
struct Inside {
  explicit Inside(const TestNamespace& place, IpAddress ip = *IpAddress::parse("127.0.0.1")) {
    place.inside([this, ip] {
      fd = Descriptor(
          ::socket(ip.is_v4() ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_storage at{};
      socklen_t size = SocketAddress{ip, 0}.to_sockaddr(at);
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), size);
      ::listen(fd.get(), 64);
      size = sizeof at;
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&at), &size);
      address = SocketAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(at));
    });
  }
  Descriptor fd;
  SocketAddress address;
};

struct Dialled final : DialEvents {
  explicit Dialled(io::Loop& on) : loop(on) {}
  void on_connected(std::unique_ptr<Stream> connected) override {
    stream = std::move(connected);
    loop.stop();
  }
  void on_dial_failed(const Error& why) override {
    error = why;
    loop.stop();
  }
  io::Loop& loop;
  std::unique_ptr<Stream> stream;
  std::optional<Error> error;
};

}  // namespace

TEST_CASE("the worker gets sockets that live in the namespace it asked for") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const TestNamespace two;
  const Service lab;
  struct stat info {};
  REQUIRE(::stat(lab.path.c_str(), &info) == 0);
  CHECK((info.st_mode & 07777U) == 0600U);
  const Descriptor client = connect_to(lab.path);
  lab.grant(1, one);
  lab.grant(2, two);
  for (const auto& [slot, place] : {std::pair(1, &one), std::pair(2, &two)}) {
    for (const std::uint8_t kind : {kTcp4, kTcp6, kDiag}) {
      const auto reply = ask(client, {static_cast<std::uint16_t>(slot), kind, 3});
      CHECK(reply.error == 0);
      REQUIRE(reply.sockets.size() == 3);
      CHECK(namespace_of(reply.sockets[2].get()) == inode_of(*place));
      if (kind != kDiag) CHECK((::fcntl(reply.sockets[0].get(), F_GETFL) & O_NONBLOCK) != 0);
    }
  }
  CHECK(ask(client, {1, kTcp4, io::kMaxSpaceSockets}).sockets.size() == io::kMaxSpaceSockets);
  CHECK(ask(client, {3, kTcp4, 1}).error == ENOENT);
  lab.service->revoke(1);
  CHECK(ask(client, {1, kTcp4, 1}).error == ENOENT);
  CHECK(ask(client, {2, kTcp4, 1}).error == 0);
}

TEST_CASE("nobody but the worker of the moment is served") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const Service lab;
  lab.grant(1, one);
  const Descriptor before = connect_to(lab.path);
  REQUIRE(ask(before, {1, kTcp4, 1}).error == 0);
  lab.service->serve(static_cast<pid_t>(one.pid()));
  CHECK(reply_of(before).size == 0);
  const Descriptor stranger = connect_to(lab.path);
  CHECK(reply_of(stranger).size <= 0);
  lab.service->serve(-1);
  CHECK(reply_of(connect_to(lab.path)).size <= 0);
  lab.service->serve(::getpid());
  CHECK(ask(connect_to(lab.path), {1, kTcp4, 1}).error == 0);
}

TEST_CASE("whoever asks for nonsense is cut off, and the others are served on") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const Service lab;
  lab.grant(1, one);
  const Descriptor good = connect_to(lab.path);
  const std::array<std::string, 3> sizes = {"abc", "abcde", std::string(4000, 'x')};
  for (const std::string& text : sizes) {
    const Descriptor client = connect_to(lab.path);
    REQUIRE(::send(client.get(), text.data(), text.size(), MSG_NOSIGNAL) > 0);
    CHECK(reply_of(client).size <= 0);
  }
  constexpr std::uint8_t kTooMany = io::kMaxSpaceSockets + 1;
  for (const io::SpaceRequest& request :
       {io::SpaceRequest{0, kTcp4, 1}, io::SpaceRequest{1, 0, 1}, io::SpaceRequest{1, 9, 1},
        io::SpaceRequest{1, kTcp4, 0}, io::SpaceRequest{1, kTcp4, kTooMany}}) {
    CHECK(ask(connect_to(lab.path), request).size <= 0);
  }
  CHECK(ask(good, {1, kTcp4, 1}).error == 0);
}

TEST_CASE("whoever floods or does not read is cut off, and the service does not wait for him") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const Service lab;
  lab.grant(1, one);
  const Descriptor good = connect_to(lab.path);
  const io::SpaceRequest request{1, kTcp4, io::kMaxSpaceSockets};
  const Descriptor silent = connect_to(lab.path);
  ssize_t sent = 0;
  for (int i = 0; i < 1000 && sent >= 0; ++i) {
    sent = ::send(silent.get(), &request, sizeof request, MSG_NOSIGNAL);
  }
  CHECK(sent < 0);
  CHECK(ask(good, {1, kTcp4, 1}).error == 0);

  const Descriptor greedy = connect_to(lab.path);
  unsigned served = 0;
  for (;; ++served) {
    const io::SpaceRequest small{9, kTcp4, 1};
    if (::send(greedy.get(), &small, sizeof small, MSG_NOSIGNAL) < 0) break;
    if (reply_of(greedy).size <= 0) break;
    if (served == 10 * kMaxSocketRequests) break;
  }
  CHECK(served >= kMaxSocketRequests);
  CHECK(served < 10 * kMaxSocketRequests);
  CHECK(ask(good, {1, kTcp4, 1}).error == 0);
}

TEST_CASE("no more clients than the bound are kept") {
  const Service lab;
  const TestNamespace one;
  lab.grant(1, one);
  std::vector<Descriptor> clients;
  for (std::size_t i = 0; i < kMaxSocketClients; ++i) {
    clients.push_back(connect_to(lab.path));
    REQUIRE(ask(clients.back(), {1, kTcp4, 1}).error == 0);
  }
  CHECK(reply_of(connect_to(lab.path)).size <= 0);
  clients.pop_back();
  CHECK(ask(clients.front(), {1, kTcp4, 1}).error == 0);
}

TEST_CASE("a dial in another namespace connects there, with source and mark as asked") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const Service lab;
  lab.grant(5, one);
  const Inside server(one);
  io::Loop loop;
  io::SpaceSockets spaces(loop, lab.path);
  io::NetworkOptions with;
  with.mark = 0x539;
  with.spaces = &spaces;
  io::UvNetwork network(loop, with);
  std::vector<std::unique_ptr<Dialled>> dialled;
  for (const bool transparent : {false, true, true, false, true}) {
    DialOptions options;
    options.to = server.address;
    options.space = 5;
    options.transparent = transparent;
    if (transparent) options.source = *IpAddress::parse("127.0.0.77");
    dialled.push_back(std::make_unique<Dialled>(loop));
    const auto dial = network.dial(options, dialled.back().get());
    loop.run();
    INFO((dialled.back()->error ? dialled.back()->error->message : ""));
    REQUIRE(dialled.back()->stream);
    const SocketAddress from = dialled.back()->stream->local_address();
    if (transparent) CHECK(from.ip.text() == "127.0.0.77");
    if (transparent) CHECK(from.port <= io::kLastSourcePort);
  }
  // Not to be reached from here.
  DialOptions here;
  here.to = server.address;
  Dialled outside(loop);
  const auto dial = network.dial(here, &outside);
  loop.run();
  CHECK(outside.error);
}

TEST_CASE("a dial that is to stay in its namespace reaches what is there and never leaves it") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const Service lab;
  lab.grant(5, one);
  const auto ip = [](const char* text) { return *IpAddress::parse(text); };
  const auto run = [](const std::string& command) {
    CHECK(std::system(command.c_str()) == 0);  // NOLINT: inside the test's own namespace
  };
  std::vector<Inside> servers;
  one.inside([&] {
    run("ip link add mn0 type bridge && ip link set mn0 up");
    for (const char* address : {"10.9.8.7/24", "10.9.8.9/24", "fd77::7/64", "fd77::9/64"}) {
      run(std::string("ip address add dev mn0 ") + address +
          (std::strchr(address, ':') != nullptr ? " nodad" : ""));
    }
  });
  servers.emplace_back(one, ip("10.9.8.7"));
  servers.emplace_back(one, ip("fd77::7"));
  io::Loop loop;
  io::SpaceSockets spaces(loop, lab.path);
  io::NetworkOptions with;
  with.spaces = &spaces;
  io::UvNetwork network(loop, with);
  const auto dial = [&](const SocketAddress& to) {
    DialOptions options;
    options.to = to;
    options.space = 5;
    options.stays = true;
    auto dialled = std::make_unique<Dialled>(loop);
    const auto pending = network.dial(options, dialled.get());
    loop.run();
    return dialled;
  };
  for (const Inside& server : servers) {
    const auto there = dial(server.address);
    REQUIRE(there->stream);
    CHECK(there->stream->local_address().ip == server.address.ip);
  }
  one.inside([&] { run("ip address del 10.9.8.7/24 dev mn0; ip address del fd77::7/64 dev mn0"); });
  for (const Inside& server : servers) {
    const auto moved = dial(server.address);
    REQUIRE(moved->error);
    CHECK(moved->error->message.find("address not available") != std::string::npos);
  }
}

TEST_CASE("a dial into a namespace that is not granted, or without a service, says so") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  auto lab = std::make_unique<Service>();
  lab->grant(5, one);
  io::Loop loop;
  io::SpaceSockets spaces(loop, lab->path);
  io::NetworkOptions with;
  with.spaces = &spaces;
  io::UvNetwork network(loop, with);
  io::UvNetwork without(loop, {});
  const auto error = [&](io::UvNetwork& on, std::uint16_t slot) -> std::string {
    DialOptions options;
    options.to = SocketAddress{*IpAddress::parse("127.0.0.1"), 9};
    options.space = slot;
    Dialled dialled(loop);
    const auto dial = on.dial(options, &dialled);
    CHECK_FALSE(dialled.error);  // never from within dial()
    loop.run();
    return dialled.error ? dialled.error->message : "";
  };
  CHECK(error(network, 6).find("rules are not in force") != std::string::npos);
  CHECK(error(without, 5).find("nobody opens sockets") != std::string::npos);
  CHECK(error(network, 5).find("connection refused") != std::string::npos);
  // A reserve may be left: it goes with the namespace.
  network.forget_space(5);
  lab.reset();
  CHECK(error(network, 5).find("sockets.sock") != std::string::npos);
  lab = std::make_unique<Service>();
  CHECK(error(network, 5).find("sockets.sock") != std::string::npos);
}

TEST_CASE("many dials at once share few requests, and one that was called off takes nothing") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const TestNamespace two;
  const Service lab;
  lab.grant(1, one);
  lab.grant(2, two);
  io::Loop loop;
  io::SpaceSockets spaces(loop, lab.path);
  int came = 0;
  std::vector<Descriptor> sockets;
  std::vector<std::unique_ptr<io::SpaceSockets::Wait>> waits;
  for (int i = 0; i < 200; ++i) {
    const auto slot = static_cast<std::uint16_t>(1 + i % 2);
    waits.push_back(spaces.take(slot, io::SpaceSocket::kTcp4, [&, slot](Result<int> fd) {
      REQUIRE(fd);
      sockets.emplace_back(*fd);
      CHECK(namespace_of(*fd) == inode_of(slot == 1 ? one : two));
      if (++came == 150) loop.stop();
    }));
  }
  CHECK(sockets.empty());
  waits.resize(150);
  auto timeout = loop.timer([&] { loop.stop(); });
  timeout->start(10s);
  loop.run();
  CHECK(came == 150);
  // A reserve has been built up meanwhile.
  loop.post([&] { loop.stop(); });
  loop.run();
  const int kept = spaces.take_reserved(1, io::SpaceSocket::kTcp4);
  CHECK(kept >= 0);
  ::close(kept);
  spaces.forget(1);
  CHECK(spaces.take_reserved(1, io::SpaceSocket::kTcp4) == -1);
}

TEST_CASE("sockets that are kept count as descriptors, and none is kept when those are used up") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const Service lab;
  lab.grant(1, one);
  io::Loop loop;
  io::DescriptorBudget budget(3);
  std::vector<std::unique_ptr<io::SpaceSockets::Wait>> waits;
  {
    io::SpaceSockets spaces(loop, lab.path, &budget);
    int came = 0;
    for (int i = 0; i < 20; ++i) {
      waits.push_back(spaces.take(1, io::SpaceSocket::kTcp4, [&](Result<int> fd) {
        REQUIRE(fd);
        ::close(*fd);
        if (++came == 20) loop.post([&] { loop.stop(); });
      }));
    }
    auto timeout = loop.timer([&] { loop.stop(); });
    timeout->start(10s);
    loop.run();
    CHECK(came == 20);
    timeout->start(200ms);
    loop.run();
    CHECK(budget.open() == 3);
    ::close(spaces.take_reserved(1, io::SpaceSocket::kTcp4));
    CHECK(budget.open() == 2);
  }
  CHECK(budget.open() == 0);
}

TEST_CASE("more callers than the bound are refused, and those before are served") {
  if (!test::may_make_namespaces()) return;
  const TestNamespace one;
  const Service lab;
  lab.grant(1, one);
  io::Loop loop;
  io::SpaceSockets spaces(loop, lab.path);
  std::size_t served = 0;
  std::size_t refused = 0;
  std::vector<std::unique_ptr<io::SpaceSockets::Wait>> waits;
  for (std::size_t i = 0; i < io::kMaxSpaceWaiters + 1; ++i) {
    waits.push_back(spaces.take(1, io::SpaceSocket::kTcp4, [&](Result<int> fd) {
      if (fd) ::close(*fd);
      if (!fd) CHECK(fd.error().code == ErrorCode::kLimit);
      ++(fd ? served : refused);
      if (served + refused == io::kMaxSpaceWaiters + 1) loop.stop();
    }));
  }
  auto timeout = loop.timer([&] { loop.stop(); });
  timeout->start(20s);
  loop.run();
  CHECK(refused == 1);
  CHECK(served == io::kMaxSpaceWaiters);
}
