#include "admin/server.h"

#include <catch2/catch.hpp>
#include <stdexcept>

#include "base/log.h"
#include "support/fake_transport.h"

namespace meshnode::admin {
namespace {

using namespace std::chrono_literals;
using test::FakeLoop;
using test::FakeNetwork;
using test::FakePeer;

struct World {
  FakeLoop loop;
  FakeNetwork network{loop};
  int requests = 0;
  std::size_t body_size = 6;
  std::unique_ptr<HttpServer> server;
  int descriptor = 0;

  World() {
    descriptor = network.bind(*SocketAddress::parse("127.0.0.1:15020"));
    server = std::make_unique<HttpServer>(
        network, loop, loop, [this](const Request& request) { return handle(request); });
    REQUIRE(server->listen(descriptor));
  }
  Response handle(const Request& request) {
    ++requests;
    if (request.path == "/throw") throw std::runtime_error("broken");
    Response response;
    response.body = request.path == "/echo" ? request.body : std::string(body_size, 'x');
    return response;
  }
  std::unique_ptr<FakePeer> connect() {
    return network.connect(
        descriptor,
        {*SocketAddress::parse("127.0.0.1:4000"), *SocketAddress::parse("127.0.0.1:15020"), {}});
  }
};

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

TEST_CASE("a request is answered, then the connection ends on both sides") {
  World world;
  auto client = world.connect();
  client->send(kGet);
  world.loop.run();
  CHECK(client->received.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(client->received.ends_with("\r\n\r\nxxxxxx"));
  CHECK(client->ended);
  CHECK(world.server->connections() == 1);
  client->finish();
  world.loop.run();
  CHECK_FALSE(client->error);
  CHECK(world.server->connections() == 0);
  client.reset();
  CHECK(world.network.open_streams() == 0);
  CHECK(world.loop.running_timers() == 0);
}

TEST_CASE("a request in single bytes, and one whose sender has finished, are answered") {
  World world;
  world.network.shape.max_read = 1;
  auto client = world.connect();
  client->send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
  client->finish();
  world.loop.run();
  CHECK(client->received.ends_with("\r\n\r\nabc"));
  CHECK(world.server->connections() == 0);
}

TEST_CASE("a large answer waits for a slow reader without being queued whole") {
  World world;
  world.body_size = 2'000'000;
  world.network.shape.capacity = 10'000;
  auto client = world.connect();
  client->send(kGet);
  client->pause();
  world.loop.run();
  CHECK(client->received.empty());
  client->resume();
  world.loop.run();
  CHECK(client->received.size() > 2'000'000);
  CHECK(client->ended);
}

TEST_CASE("silent, stuck and lingering clients are cut off by their timers") {
  World world;
  SECTION("no request in ten seconds") {
    auto client = world.connect();
    client->send("GET / HTTP/1.1\r\n");
    world.loop.advance(9s);
    client->send("Host:");
    world.loop.advance(999ms);
    CHECK(world.server->connections() == 1);
    world.loop.advance(1ms);
    CHECK(world.server->connections() == 0);
    CHECK(client->ended);
  }
  SECTION("does not read the answer") {
    world.body_size = 2'000'000;
    auto client = world.connect();
    client->pause();
    client->send(kGet);
    world.loop.advance(10s);
    CHECK(world.server->connections() == 0);
  }
  SECTION("does not close after the answer") {
    auto client = world.connect();
    client->send(kGet);
    world.loop.advance(9s);
    CHECK(world.server->connections() == 1);
    world.loop.advance(1s);
    CHECK(world.server->connections() == 0);
  }
  SECTION("reads just enough to keep the idle timer away") {
    world.body_size = 20'000'000;
    world.network.shape = {64 * 1024, 64 * 1024};
    auto client = world.connect();
    client->pause();
    client->send(kGet);
    for (int step = 0; step < 11; ++step) {
      client->resume();
      world.loop.post([&] { client->pause(); });
      world.loop.advance(5s);
    }
    CHECK(world.server->connections() == 1);
    world.loop.advance(4999ms);
    CHECK(world.server->connections() == 1);
    world.loop.advance(1ms);
    CHECK(world.server->connections() == 0);
  }
  CHECK(world.loop.running_timers() == 0);
}

TEST_CASE("a refused request gets its answer although more bytes come") {
  World world;
  auto client = world.connect();
  client->send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n");
  client->send(std::string(500'000, 'x'));
  world.loop.run();
  CHECK(client->received.starts_with("HTTP/1.1 413 "));
  CHECK_FALSE(client->error);
  CHECK(world.requests == 0);
  client->send(std::string(3'000'000, 'x'));
  world.loop.run();
  CHECK(world.server->connections() == 0);
}

TEST_CASE("at most 64 connections are answered at once and the others wait") {
  World world;
  world.body_size = 1024 * 1024;  // more than the sockets take
  std::vector<std::unique_ptr<FakePeer>> clients;
  for (std::size_t i = 0; i < HttpServer::kMaxConnections + 5; ++i) {
    clients.push_back(world.connect());
    if (i < HttpServer::kMaxConnections) {
      clients.back()->pause();
      clients.back()->send(kGet);
    }
    world.loop.run();
  }
  CHECK(world.server->connections() == HttpServer::kMaxConnections);
  clients.back()->send(kGet);
  world.loop.run();
  CHECK(clients.back()->received.empty());
  for (std::size_t i = 0; i < 10; ++i) clients[i]->reset();
  world.loop.run();
  CHECK(clients.back()->received.starts_with("HTTP/1.1 200 "));
}

TEST_CASE("who holds connections without a request keeps nobody out") {
  World world;
  std::vector<std::unique_ptr<FakePeer>> idlers;
  for (std::size_t i = 0; i < HttpServer::kMaxConnections; ++i) idlers.push_back(world.connect());
  world.loop.run();
  idlers[0]->send("GET / HT");
  world.loop.run();
  for (std::size_t i = 0; i < 3; ++i) {
    const auto client = world.connect();
    client->send(kGet);
    world.loop.run();
    CHECK(client->received.starts_with("HTTP/1.1 200 "));
    CHECK(world.server->connections() <= HttpServer::kMaxConnections);
  }
  CHECK((idlers[0]->ended || idlers[0]->error));
  CHECK_FALSE((idlers[10]->ended || idlers[10]->error));
  // Nor does who has been answered, and stays.
  std::vector<std::unique_ptr<FakePeer>> answered;
  for (std::size_t i = 0; i < HttpServer::kMaxConnections + 3; ++i) {
    answered.push_back(world.connect());
    answered.back()->send(kGet);
    world.loop.run();
    CHECK(answered.back()->received.starts_with("HTTP/1.1 200 "));
    CHECK(world.server->connections() <= HttpServer::kMaxConnections);
  }
}

TEST_CASE("answers on their way to slow clients are bounded in total") {
  World world;
  world.network.shape = {10, 10};
  world.body_size = HttpServer::kMaxAnswers - 100;
  auto first = world.connect();
  first->pause();
  first->send(kGet);
  world.loop.run();
  world.body_size = 100;
  auto fits = world.connect();
  fits->pause();
  fits->send(kGet);
  world.loop.run();
  world.body_size = 1;
  auto second = world.connect();
  second->send(kGet);
  world.loop.run();
  CHECK(second->received.starts_with("HTTP/1.1 503 "));
  fits->resume();
  fits->finish();
  world.loop.run();
  CHECK(fits->received.starts_with("HTTP/1.1 200 "));
  second->finish();
  world.loop.run();
  auto third = world.connect();
  third->send(kGet);
  world.loop.run();
  CHECK(third->received.starts_with("HTTP/1.1 200 "));
}

TEST_CASE("a handler that throws is a 500 and the server lives") {
  World world;
  log::set_sink([](std::string_view) {});
  auto client = world.connect();
  client->send("GET /throw HTTP/1.1\r\nHost: a\r\n\r\n");
  world.loop.run();
  log::set_sink({});
  CHECK(client->received.starts_with("HTTP/1.1 500 "));
  CHECK(client->received.find("broken") == std::string::npos);
  auto next = world.connect();
  next->send(kGet);
  world.loop.run();
  CHECK(next->received.starts_with("HTTP/1.1 200 "));
}

TEST_CASE("resets and early ends leave nothing behind") {
  World world;
  auto resets = world.connect();
  auto ends = world.connect();
  auto mid_answer = world.connect();
  world.body_size = 5'000'000;
  mid_answer->pause();
  mid_answer->send(kGet);
  world.loop.run();
  resets->reset();
  ends->finish();
  mid_answer->reset();
  mid_answer->resume();
  world.loop.advance(10s);
  CHECK(world.server->connections() == 0);
  CHECK(world.loop.running_timers() == 0);
}

TEST_CASE("a server destroyed with connections open closes them") {
  World world;
  auto idle = world.connect();
  auto answered = world.connect();
  answered->send(kGet);
  world.loop.run();
  world.server.reset();
  world.loop.run();
  CHECK(idle->ended);
  CHECK(world.network.open_streams() == 2);
  CHECK(world.loop.running_timers() == 0);
}

TEST_CASE("a server may listen on several descriptors, not on one that is taken") {
  World world;
  int other = world.network.bind(*SocketAddress::parse("[::1]:15020"));
  REQUIRE(world.server->listen(other));
  auto client = world.network.connect(
      other, {*SocketAddress::parse("[::1]:4000"), *SocketAddress::parse("[::1]:15020"), {}});
  client->send(kGet);
  world.loop.run();
  CHECK(client->received.starts_with("HTTP/1.1 200 "));
  CHECK_FALSE(world.server->listen(other).has_value());
}

}  // namespace
}  // namespace meshnode::admin
