#include "io/network.h"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "io/interfaces.h"
#include "io/own_ports.h"
#include "io/source_port.h"

using namespace meshnode;
using namespace std::chrono_literals;

namespace {

/// A listening socket on loopback, owned by the test as the supervisor owns the product's.
struct Listening {
  explicit Listening(const char* ip = "127.0.0.1", int backlog = 16) {
    const SocketAddress wanted{*IpAddress::parse(ip), 0};
    sockaddr_storage raw{};
    socklen_t size = wanted.to_sockaddr(raw);
    fd = socket(raw.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&raw), size) == 0);
    REQUIRE(listen(fd, backlog) == 0);
    size = sizeof raw;
    getsockname(fd, reinterpret_cast<sockaddr*>(&raw), &size);
    address = SocketAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(raw));
  }
  ~Listening() { close(fd); }
  int fd = -1;
  SocketAddress address;
};

struct Ear final : StreamEvents {
  std::string data;
  bool ended = false;
  int drained = 0;
  std::optional<Error> error;
  std::function<void()> changed = [] {};
  void on_data(MutableBytes bytes) override {
    // The headroom is ours to write: sanitizers would tell if it were not.
    *(bytes.data() - 1) = 0;
    *(bytes.data() - kReadHeadroom) = 0;
    data += as_text(bytes);
    changed();
  }
  void on_end() override {
    ended = true;
    changed();
  }
  void on_error(const Error& e) override {
    error = e;
    changed();
  }
  void on_drained() override {
    ++drained;
    changed();
  }
};

/// A dialled and an accepted stream on one loop.
struct Joined : AcceptEvents, DialEvents {
  explicit Joined(const char* ip = "127.0.0.1") : listening(ip), network(loop, {}) {
    signal(SIGPIPE, SIG_IGN);  // as the worker does
    listener = std::move(*network.listen(listening.fd, this));
    DialOptions options;
    options.to = listening.address;
    dial = network.dial(options, this);
    loop.run();
    near->set_events(&near_ear);
    far->set_events(&far_ear);
  }
  ~Joined() override = default;
  void on_accept(std::unique_ptr<Stream> stream) override {
    far = std::move(stream);
    check();
  }
  void on_connected(std::unique_ptr<Stream> stream) override {
    near = std::move(stream);
    check();
  }
  void on_dial_failed(const Error& error) override { FAIL(error.message); }
  void check() {
    if (near && far) {
      loop.stop();
    }
  }
  template <class Done>
  void until(Done done) {
    auto timeout = loop.timer([this] { loop.stop(); });
    timeout->start(10s);
    near_ear.changed = far_ear.changed = [this, done] {
      if (done()) {
        loop.stop();
      }
    };
    if (!done()) {
      loop.run();
    }
    REQUIRE(done());
  }

  io::Loop loop;
  Listening listening;
  io::UvNetwork network;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Dial> dial;
  Ear near_ear;
  Ear far_ear;
  std::unique_ptr<Stream> near;
  std::unique_ptr<Stream> far;
};

void say(Stream& stream, const std::string& text) {
  const Bytes piece = as_bytes(text);
  stream.write({&piece, 1});
}

struct Failure final : DialEvents {
  explicit Failure(io::Loop& l) : loop(l) {}
  void on_connected(std::unique_ptr<Stream>) override { FAIL("connected"); }
  void on_dial_failed(const Error& e) override {
    error = e;
    loop.stop();
  }
  io::Loop& loop;
  std::optional<Error> error;
};

}  // namespace

TEST_CASE("bytes pass both ways and addresses are known, IPv4 and IPv6") {
  const char* ip = GENERATE("127.0.0.1", "::1");
  Joined joined(ip);
  joined.near->start_reading();
  joined.far->start_reading();
  say(*joined.near, "ping");
  joined.until([&] { return joined.far_ear.data == "ping"; });
  say(*joined.far, "pong");
  joined.until([&] { return joined.near_ear.data == "pong"; });
  CHECK(joined.near->peer_address() == joined.listening.address);
  CHECK(joined.far->peer_address() == joined.near->local_address());
}

