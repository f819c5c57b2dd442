/// Load that is shed, tunnels that are bounded, and the counter of every limit that is hit.
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "proxy/caller.h"
#include "proxy/load.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;
using telemetry::Limit;

TEST_CASE("tunnels are counted by the whole address, also of IPv6") {
  Load load;
  CHECK(load.add_tunnel(ip("10.0.0.1"), 2));
  CHECK(load.add_tunnel(ip("10.0.0.1"), 2));
  CHECK_FALSE(load.add_tunnel(ip("10.0.0.1"), 2));
  CHECK(load.add_tunnel(ip("10.0.0.2"), 2));
  load.remove_tunnel(ip("10.0.0.1"));
  CHECK(load.add_tunnel(ip("10.0.0.1"), 2));
  CHECK(load.add_tunnel(ip("fd00::1"), 1));
  CHECK_FALSE(load.add_tunnel(ip("fd00::1"), 1));
  CHECK(load.add_tunnel(ip("fd00::2"), 1));
  load.remove_tunnel(ip("fd00::1"));
  CHECK(load.add_tunnel(ip("fd00::1"), 1));
}

TEST_CASE("a peer's tunnels are bounded, the one beyond is told to calm down, and room is found") {
  World world;
  world.b.snapshot->limits.max_tunnels_per_peer = 2;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto first = std::make_unique<Caller>(world, "10.0.0.8");
  Caller second(world, "10.0.0.8");
  CHECK(world.b.recorders.hits(Limit::kTunnelsPerPeer) == 0);
  {
    Caller third(world, "10.0.0.8");
    CHECK(third.holder.gone == 1);
    CHECK(world.b.recorders.hits(Limit::kTunnelsPerPeer) == 1);
    REQUIRE(world.b.recorders.reports.limits.size() == 1);
    CHECK(world.b.recorders.reports.limits[0] ==
          "10.0.0.8: more than 2 tunnels; see proxy.maxTunnelsPerPeer");
    REQUIRE(world.b.refusals().size() == 1);
    CHECK(world.b.refusals()[0].flag == telemetry::Flag::kOverload);
    CHECK(world.b.refusals()[0].labels.source.principal == kProduct.uri());
  }
  Caller other(world, "10.0.0.9");
  for (Caller* caller : {first.get(), &second, &other}) {
    caller->ask();
    CHECK(caller->answer.accepted == 1);
  }
  first.reset();
  world.loop.run();
  Caller next(world, "10.0.0.8");
  next.ask();
  CHECK(next.answer.accepted == 1);
}

TEST_CASE("who is told to calm down fails its callers with OVERLOAD, and does not try on and on") {
  World world;
  world.b.snapshot->limits.max_tunnels_per_peer = 1;
  world.open();
  Caller one(world, "10.0.0.1");
  std::vector<std::unique_ptr<FakePeer>> apps;
  for (int i = 0; i < 20; ++i) {
    apps.push_back(world.a.call("10.0.0.2:9080"));
  }
  world.loop.run();
  for (const auto& app : apps) {
    CHECK(app->error);
  }
  REQUIRE(world.a.refusals().size() == 20);
  for (const auto& refused : world.a.refusals()) {
    CHECK(refused.flag == telemetry::Flag::kOverload);
  }
  CHECK_THAT(world.a.refusals().back().error, Catch::Contains("a limit of its was exceeded"));
  CHECK(world.dials("10.0.0.2:15008").size() <= 3);
}

