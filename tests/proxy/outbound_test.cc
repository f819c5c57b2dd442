#include "proxy/outbound.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "proxy/node.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

TEST_CASE("a captured connection travels through a tunnel to the program it meant") {
  World world;
  world.open();
  struct Row {
    std::string dialled, endpoint, tunnel, source, service;
  };
  const Row row =
      GENERATE(Row{"10.0.0.2:9080", "10.0.0.2:9080", "10.0.0.2:15008", "10.0.0.1", ""},
               Row{"[fd00::2]:9080", "[fd00::2]:9080", "[fd00::2]:15008", "fd00::1", ""},
               Row{"10.99.0.1:80", "10.0.0.2:9080", "10.0.0.2:15008", "10.0.0.1",
                   "reviews.bookinfo.mesh.internal"});
  auto program = world.network.serve(at(row.endpoint));
  auto app = world.a.call(row.dialled);
  app->send("GET /reviews/0");
  world.loop.run();
  REQUIRE(program->peers.size() == 1);
  CHECK(program->peer().received == "GET /reviews/0");
  program->peer().send("five stars");
  world.loop.run();
  CHECK(app->received == "five stars");
  // The tunnel comes from the program's own address, and so does, far away, the last step; behind a
  // service address the kernel chooses, since the program's was for the way there.
  const bool by_service = !row.service.empty();
  const auto tunnels = world.dials(row.tunnel);
  REQUIRE(tunnels.size() == 1);
  if (by_service) {
    CHECK_FALSE(tunnels[0].source.has_value());
  } else {
    CHECK(tunnels[0].source == ip(row.source));
  }
  CHECK_FALSE(tunnels[0].transparent);
  const auto last = world.dials(row.endpoint);
  REQUIRE(last.size() == 1);
  if (!by_service) {
    CHECK(last[0].source == ip(row.source));
    CHECK(last[0].transparent);
  }
  // Both ends tell the same story.
  REQUIRE(world.a.opened().size() == 1);
  REQUIRE(world.b.opened().size() == 1);
  const Conversation& near = *world.a.opened()[0];
  const Conversation& far = *world.b.opened()[0];
  CHECK(near.labels.reporter == telemetry::Reporter::kSource);
  CHECK(far.labels.reporter == telemetry::Reporter::kDestination);
  for (const Conversation* seen : {&near, &far}) {
    CHECK(seen->labels.security == telemetry::Security::kMutualTls);
    CHECK(seen->labels.source.principal == kProduct.uri());
    CHECK(seen->labels.source.workload == "productpage");
    CHECK(seen->labels.destination.principal == kReviews.uri());
    CHECK(seen->labels.destination.workload == "reviews");
    CHECK(seen->labels.service == row.service);
    CHECK(seen->addresses.destination == at(row.endpoint));
    CHECK(seen->sent == 14);
    CHECK(seen->received == 10);
  }
  CHECK(near.addresses.hbone == at(row.tunnel));
  app->finish();
  world.loop.run();
  CHECK(program->peer().ended);
  CHECK_FALSE(app->ended);
  program->peer().finish();
  world.loop.run();
  CHECK(app->ended);
  CHECK(near.closed == 1);
  CHECK(near.error.empty());
  CHECK(far.closed == 1);
  CHECK(far.error.empty());
  CHECK(world.a.proxy->idle());
  CHECK(world.b.proxy->idle());
  // The tunnel stays for others, and nothing else does.
  CHECK(world.network.open_streams() == 4);
  world.loop.advance(kIdleTunnel + 2 * kGoawayPause);
  CHECK(world.network.open_streams() == 2);
  CHECK(world.loop.running_timers() == 0);
}

TEST_CASE("connections one after another share the tunnel and leave nothing behind") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  for (std::size_t i = 0; i < 300; ++i) {
    auto app = world.a.call("10.0.0.2:9080");
    app->send("x");
    app->finish();
    world.loop.run();
    REQUIRE(program->peers.size() == 1);
    CHECK(program->peer().received == "x");
    program->peer().send("y");
    program->peer().finish();
    world.loop.run();
    CHECK(app->received == "y");
    CHECK(app->ended);
    program->peers.clear();
  }
  CHECK(world.dials("10.0.0.2:15008").size() == 1);
  CHECK(world.a.proxy->idle());
  CHECK(world.b.proxy->idle());
  CHECK(world.network.open_streams() == 2);
}