TEST_CASE("what the kernel does not take is queued, sent later, and told when drained") {
  Joined joined;
  const std::string all(std::size_t{32} << 20U, 'x');
  say(*joined.near, all);
  CHECK(joined.near->queued() > 0);
  joined.near->shutdown();
  CHECK(joined.far_ear.data.empty());
  joined.far->start_reading();
  joined.until([&] { return joined.far_ear.ended; });
  CHECK(joined.far_ear.data.size() == all.size());
  joined.until([&] { return joined.near_ear.drained > 0; });
  CHECK(joined.near->queued() == 0);
}

TEST_CASE("one direction ends and the other goes on") {
  Joined joined;
  joined.near->start_reading();
  joined.far->start_reading();
  say(*joined.near, "question");
  joined.near->shutdown();
  joined.until([&] { return joined.far_ear.ended; });
  say(*joined.far, "answer");
  joined.until([&] { return joined.near_ear.data == "answer"; });
  CHECK_FALSE(joined.near_ear.ended);
}

TEST_CASE("a reset arrives as a reset, also right behind data and after a shutdown") {
  const bool data = GENERATE(false, true);
  const bool shut = GENERATE(false, true);
  Joined joined;
  joined.far->start_reading();
  if (data) {
    say(*joined.near, "last words");
  }
  if (shut) {
    joined.near->shutdown();
    joined.until([&] { return joined.far_ear.ended; });
    say(*joined.far, "to nobody");
  }
  joined.near->reset();
  if (shut) {
    usleep(10'000);
    say(*joined.far, "to nobody");
    say(*joined.far, "still to nobody");
  }
  joined.until([&] { return joined.far_ear.error.has_value(); });
  CHECK(joined.far_ear.error->code == ErrorCode::kReset);
}

TEST_CASE("what was said before a reset is heard, though writing fails first") {
  const bool shut = GENERATE(false, true);
  Joined joined;
  joined.far->start_reading();
  say(*joined.near, "the reason");
  if (shut) {
    joined.near->shutdown();
  }
  joined.near->reset();
  for (int i = 0; i < 3; ++i) {
    say(*joined.far, "to nobody");
  }
  CHECK(joined.far->queued() > 0);
  joined.until([&] { return joined.far_ear.error.has_value(); });
  CHECK(joined.far_ear.data == "the reason");
  CHECK_FALSE(joined.far_ear.ended);
  CHECK(joined.far_ear.error->code == ErrorCode::kReset);
}

TEST_CASE("a reset is no end, though writing met it earlier in the same turn") {
  Joined joined;
  const std::unique_ptr<Stream> near = std::move(joined.near);
  const std::unique_ptr<Stream> far = std::move(joined.far);
  DialOptions options;
  options.to = joined.listening.address;
  const auto second = joined.network.dial(options, &joined);
  joined.loop.run();
  Ear ear;
  far->set_events(&ear);
  joined.far->set_events(&joined.far_ear);
  // Both events come with one look at the kernel, this stream's first.
  joined.far->start_reading();
  far->start_reading();
  say(*joined.near, "go");
  const bool data = GENERATE(true, false);
  if (data) {
    say(*near, "the reason");
  }
  near->reset();
  ear.changed = [&] { ear.error ? joined.loop.stop() : void(); };
  joined.far_ear.changed = [&] { say(*far, "to nobody"); };
  auto timeout = joined.loop.timer([&] { joined.loop.stop(); });
  timeout->start(10s);
  joined.loop.run();
  CHECK(ear.error.has_value());
  CHECK_FALSE(ear.ended);
  CHECK(ear.data == (data ? "the reason" : ""));
}

TEST_CASE("a stream that does not read is not told, and reads on from where it stopped") {
  Joined joined;
  say(*joined.near, "early");
  auto pause = joined.loop.timer([&] { joined.loop.stop(); });
  pause->start(20ms);
  joined.loop.run();
  CHECK(joined.far_ear.data.empty());
  joined.far->start_reading();
  joined.until([&] { return joined.far_ear.data == "early"; });
}

TEST_CASE("a stream destroyed with bytes queued leaves nothing on the loop") {
  Joined joined;
  say(*joined.near, std::string(std::size_t{32} << 20U, 'x'));
  joined.near.reset();
  SUCCEED("the loop's destructor aborts when a handle is left");
}

TEST_CASE("a refused connect fails with the address in the message") {
  io::Loop loop;
  io::UvNetwork network(loop, {});
  Failure failure(loop);
  DialOptions options;
  {
    const Listening gone;
    options.to = gone.address;
  }
  auto dial = network.dial(options, &failure);
  CHECK_FALSE(failure.error.has_value());
  loop.run();
  REQUIRE(failure.error.has_value());
  CHECK(failure.error->message.find(options.to.text()) != std::string::npos);
}

TEST_CASE("a connect nobody answers ends after its timeout") {
  // A full queue: the kernel drops further SYNs.
  const Listening full("127.0.0.1", 0);
  io::Loop loop;
  io::UvNetwork network(loop, {});
  struct Kept final : DialEvents {
    void on_connected(std::unique_ptr<Stream> stream) override {
      kept.push_back(std::move(stream));
    }
    void on_dial_failed(const Error&) override {}
    std::vector<std::unique_ptr<Stream>> kept;
  } others;
  DialOptions options;
  options.to = full.address;
  std::vector<std::unique_ptr<Dial>> dials;
  for (int i = 0; i < 4; ++i) {
    dials.push_back(network.dial(options, &others));
  }
  Failure failure(loop);
  options.timeout = 300ms;
  auto dial = network.dial(options, &failure);
  const Instant start = io::monotonic_now();
  loop.run();
  REQUIRE(failure.error.has_value());
  CHECK(failure.error->code == ErrorCode::kTimeout);
  CHECK(io::monotonic_now() - start >= 290ms);
}

TEST_CASE("a cancelled dial says nothing") {
  io::Loop loop;
  const Listening listening;
  io::UvNetwork network(loop, {});
  Failure failure(loop);
  DialOptions options;
  options.to = listening.address;
  network.dial(options, &failure).reset();
  auto pause = loop.timer([&] { loop.stop(); });
  pause->start(20ms);
  loop.run();
  CHECK_FALSE(failure.error.has_value());
}

TEST_CASE("a dial withdrawn just after it was answered is a reset, not an empty connection") {
  io::Loop loop;
  const Listening listening;
  io::UvNetwork network(loop, {});
  Failure failure(loop);
  DialOptions options;
  options.to = listening.address;
  auto dial = network.dial(options, &failure);
  const int fd = accept4(listening.fd, nullptr, nullptr, SOCK_CLOEXEC);
  REQUIRE(fd >= 0);  // on loopback the kernel has answered before the loop comes round
  dial.reset();
  auto pause = loop.timer([&] { loop.stop(); });
  pause->start(20ms);
  loop.run();
  char byte = 0;
  CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) == -1);
  CHECK(errno == ECONNRESET);
  close(fd);
}