TEST_CASE("without memory every new connection is refused, and served again when there is some") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto outside = world.network.serve(at("10.55.0.1:80"));
  Caller caller(world, "10.0.0.8");
  world.a.recorders.load.set_shed(Shed::kMemory);
  world.b.recorders.load.set_shed(Shed::kMemory);
  caller.ask();
  CHECK(caller.answer.status == 503);
  auto plain = world.network.connect(world.b.plaintext,
                                     {at("10.0.0.7:4000"), at("10.0.0.2:9080"), std::nullopt});
  Caller late(world, "10.0.0.7");
  auto meshed = world.a.call("10.0.0.2:9080");
  auto direct = world.a.call("10.55.0.1:80");
  world.loop.run();
  CHECK(plain->error);
  CHECK(late.holder.gone == 1);
  CHECK(meshed->error);
  CHECK(direct->error);
  CHECK(world.a.recorders.hits(Limit::kMemory) == 2);
  CHECK(world.b.recorders.hits(Limit::kMemory) == 3);
  for (const Node* node : {&world.a, &world.b}) {
    for (const auto& refused : node->recorders.telemetry.refusals) {
      CHECK(refused.flag == telemetry::Flag::kOverload);
      CHECK_THAT(refused.error, Catch::Contains("proxy.maxMemory"));
    }
  }
  CHECK(world.b.recorders.metrics.refused(telemetry::Refusal::kLimit).value() == 2);

  world.a.recorders.load.set_shed(Shed::kNothing);
  world.b.recorders.load.set_shed(Shed::kNothing);
  caller.ask();
  CHECK(caller.answer.accepted == 1);
  auto again = world.a.call("10.0.0.2:9080");
  again->send("hello");
  world.loop.run();
  CHECK(program->peers.back()->received == "hello");
}

TEST_CASE("a nearly full connection table refuses what needs a further entry, and nothing else") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto outside = world.network.serve(at("10.55.0.1:80"));
  world.a.recorders.load.set_shed(Shed::kConntrack);
  auto meshed = world.a.call("10.0.0.2:9080");
  auto direct = world.a.call("10.55.0.1:80");
  auto same_node = world.a.call("10.0.0.1:7070");
  meshed->send("hello");
  world.loop.run();
  CHECK(program->peers.at(0)->received == "hello");
  CHECK(direct->error);
  CHECK(same_node->error);
  CHECK(world.a.recorders.hits(Limit::kConntrack) == 2);
  CHECK(world.a.refusals().at(0).flag == telemetry::Flag::kOverload);
  CHECK_THAT(world.a.refusals().at(0).error, Catch::Contains("nf_conntrack_max"));

  world.b.recorders.load.set_shed(Shed::kConntrack);
  Caller caller(world, "10.0.0.8");
  caller.ask();
  CHECK(caller.answer.status == 503);
  auto plain = world.network.connect(world.b.plaintext,
                                     {at("10.0.0.7:4000"), at("10.0.0.2:9080"), std::nullopt});
  world.loop.run();
  CHECK(plain->error);
  meshed->send(" again");
  world.loop.run();
  CHECK(program->peers.at(0)->received == "hello again");
}

TEST_CASE("relief cuts the connections that keep the most, and no others") {
  World world;
  world.network.shape.capacity = 4096;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  std::vector<std::unique_ptr<FakePeer>> apps;
  for (const std::size_t size : {3U << 20U, 1U << 20U, 32U << 10U, 0U}) {
    apps.push_back(world.a.call("10.0.0.2:9080"));
    world.loop.run();
    program->peers.back()->pause();
    apps.back()->send(std::string(size, 'x'));
    world.loop.run();
  }
  CHECK(world.b.proxy->holdings().size() == 2);
  world.b.proxy->relieve(2U << 20U);
  world.loop.run();
  CHECK(world.b.recorders.hits(Limit::kMemory) == 1);
  CHECK_THAT(world.b.opened()[0]->error, Catch::Contains("proxy.maxMemory"));
  CHECK(world.b.opened()[0]->flag == telemetry::Flag::kOverload);
  CHECK(apps[0]->error);
  CHECK_FALSE(apps[1]->error);
  world.b.proxy->relieve(std::size_t{1} << 30U);
  world.loop.run();
  CHECK(world.b.recorders.hits(Limit::kMemory) == 2);
  CHECK(apps[1]->error);
  for (const std::size_t kept : {2U, 3U}) {
    CHECK_FALSE(apps[kept]->error);
    apps[kept]->send("still here");
    program->peers[kept]->resume();
  }
  world.loop.run();
  CHECK(program->peers[2]->received.size() == (32U << 10U) + 10);
  CHECK(program->peers[3]->received == "still here");
}

