#include <catch2/catch.hpp>

#include "support/fake_transport.h"

namespace meshnode::test {
namespace {

SocketAddress at(const char* text) { return *SocketAddress::parse(text); }

struct World {
  FakeLoop loop;
  FakeNetwork network{loop};
};

TEST_CASE("bytes, half-close and addresses pass between two fake ends") {
  World world;
  int descriptor = world.network.bind(at("0.0.0.0:15001"));
  FakeServer server;
  server.listener = *world.network.listen(descriptor, &server);
  auto client = world.network.connect(
      descriptor, {at("10.0.0.2:4000"), at("127.15.0.1:15001"), at("10.0.0.9:80")});
  client->send("hello");
  client->finish();
  world.loop.run();
  REQUIRE(server.peers.size() == 1);
  CHECK(server.peer().received == "hello");
  CHECK(server.peer().ended);
  CHECK(server.peer().stream().local_address() == at("127.15.0.1:15001"));
  CHECK(server.peer().stream().peer_address() == at("10.0.0.2:4000"));
  CHECK(server.peer().stream().original_destination() == at("10.0.0.9:80"));
  server.peer().send("world");
  server.peer().finish();
  world.loop.run();
  CHECK(client->received == "world");
  CHECK(client->ended);
  CHECK_FALSE(client->error);
  client.reset();
  server.peers.clear();
  CHECK(world.network.open_streams() == 0);
}

TEST_CASE("a paused reader makes the writer queue, and reading drains it") {
  World world;
  world.network.shape = {1000, 100};
  auto server = world.network.serve(at("10.0.0.9:80"));
  struct Dialer : DialEvents {
    std::unique_ptr<FakePeer> peer;
    void on_connected(std::unique_ptr<Stream> stream) override {
      peer = std::make_unique<FakePeer>(std::move(stream));
    }
    void on_dial_failed(const Error&) override { FAIL("refused"); }
  } dialer;
  DialOptions options;
  options.to = at("10.0.0.9:80");
  auto dial = world.network.dial(options, &dialer);
  CHECK_FALSE(dialer.peer);
  world.loop.run();
  REQUIRE(dialer.peer);
  server->peer().pause();
  std::string sent(5000, 'x');
  dialer.peer->send(sent);
  CHECK(dialer.peer->stream().queued() == 4000);
  world.loop.run();
  CHECK(server->peer().received.empty());
  CHECK(dialer.peer->drained == 0);
  server->peer().resume();
  world.loop.run();
  CHECK(server->peer().received == sent);
  CHECK(dialer.peer->stream().queued() == 0);
  CHECK(dialer.peer->drained == 1);
}

TEST_CASE("a reset, a close with unread bytes and a write to a closed end are resets") {
  World world;
  auto server = world.network.serve(at("10.0.0.9:80"));
  auto [left, right] = world.network.pair({at("10.0.0.1:1"), at("10.0.0.2:2"), {}});
  FakePeer a(std::move(left)), b(std::move(right));
  SECTION("reset") {
    a.reset();
    world.loop.run();
    REQUIRE(b.error);
    CHECK(b.error->code == ErrorCode::kReset);
  }
  SECTION("close with unread bytes") {
    a.pause();
    b.send("unread");
    world.loop.run();
    a.close();
    world.loop.run();
    CHECK(b.error);
  }
  SECTION("close, then a write from the other end") {
    a.close();
    world.loop.run();
    CHECK(b.ended);
    CHECK_FALSE(b.error);
    b.send("too late");
    world.loop.run();
    CHECK(b.error);
  }
  SECTION("both ends finished: nothing left to reset") {
    a.finish();
    b.finish();
    world.loop.run();
    a.reset();
    world.loop.run();
    CHECK_FALSE(b.error);
  }
}

TEST_CASE("a dial is refused, times out on virtual time, or is cancelled") {
  World world;
  struct Dialer : DialEvents {
    std::optional<Error> error;
    std::unique_ptr<Dial> dial;
    void on_connected(std::unique_ptr<Stream>) override { FAIL("connected"); }
    void on_dial_failed(const Error& what) override {
      error = what;
      dial.reset();
    }
  } dialer;
  DialOptions options;
  options.to = at("10.0.0.9:80");
  SECTION("refused") {
    dialer.dial = world.network.dial(options, &dialer);
    world.loop.run();
    REQUIRE(dialer.error);
    CHECK(dialer.error->code == ErrorCode::kUnavailable);
  }
  SECTION("timed out") {
    world.network.ignore(options.to);
    dialer.dial = world.network.dial(options, &dialer);
    world.loop.advance(std::chrono::seconds(9));
    CHECK_FALSE(dialer.error);
    world.loop.advance(std::chrono::seconds(1));
    REQUIRE(dialer.error);
    CHECK(dialer.error->code == ErrorCode::kTimeout);
  }
  SECTION("cancelled") {
    dialer.dial = world.network.dial(options, &dialer);
    dialer.dial.reset();
    world.loop.run();
    CHECK_FALSE(dialer.error);
  }
}

TEST_CASE("connections wait in the queue of a paused or absent listener") {
  World world;
  int descriptor = world.network.bind(at("[::]:15006"));
  auto client = world.network.connect(descriptor, {at("[::1]:1"), at("[::1]:15006"), {}});
  client->send("early");
  world.loop.run();
  FakeServer server;
  server.listener = *world.network.listen(descriptor, &server);
  server.listener->pause();
  world.loop.run();
  CHECK(server.peers.empty());
  server.listener->resume();
  world.loop.run();
  REQUIRE(server.peers.size() == 1);
  CHECK(server.peer().received == "early");
}

TEST_CASE("virtual timers fire in order, restart, and are cancelled by destruction") {
  FakeLoop loop;
  std::string fired;
  auto a = loop.timer([&] { fired += 'a'; });
  auto b = loop.timer([&] { fired += 'b'; });
  auto c = loop.timer([&] { fired += 'c'; });
  a->start(std::chrono::seconds(2));
  b->start(std::chrono::seconds(1));
  c->start(std::chrono::seconds(1));
  c.reset();
  a->start(std::chrono::seconds(3));
  loop.advance(std::chrono::seconds(2));
  CHECK(fired == "b");
  loop.advance(std::chrono::seconds(1));
  CHECK(fired == "ba");
  CHECK(loop.running_timers() == 0);
}

}  // namespace
}  // namespace meshnode::test