TEST_CASE("a paused listener leaves connections in the queue for whoever comes next") {
  Joined joined;
  joined.listener->pause();
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_storage raw{};
  const socklen_t size = joined.listening.address.to_sockaddr(raw);
  REQUIRE(connect(client, reinterpret_cast<sockaddr*>(&raw), size) == 0);
  joined.far.reset();
  joined.near.reset();
  joined.near = nullptr;
  joined.listener->resume();
  auto timeout = joined.loop.timer([&] { joined.loop.stop(); });
  timeout->start(5s);
  struct Take final : AcceptEvents {
    void on_accept(std::unique_ptr<Stream> s) override {
      stream = std::move(s);
      loop->stop();
    }
    std::unique_ptr<Stream> stream;
    io::Loop* loop = nullptr;
  } take;
  take.loop = &joined.loop;
  joined.listener = std::move(*joined.network.listen(joined.listening.fd, &take));
  joined.loop.run();
  CHECK(take.stream != nullptr);
  close(client);
}

TEST_CASE("a listener that its owner shut down keeps nobody busy") {
  struct Nobody : AcceptEvents {
    void on_accept(std::unique_ptr<Stream>) override {}
  } nobody;
  const Listening listening;
  io::Loop loop;
  io::UvNetwork network(loop, {});
  const auto listener = network.listen(listening.fd, &nobody);
  REQUIRE(listener);
  shutdown(listening.fd, SHUT_RDWR);
  bool came_round = false;
  const auto later = loop.timer([&] {
    came_round = true;
    loop.stop();
  });
  later->start(150ms);
  loop.run();
  CHECK(came_round);
}