TEST_CASE("a dial that fails for a limit is counted and flagged as such") {
  FakeLoop loop;
  FakeNetwork network{loop};
  Recorders recorders;
  ProxyContext context{recorders.context(loop, network, nullptr)};
  const SocketAddress to = at("10.0.0.2:80");
  CHECK(dial_failed(context, to, {ErrorCode::kUnavailable, ""}) == telemetry::Flag::kConnect);
  CHECK(dial_failed(context, to, {ErrorCode::kTimeout, ""}) == telemetry::Flag::kConnect);
  CHECK(recorders.hits(Limit::kConnectTimeout) == 1);
  CHECK(recorders.hits(Limit::kSockets) == 0);
  CHECK(recorders.reports.own_limits.empty());
  CHECK(dial_failed(context, to, {ErrorCode::kLimit, "no port"}) == telemetry::Flag::kOverload);
  CHECK(recorders.hits(Limit::kSockets) == 1);
  CHECK(recorders.reports.own_limits == std::vector<std::string>{"10.0.0.2: no port"});
  CHECK(recorders.reports.limits.empty());
}

TEST_CASE("a CONNECT that no descriptor is left for is refused, counted and told") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  Caller caller(world, "10.0.0.8");
  world.network.is_full = true;
  caller.ask();
  CHECK(caller.answer.status == 503);
  CHECK(world.b.recorders.hits(Limit::kDescriptors) == 1);
  CHECK(world.b.recorders.reports.used_up == 1);
  world.network.is_full = false;
  caller.ask();
  CHECK(caller.answer.accepted == 1);
}

TEST_CASE("a program, a host and a far agent that do not answer are counted") {
  World world;
  world.open();
  world.network.ignore(at("10.0.0.2:9080"));
  auto meshed = world.a.call("10.0.0.2:9080");
  world.network.ignore(at("10.55.0.1:80"));
  auto direct = world.a.call("10.55.0.1:80");
  world.loop.advance(10s);
  CHECK(meshed->error);
  CHECK(direct->error);
  CHECK(world.b.recorders.hits(Limit::kConnectTimeout) == 1);
  CHECK(world.a.recorders.hits(Limit::kConnectTimeout) == 1);
  world.network.ignore(at("10.0.0.2:15008"));
  world.loop.advance(10min);  // the tunnel has gone
  auto late = world.a.call("10.0.0.2:9080");
  world.loop.advance(10s);
  CHECK(late->error);
  CHECK(world.a.recorders.hits(Limit::kConnectTimeout) == 2);
  CHECK(world.a.recorders.hits(Limit::kAnswerTimeout) == 0);
}

TEST_CASE("a tunnel's timers are counted where they end it") {
  SECTION("ping") {
    JoinedTunnels joined;
    joined.open_stream();
    joined.wire->go_silent();
    joined.loop.advance(kPingAfter + kPongWithin);
    CHECK(joined.recorders.hits(Limit::kPingTimeout) == 2);
    CHECK(joined.recorders.hits(Limit::kIdleTunnel) == 0);
  }
  SECTION("idle") {
    JoinedTunnels joined;
    joined.loop.advance(kIdleTunnel - 1ms);
    CHECK(joined.recorders.hits(Limit::kIdleTunnel) == 0);
    joined.loop.advance(1ms);
    CHECK(joined.recorders.hits(Limit::kIdleTunnel) >= 1);
    CHECK(joined.recorders.hits(Limit::kCertificateEnd) == 0);
  }
  SECTION("the peer's certificate") {
    JoinedTunnels joined;
    joined.open_stream();
    joined.loop.set_wall_start(kNow + 25h);
    joined.loop.advance(kPingAfter + kGoawayPause);
    CHECK(joined.recorders.hits(Limit::kCertificateEnd) == 2);
    CHECK(joined.recorders.hits(Limit::kIdleTunnel) == 0);
  }
  SECTION("the handshake") {
    FakeLoop loop;
    FakeNetwork network(loop);
    Recorders recorders;
    ProxyContext context = recorders.context(loop, network, nullptr);
    TunnelHolder client(context);
    auto [near, far] = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:15008"), {}});
    const FakePeer silent(std::move(far));
    client.open(Role::kClient, std::move(near), credential_for(kProduct));
    loop.advance(kHandshakeTimeout - 1ms);
    CHECK(recorders.hits(Limit::kHandshakeTimeout) == 0);
    loop.advance(1ms);
    CHECK(recorders.hits(Limit::kHandshakeTimeout) == 1);
  }
}
