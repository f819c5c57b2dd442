#include "proxy/tunnel.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>

#include "proxy/tunnels.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

TEST_CASE("a tunnel without streams says goodbye after five minutes") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.near->reset();
  joined.near.reset();
  joined.loop.run();
  joined.server.accepted.clear();
  joined.loop.run();
  joined.loop.advance(kIdleTunnel - 1ms);
  CHECK(joined.client.gone == 0);
  CHECK(joined.client.tunnel->can_connect());
  joined.loop.advance(kGoawayPause + 2ms);
  joined.check_gone("", "");
}

TEST_CASE("when the peer's certificate ends no streams are added and those open live on") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.loop.set_wall_start(kNow + 25h);
  joined.loop.advance(kPingAfter + kGoawayPause);
  CHECK_FALSE(joined.client.tunnel->can_connect());
  joined.check_talk();
  joined.loop.advance(10min);
  joined.check_talk();
  CHECK(joined.client.gone == 0);
  CHECK(joined.server.gone == 0);
  joined.near->shutdown();
  joined.far().shutdown();
  joined.loop.run();
  joined.near.reset();
  joined.server.accepted.clear();
  joined.loop.advance(kGoawayPause);
  joined.check_gone("", "");
}

TEST_CASE("a tunnel's end begins when the peer's certificate ends, busy or not") {
  JoinedTunnels joined;
  joined.open_stream();
  const WallTime ends = joined.client.tunnel->session().peer().not_after;
  const Duration elapsed = joined.loop.now().since_start;
  SECTION("by itself") {
    joined.loop.set_wall_start(ends - elapsed - kPingAfter - 2s);
    joined.loop.advance(kPingAfter);
    joined.loop.advance(2s - 1ms);
    CHECK(joined.client.tunnel->can_connect());
    joined.loop.advance(1ms);
    CHECK_FALSE(joined.client.tunnel->can_connect());
  }
  SECTION("with the next byte after the clock was set") {
    joined.loop.set_wall_start(ends - elapsed);
    CHECK(joined.client.tunnel->can_connect());
    joined.check_talk();
    CHECK_FALSE(joined.client.tunnel->can_connect());
  }
  SECTION("and not before, however far the clock was set back") {
    joined.loop.set_wall_start(ends - elapsed - 24h * 365);
    joined.check_talk();
    joined.loop.advance(1h);
    CHECK(joined.client.tunnel->can_connect());
  }
  joined.check_talk();
}

TEST_CASE("a tunnel that is cut resets its streams on both sides") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.wire->cut();
  joined.loop.run();
  CHECK(joined.near_ear.failed == 1);
  CHECK(joined.far_ear.failed == 1);
  CHECK_FALSE(joined.near_ear.ended);
  joined.check_gone("connection reset by peer", "connection reset by peer");
}

TEST_CASE("a tunnel that is closed under its streams resets them") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.client.tunnel.reset();  // as when a process ends: FIN without close_notify
  joined.loop.run();
  CHECK(joined.near_ear.failed == 1);
  CHECK(joined.far_ear.failed == 1);
  CHECK_FALSE(joined.far_ear.ended);
  CHECK(joined.server.gone == 1);
  CHECK_FALSE(joined.server.error.empty());
}

TEST_CASE("a drained tunnel takes no streams, keeps those it has and ends with the last") {
  const bool by_server = GENERATE(true, false);
  JoinedTunnels joined;
  joined.open_stream();
  TunnelHolder& drained = by_server ? joined.server : joined.client;
  drained.tunnel->drain();
  drained.tunnel->drain();
  joined.loop.advance(kGoawayPause);
  CHECK_FALSE(joined.client.tunnel->can_connect());
  joined.check_talk();
  joined.loop.advance(10min);
  joined.check_talk();
  joined.near->shutdown();
  joined.loop.run();
  CHECK(joined.far_ear.ended);
  CHECK(joined.client.gone == 0);
  joined.far().shutdown();
  joined.loop.run();
  joined.near.reset();
  joined.server.accepted.clear();
  joined.loop.advance(kGoawayPause);
  joined.check_gone("", "");
}

TEST_CASE("a drained tunnel without streams ends within the pause") {
  const bool by_server = GENERATE(true, false);
  JoinedTunnels joined;
  (by_server ? joined.server : joined.client).tunnel->drain();
  joined.loop.advance(kGoawayPause + 1ms);
  joined.check_gone("", "");
}

TEST_CASE("a request on its way while the server drains is still served") {
  JoinedTunnels joined;
  joined.server.tunnel->drain();
  // Before the client can have read the GOAWAY.
  auto late = joined.client.tunnel->connect(request_to("10.0.0.2:9080"), &joined.answer);
  joined.loop.run();
  CHECK(joined.answer.accepted == 1);
  CHECK(joined.server.accepted.size() == 1);
}

TEST_CASE("a draining tunnel whose peer does not read is given up") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.wire->stall();
  say(*joined.near, pattern(std::size_t{2} << 20U));
  joined.loop.run();
  joined.near->reset();
  joined.near.reset();
  joined.client.tunnel->drain();
  joined.loop.advance(kGoawayPause + kPongWithin - 1ms);
  CHECK(joined.client.gone == 0);
  joined.loop.advance(2ms);
  CHECK(joined.client.gone == 1);
  CHECK(joined.client.error == "the far agent has not read for 20 s");
}