TEST_CASE("a listener that its owner shut down while it paused is not revived") {
  struct Nobody : AcceptEvents {
    void on_accept(std::unique_ptr<Stream>) override {}
  } nobody;
  const Listening listening;
  io::Loop loop;
  io::UvNetwork network(loop, {});
  const auto listener = network.listen(listening.fd, &nobody);
  REQUIRE(listener);
  (*listener)->pause();
  shutdown(listening.fd, SHUT_RDWR);
  (*listener)->resume();
  int listens = 1;  // perhaps at another port
  socklen_t size = sizeof listens;
  REQUIRE(getsockopt(listening.fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0);
  CHECK(listens == 0);
}

TEST_CASE("ports of our own have the parity that connect() avoids, and loops never share one") {
  const auto all_of = [](io::OwnPorts& ports) {
    std::set<std::uint16_t> all;
    for (std::uint16_t port = ports.next(); all.insert(port).second; port = ports.next()) {
    }
    return all;
  };
  io::OwnPorts first("32768\t60999", "", 0, 2, 7);
  io::OwnPorts second("32768\t60999", "", 1, 2, 0);
  auto all = all_of(first);
  CHECK(all.size() == 7058);
  all.merge(all_of(second));
  CHECK(all.size() == 14116);
  CHECK(*all.begin() == 32769);
  CHECK(*all.rbegin() == 60999);
  CHECK(std::all_of(all.begin(), all.end(), [](std::uint16_t port) { return port % 2 == 1; }));

  io::OwnPorts odd("10001\t10010", "10004,10006-10009,20000\n", 0, 1, 0);
  CHECK(all_of(odd) == std::set<std::uint16_t>{10002, 10010});
  io::OwnPorts top("65534\t65535", "0-10", 0, 1, 0);
  CHECK(all_of(top) == std::set<std::uint16_t>{65535});
  for (const char* range : {"", "x", "5", "5\t", "70000\t80000", "9\t9"}) {
    io::OwnPorts none(range, "", 0, 1, 0);
    CHECK(none.next() == 0);
  }
}

TEST_CASE("a dial from here takes a port that connect() avoids") {
  std::ifstream file("/proc/sys/net/ipv4/ip_local_port_range");
  unsigned low = 0;
  file >> low;
  for (int i = 0; i < 20; ++i) {
    Joined joined;
    CHECK(joined.near->local_address().port % 2 != low % 2);
  }
}

TEST_CASE("source ports stay below every ephemeral range and loops never share one") {
  io::SourcePorts first(0, 3);
  io::SourcePorts second(1, 3);
  std::vector<bool> taken(65536, false);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint16_t port = first.next();
    REQUIRE(port >= io::kFirstSourcePort);
    REQUIRE(port <= io::kLastSourcePort);
    taken[port] = true;
  }
  for (int i = 0; i < 10'000; ++i) {
    REQUIRE_FALSE(taken[second.next()]);
  }
}

TEST_CASE("every source port comes once a round, and connections held leave no block behind") {
  const unsigned shares = GENERATE(1U, 2U, 3U, 7U, 64U);
  io::SourcePorts ports(shares - 1, shares);
  std::vector<bool> seen(65536, false);
  const std::uint16_t first = ports.next();
  seen[first] = true;
  std::size_t round = 1;
  for (std::uint16_t port = ports.next(); port != first; port = ports.next(), ++round) {
    REQUIRE_FALSE(seen[port]);
    seen[port] = true;
  }
  CHECK(round >= (io::kLastSourcePort - io::kFirstSourcePort) / shares);
  std::vector<bool> held(65536, false);
  for (int i = 0; i < 100; ++i) {
    held[ports.next()] = true;
  }
  int run = 0;
  for (std::size_t i = 0; i < round; ++i) {
    run = held[ports.next()] ? run + 1 : 0;
    REQUIRE((run < 256 || shares > 7));
  }
}