TEST_CASE("bulk data arrives whole in both directions at once") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto app = world.a.call("10.0.0.2:9080");
  world.loop.run();
  const std::string there = pattern(std::size_t{24} << 20U);
  const std::string back = pattern(std::size_t{20} << 20U);
  app->send(there);
  app->finish();
  program->peer().send(back);
  program->peer().finish();
  world.loop.run();
  CHECK((program->peer().received == there));
  CHECK((app->received == back));
  CHECK(app->ended);
  CHECK(program->peer().ended);
  CHECK(world.a.proxy->idle());
}

TEST_CASE("a program that does not read holds up only its own connection") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto slow = world.a.call("10.0.0.2:9080");
  auto quick = world.a.call("10.0.0.2:9080");
  world.loop.run();
  REQUIRE(program->peers.size() == 2);
  program->peer(0).pause();
  const std::string all = pattern(std::size_t{12} << 20U);
  slow->send(all);
  world.loop.run();
  // What is under way: two socket buffers, the stream's window, and what a pipe may hold each side.
  CHECK(slow->stream().queued() > (std::size_t{5} << 20U));
  quick->send("are you there?");
  world.loop.run();
  CHECK(program->peer(1).received == "are you there?");
  program->peer(0).resume();
  world.loop.run();
  CHECK((program->peer(0).received == all));
}

TEST_CASE("what the mesh does not know goes direct") {
  World world;
  world.open();
  auto outside = world.network.serve(at("192.0.2.1:443"));
  auto app = world.a.call("192.0.2.1:443");
  app->send("hello");
  world.loop.run();
  CHECK(outside->peer().received == "hello");
  CHECK(world.a.recorders.metrics.direct_outbound.value() == 1);
  REQUIRE(world.network.dials.size() == 1);
  CHECK(world.network.dials[0].source == ip("10.0.0.1"));
  CHECK_FALSE(world.network.dials[0].transparent);
  CHECK(world.a.opened()[0]->labels.security == telemetry::Security::kNone);
  outside->peer().reset();
  world.loop.run();
  REQUIRE(app->error);
  CHECK(app->error->code == ErrorCode::kReset);
  CHECK(world.a.proxy->idle());
}

TEST_CASE("a callee on the same node is reached without a tunnel") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.1:7070"));
  auto app = world.a.call("10.0.0.1:7070");
  app->send("hello");
  world.loop.run();
  CHECK(program->peer().received == "hello");
  CHECK(world.a.recorders.metrics.tunnels_total(telemetry::Direction::kOutbound).value() == 0);
  const auto& labels = world.a.opened()[0]->labels;
  CHECK(labels.destination.principal == kRatings.uri());
  CHECK(labels.security == telemetry::Security::kNone);
}

TEST_CASE("what cannot be reached resets the program and says why") {
  World world;
  struct Row {
    std::string to;
    std::uint16_t slot;
    telemetry::Flag flag;
    std::string reason;
  };
  const Row row =
      GENERATE(Row{"192.0.2.9:443", 1, telemetry::Flag::kConnect, "connection refused"},
               Row{"10.0.0.1:7070", 1, telemetry::Flag::kConnect, "connection refused"},
               Row{"10.0.0.2:9080", 1, telemetry::Flag::kConnect, "503"},  // nobody listens there
               Row{"10.0.0.2:9080", 7, telemetry::Flag::kConnect, "no workload is enrolled"},
               Row{"127.15.0.1:15001", 1, telemetry::Flag::kConnect, "reached directly"});
  world.open();
  auto app = world.a.call(row.to, row.slot);
  app->send("hello");
  world.loop.run();
  REQUIRE(app->error);
  CHECK(app->error->code == ErrorCode::kReset);
  REQUIRE(world.a.refusals().size() == 1);
  CHECK(world.a.refusals()[0].flag == row.flag);
  CHECK_THAT(world.a.refusals()[0].error, Catch::Contains(row.reason));
  CHECK(world.a.opened().empty());
  CHECK(world.a.proxy->idle());
  CHECK(world.b.proxy->idle());
}