TEST_CASE("a draining tunnel waits for its peer to read the rest") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.wire->stall();
  const std::string all = pattern(std::size_t{2} << 20U);
  say(*joined.near, all);
  joined.near->shutdown();
  joined.far().shutdown();
  joined.client.tunnel->drain();
  joined.loop.advance(5s);
  joined.wire->resume();
  joined.loop.run();
  CHECK((joined.far_ear.data == all));
  CHECK(joined.far_ear.ended);
  joined.near.reset();
  joined.server.accepted.clear();
  joined.loop.advance(kGoawayPause);
  joined.check_gone("", "");
}

TEST_CASE("an ending tunnel with bytes on their way is not upset by a ping") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.wire->stall();
  const std::string all = pattern(250'000);  // what one burst hands to the socket
  say(*joined.near, all);
  joined.near->shutdown();
  joined.far().shutdown();
  joined.loop.run();
  joined.near.reset();
  joined.client.tunnel->drain();
  joined.loop.advance(kPingAfter + 5s);  // the server has heard nothing, and asks
  CHECK(joined.client.gone == 0);
  joined.wire->resume();
  joined.loop.run();
  CHECK((joined.far_ear.data == all));
  CHECK(joined.far_ear.ended);
  joined.server.accepted.clear();
  joined.loop.advance(kGoawayPause);
  joined.check_gone("", "");
}

TEST_CASE("draining a tunnel that its peer has ended does not hurry it") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.wire->stall();
  const std::string all = pattern(250'000);
  say(*joined.near, all);
  joined.near->shutdown();
  joined.far().shutdown();
  joined.server.tunnel->drain();
  joined.loop.advance(kGoawayPause);
  joined.near.reset();
  joined.loop.run();
  joined.client.tunnel->drain();
  joined.loop.advance(5s);
  CHECK(joined.client.gone == 0);
  joined.wire->resume();
  joined.loop.run();
  CHECK((joined.far_ear.data == all));
  joined.server.accepted.clear();
  joined.loop.advance(kGoawayPause);
  joined.check_gone("", "");
}

TEST_CASE("a stream's last bytes reach a slow program though its tunnel is ending") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.far().stop_reading();
  say(*joined.near, "the last bytes");
  joined.near->shutdown();
  joined.far().shutdown();
  joined.loop.run();
  joined.client.tunnel->drain();
  joined.loop.advance(kGoawayPause);
  joined.near.reset();
  joined.loop.advance(5s);
  CHECK(joined.far_ear.failed == 0);
  joined.far().start_reading();
  CHECK(joined.far_ear.data == "the last bytes");
  CHECK(joined.far_ear.ended);
  CHECK(joined.far_ear.failed == 0);
}

TEST_CASE("streams that were reset unread do not use up their tunnel") {
  // Eight times a stream's window is twice the connection's.
  JoinedTunnels joined;
  const std::string bulk = pattern(std::size_t{4} << 20U);
  for (int round = 0; round < 8; ++round) {
    INFO(round);
    Answer answer;
    auto stream = joined.client.tunnel->connect(request_to("10.0.0.2:9080"), &answer);
    joined.loop.run();
    REQUIRE(answer.accepted == 1);
    say(*stream, bulk);
    joined.loop.run();
    CHECK(stream->queued() == 0);
    if (round % 2 == 0) {
      joined.server.accepted.back()->reset();
    } else {
      stream->reset();
    }
    joined.loop.run();
    joined.server.accepted.clear();
    stream.reset();
    joined.loop.run();
  }
  joined.open_stream();
  joined.check_talk();
}

TEST_CASE("a stream that is lost while nobody listens says so when somebody does") {
  JoinedTunnels joined;
  Answer answer;
  joined.near = joined.client.tunnel->connect(request_to("10.0.0.2:9080"), &answer);
  joined.loop.run();
  SECTION("by a reset") { joined.near->reset(); }
  SECTION("with its tunnel") { joined.wire->cut(); }
  joined.loop.run();
  HboneStream& far = joined.far();
  far.set_events(&joined.far_ear);
  far.start_reading();
  joined.loop.run();
  CHECK(joined.far_ear.failed == 1);
  CHECK_FALSE(joined.far_ear.ended);
}

TEST_CASE("a tunnel drained during its handshake serves what was waiting for it") {
  JoinedTunnels joined;
  auto [near, far] = joined.network.pair({at("10.0.0.1:4001"), at("10.0.0.2:15008"), {}});
  TunnelHolder client(joined.context);
  TunnelHolder server(joined.context);
  server.open(Role::kServer, std::move(far), credential_for(kReviews));
  client.open(Role::kClient, std::move(near), credential_for(kProduct));
  client.on_ready = [&] {
    joined.near = client.tunnel->connect(request_to("10.0.0.2:9080"), &joined.answer);
  };
  server.tunnel->drain();
  joined.loop.run();
  CHECK(client.ready == 1);
  CHECK(server.ready == 1);
  CHECK(joined.answer.accepted == 1);
  REQUIRE(server.accepted.size() == 1);
  joined.near->shutdown();
  server.accepted[0]->shutdown();
  joined.loop.run();
  joined.near.reset();
  server.accepted.clear();
  joined.loop.advance(kGoawayPause);
  CHECK(server.gone == 1);
  CHECK(server.error.empty());
  CHECK(client.gone == 1);
  CHECK(client.error.empty());
}