TEST_CASE("a listener for which no descriptor is free begins when there is one") {
  const Listening listening;
  io::Loop loop;
  int told = 0;
  io::UvNetwork network(loop, {0, 0, 1, 0, nullptr, [&] { ++told; }});
  struct Take final : AcceptEvents {
    explicit Take(io::Loop& on) : loop(on) {}
    void on_accept(std::unique_ptr<Stream>) override {
      ++came;
      loop.stop();
    }
    io::Loop& loop;
    int came = 0;
  } take(loop);
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_storage to{};
  const socklen_t size = listening.address.to_sockaddr(to);
  REQUIRE(connect(client, reinterpret_cast<const sockaddr*>(&to), size) == 0);
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  const rlimit none{3, before.rlim_max};
  setrlimit(RLIMIT_NOFILE, &none);
  auto listener = network.listen(listening.fd, &take);
  setrlimit(RLIMIT_NOFILE, &before);
  REQUIRE(listener);
  CHECK(told == 1);
  auto timeout = loop.timer([&] { loop.stop(); });
  timeout->start(5s);
  loop.run();
  CHECK(take.came == 1);
  close(client);
}

TEST_CASE("accepting pauses when the budget is used up and goes on when there is room") {
  io::Loop loop;
  const Listening listening;
  io::DescriptorBudget budget(2);
  int told = 0;
  io::UvNetwork network(loop, {0, 0, 1, 0, &budget, [&] { ++told; }});
  struct Keep final : AcceptEvents {
    void on_accept(std::unique_ptr<Stream> stream) override { kept.push_back(std::move(stream)); }
    std::vector<std::unique_ptr<Stream>> kept;
  } keep;
  auto listener = std::move(*network.listen(listening.fd, &keep));
  sockaddr_storage raw{};
  const socklen_t size = listening.address.to_sockaddr(raw);
  std::vector<int> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(connect(clients.back(), reinterpret_cast<sockaddr*>(&raw), size) == 0);
  }
  auto pause = loop.timer([&] { loop.stop(); });
  pause->start(300ms);
  loop.run();
  CHECK(keep.kept.size() == 2);
  CHECK(network.full());
  CHECK(told == 1);
  keep.kept.clear();
  pause->start(1s);
  loop.run();
  CHECK(keep.kept.size() == 1);
  CHECK_FALSE(network.full());
  CHECK(budget.take_peak() == 2);
  CHECK(budget.take_peak() == 1);
  for (const int client : clients) {
    close(client);
  }
}

TEST_CASE("a reset is noticed also while nothing is read, but not before what came earlier") {
  Joined joined;
  joined.far->start_reading();
  joined.far->stop_reading();
  const bool data = GENERATE(false, true);
  if (data) {
    say(*joined.near, "first this");
  }
  joined.near->reset();
  if (data) {
    auto pause = joined.loop.timer([&] { joined.loop.stop(); });
    pause->start(2500ms);
    joined.loop.run();
    CHECK_FALSE(joined.far_ear.error.has_value());
    joined.far->start_reading();
  }
  joined.until([&] { return joined.far_ear.error.has_value(); });
  CHECK(joined.far_ear.data == (data ? "first this" : ""));
}

TEST_CASE("who is not read from yet is missed when it goes, and what it said before is not lost") {
  Joined joined;
  joined.far->stop_reading();
  const bool spoke = GENERATE(false, true);
  if (spoke) {
    say(*joined.near, "first this");
  }
  joined.near->reset();
  if (!spoke) {
    joined.until([&] { return joined.far_ear.error.has_value(); });
    CHECK(joined.far_ear.error->code == ErrorCode::kReset);
    return;
  }
  // Writing meets the reset; what came before it is still there to be read.
  auto again = joined.loop.timer([&] { say(*joined.far, "anybody?"); });
  again->start(50ms);
  auto later = joined.loop.timer([&] { joined.far->start_reading(); });
  later->start(300ms);
  joined.until([&] { return joined.far_ear.error.has_value(); });
  CHECK(joined.far_ear.data == "first this");
}

TEST_CASE("a reset that a write meets is told though what came before it is never read") {
  Joined joined;
  joined.far->stop_reading();
  say(*joined.near, "nobody reads this");
  say(*joined.far, std::string(std::size_t{32} << 20U, 'x'));  // nor this, beyond what fits
  REQUIRE(joined.far->queued() > 0);
  joined.near->reset();
  joined.until([&] { return joined.far_ear.error.has_value(); });
  CHECK(joined.far_ear.error->code == ErrorCode::kReset);
}