TEST_CASE("a far host without an agent is reported with the port to look at") {
  World world;
  world.a.open();
  auto app = world.a.call("10.0.0.2:9080");
  world.loop.run();
  REQUIRE(app->error);
  REQUIRE(world.a.recorders.reports.failed.size() == 1);
  CHECK_THAT(world.a.recorders.reports.failed[0], Catch::Contains("15008"));
  CHECK_THAT(world.a.refusals()[0].error, Catch::Contains("is the far agent running"));
}

TEST_CASE("a program that gave up before the tunnel stood leaves nothing behind") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto app = world.a.call("10.0.0.2:9080");
  SECTION("with a reset") { app->reset(); }
  SECTION("by closing") { app->close(); }
  world.loop.run();
  if (!program->peers.empty()) {
    program->peer().finish();
  }
  world.loop.run();
  CHECK(world.a.proxy->idle());
  CHECK(world.b.proxy->idle());
}

TEST_CASE("a program's reset arrives as a reset on the other side") {
  World world;
  world.open();
  const bool by_caller = GENERATE(true, false);
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto app = world.a.call("10.0.0.2:9080");
  app->send("one");
  world.loop.run();
  FakePeer& first = by_caller ? *app : program->peer();
  FakePeer& second = by_caller ? program->peer() : *app;
  first.reset();
  world.loop.run();
  REQUIRE(second.error);
  CHECK(second.error->code == ErrorCode::kReset);
  CHECK_FALSE(second.ended);
  CHECK_FALSE(world.a.opened()[0]->error.empty());
  CHECK(world.a.opened()[0]->closed == 1);
  CHECK(world.b.opened()[0]->closed == 1);
  CHECK(world.a.proxy->idle());
  CHECK(world.b.proxy->idle());
  // The tunnel is none the worse for it.
  auto next = world.a.call("10.0.0.2:9080");
  next->send("two");
  world.loop.run();
  CHECK(program->peer(1).received == "two");
  CHECK(world.dials("10.0.0.2:15008").size() == 1);
}

TEST_CASE("a tunnel lost in the middle resets the programs at both ends") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto app = world.a.call("10.0.0.2:9080");
  app->send("one");
  world.loop.run();
  REQUIRE(program->peers.size() == 1);
  SECTION("when the far agent dies") {
    world.b.proxy.reset();
    world.loop.run();
    CHECK(app->error);
    CHECK(program->peer().error);
    CHECK(world.a.proxy->idle());
  }
  SECTION("when our agent dies") {
    world.a.proxy.reset();
    world.loop.run();
    CHECK((app->error || app->ended));
    CHECK(program->peer().error);
    CHECK(world.b.proxy->idle());
  }
}

TEST_CASE("a swapped snapshot is for new connections only") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto elsewhere = world.network.serve(at("10.0.0.3:9080"));
  auto app = world.a.call("10.0.0.2:9080");
  app->send("one");
  world.loop.run();
  auto changed = std::make_shared<snapshot::Snapshot>(*world.a.snapshot);
  changed->routes.clear();
  changed->by_slot.clear();
  world.a.proxy->swap(changed);
  world.b.proxy->swap(std::make_shared<snapshot::Snapshot>());
  app->send(" two");
  world.loop.run();
  CHECK(program->peer().received == "one two");
  CHECK_FALSE(app->error);
  auto late = world.a.call("10.0.0.2:9080");
  world.loop.run();
  CHECK(late->error);
  app->finish();
  program->peer().finish();
  world.loop.run();
  CHECK(app->ended);
  CHECK(world.a.proxy->idle());
}

TEST_CASE("a renewed certificate opens a tunnel of its own") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto app = world.a.call("10.0.0.2:9080");
  world.loop.run();
  auto renewed = std::make_shared<snapshot::Snapshot>(*world.a.snapshot);
  renewed->by_slot[1] = workload(kProduct, 1, {8080}, credential_for(kProduct));
  world.a.proxy->swap(renewed);
  auto second = world.a.call("10.0.0.2:9080");
  second->send("two");
  app->send("one");
  world.loop.run();
  CHECK(world.dials("10.0.0.2:15008").size() == 2);
  CHECK(program->peer(0).received == "one");
  CHECK(program->peer(1).received == "two");
}

TEST_CASE("a drained loop takes nothing new and is idle when the last connection has ended") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto app = world.a.call("10.0.0.2:9080");
  world.loop.run();
  world.a.proxy->drain();
  world.b.proxy->drain();
  world.loop.advance(1min);
  auto late = world.a.call("10.0.0.2:9080");
  app->send("still here");
  world.loop.run();
  CHECK(program->peer().received == "still here");
  CHECK(program->peers.size() == 1);
  CHECK_FALSE(world.a.proxy->idle());
  CHECK_FALSE(world.b.proxy->idle());
  app->finish();
  program->peer().finish();
  world.loop.advance(2s);
  CHECK(app->ended);
  CHECK(world.a.proxy->idle());
  CHECK(world.b.proxy->idle());
  // The latecomer waits in the listener's queue for whoever accepts next.
  CHECK_FALSE(late->error);
  CHECK_FALSE(late->ended);
}

TEST_CASE("a drained loop is not idle before its tunnels have said goodbye") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto app = world.a.call("10.0.0.2:9080");
  world.loop.run();
  app->finish();
  program->peer().finish();
  world.loop.run();
  REQUIRE(app->ended);
  CHECK(world.a.proxy->idle());
  const bool at_source = GENERATE(true, false);
  proxy::ProxyLoop& drained = at_source ? *world.a.proxy : *world.b.proxy;
  drained.drain();
  CHECK_FALSE(drained.idle());
  world.loop.advance(kGoawayPause + 10ms);
  CHECK(drained.idle());
}

TEST_CASE("a connection accepted just before draining is served") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto app = world.a.call("10.0.0.2:9080");
  app->send("hello");
  // Drains the far side first while the handshake is under way, then ours.
  world.loop.post([&] {
    world.loop.post([&] {
      world.b.proxy->drain();
      world.a.proxy->drain();
    });
  });
  world.loop.run();
  if (!app->error) {
    // Whether it got in before the listener closed or not, it is not cut.
    world.loop.advance(2s);
    CHECK_FALSE(app->error);
  }
}

TEST_CASE("a swapped snapshot's timers are for what begins from then on") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto before = world.a.call("10.0.0.2:9080");
  world.loop.run();
  auto changed = std::make_shared<snapshot::Snapshot>(*world.a.snapshot);
  changed->limits.half_closed_timeout = 2s;
  changed->limits.connect_timeout = 3s;
  changed->limits.idle_tunnel_timeout = 30s;
  world.a.proxy->swap(changed);
  auto after = world.a.call("10.0.0.2:9080");
  auto direct = world.a.call("10.55.0.1:80");
  world.loop.run();
  CHECK(world.dials("10.55.0.1:80").at(0).timeout == 3s);
  before->finish();
  after->finish();
  world.loop.advance(2s);
  CHECK(after->error);
  CHECK_FALSE(before->error);
  CHECK(world.a.opened()[1]->error == "half-closed and silent for 2s");
  CHECK(world.a.recorders.metrics.hit(telemetry::Limit::kHalfClosed).value() == 1);
  program->peer(0).finish();
  world.loop.advance(30s + 2 * kGoawayPause + kPingAfter);
  CHECK(world.a.recorders.metrics.tunnels_open(telemetry::Direction::kOutbound).value() == 0);
}

TEST_CASE("a far agent is dialled for as long as configured, and its answer waited for 5 s more") {
  World world;
  world.a.snapshot->limits.connect_timeout = 2s;
  world.open();
  world.network.ignore(at("10.0.0.2:9080"));  // the far agent's own limit is the default
  auto app = world.a.call("10.0.0.2:9080");
  world.loop.advance(7s - 10ms);
  CHECK_FALSE(app->error);
  world.loop.advance(20ms);
  CHECK(app->error);
  CHECK(world.dials("10.0.0.2:15008").at(0).timeout == 2s);
  REQUIRE(world.a.refusals().size() == 1);
  CHECK(world.a.refusals()[0].error == "10.0.0.2:15008 gave no answer within 7s");
}