TEST_CASE("a stream dropped in the middle is a reset, one that was shut down is not") {
  const bool orderly = GENERATE(false, true);
  Joined joined;
  joined.far->start_reading();
  say(*joined.near, "half");
  if (orderly) {
    joined.near->shutdown();
  }
  joined.near.reset();
  joined.until([&] { return joined.far_ear.ended || joined.far_ear.error.has_value(); });
  CHECK(joined.far_ear.ended == orderly);
}

TEST_CASE("a live connection's 4-tuple is known to be in use, any other is not") {
  const char* ip = GENERATE("127.0.0.1", "::1");
  Joined joined(ip);
  io::SourcePorts ports(0, 1);
  const SocketAddress client = joined.near->local_address();
  CHECK(ports.in_use(client, joined.listening.address));
  SocketAddress other = client;
  other.port = 1;
  // The listener of that port must not pass for a connection.
  CHECK_FALSE(ports.in_use(other, joined.listening.address));
}

TEST_CASE("what others send to the socket that asks is not taken for the kernel's answer") {
  if (::geteuid() != 0) return;
  Joined joined;
  const int asking = ::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  sockaddr_nl own{};
  own.nl_family = AF_NETLINK;
  socklen_t size = sizeof own;
  REQUIRE(::bind(asking, reinterpret_cast<const sockaddr*>(&own), size) == 0);
  REQUIRE(::getsockname(asking, reinterpret_cast<sockaddr*>(&own), &size) == 0);
  struct {
    nlmsghdr header;
    nlmsgerr none;
  } lie{};
  lie.header.nlmsg_len = sizeof lie;
  lie.header.nlmsg_type = NLMSG_ERROR;
  lie.none.error = -ENOENT;
  const int liar = ::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  const auto say_so = [&](unsigned number) {
    lie.header.nlmsg_seq = number;
    return ::sendto(liar, &lie, sizeof lie, MSG_DONTWAIT, reinterpret_cast<const sockaddr*>(&own),
                    sizeof own);
  };
  REQUIRE(say_so(1) == sizeof lie);
  io::SourcePorts ports(0, 1, asking);
  CHECK(say_so(2) < 0);
  for (int i = 0; i < 3; ++i) {
    CHECK(ports.in_use(joined.near->local_address(), joined.listening.address));
  }
  ::close(liar);
}

TEST_CASE("a source address whose ports are all in use is a limit, and says so") {
  io::Loop loop;
  const Listening listening;
  // One of 30,720 shares is one port.
  io::NetworkOptions one_port;
  one_port.share = 30'711;
  one_port.shares = 30'720;
  io::UvNetwork network(loop, one_port);
  struct Dialled final : DialEvents {
    explicit Dialled(io::Loop& of) : loop(of) {}
    void on_connected(std::unique_ptr<Stream> got) override {
      stream = std::move(got);
      loop.stop();
    }
    void on_dial_failed(const Error& why) override {
      error = why;
      loop.stop();
    }
    io::Loop& loop;
    std::unique_ptr<Stream> stream;
    std::optional<Error> error;
  } first(loop), second(loop);
  DialOptions options;
  options.to = listening.address;
  options.source = IpAddress::v4({127, 0, 0, 2});
  options.transparent = true;
  const auto one = network.dial(options, &first);
  loop.run();
  if (first.error && first.error->code == ErrorCode::kPermission) {
    WARN("SKIPPED: needs root, for a transparent socket");
    return;
  }
  REQUIRE(first.stream);
  const auto another = network.dial(options, &second);
  loop.run();
  REQUIRE(second.error);
  CHECK(second.error->code == ErrorCode::kLimit);
  CHECK(second.error->message.find("no source port is free") != std::string::npos);
}

TEST_CASE("the host's addresses are neither loopback nor link-local") {
  const auto addresses = io::host_addresses();
  REQUIRE(addresses);
  for (const IpAddress& ip : *addresses) {
    CHECK_FALSE(ip.is_loopback());
    CHECK_FALSE(ip.is_link_local());
  }
  CHECK_FALSE(io::host_name().empty());
}
