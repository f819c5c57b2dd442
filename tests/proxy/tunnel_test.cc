#include "proxy/tunnel.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>

#include "proxy/tunnels.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

TEST_CASE("two tunnels shake hands and carry a stream both ways") {
  JoinedTunnels joined;
  CHECK(joined.client.ready == 1);
  CHECK(joined.server.ready == 1);
  CHECK(joined.client.tunnel->session().peer().identity == kReviews);
  CHECK(joined.server.tunnel->session().peer().identity == kProduct);
  CHECK(joined.server.tunnel->peer_address() == at("10.0.0.1:4000"));
  CHECK(joined.server.tunnel->local_address() == at("10.0.0.2:15008"));
  joined.open_stream();
  joined.check_talk();
  const std::string bulk = pattern(std::size_t{3} << 20U);
  say(*joined.near, bulk);
  say(joined.far(), bulk);
  joined.loop.run();
  CHECK(joined.far_ear.data == "question" + bulk);
  CHECK(joined.near_ear.data == "answer" + bulk);
  joined.near->shutdown();
  joined.far().shutdown();
  joined.loop.run();
  CHECK(joined.near_ear.ended);
  CHECK(joined.far_ear.ended);
  joined.near.reset();
  joined.server.accepted.clear();
  joined.loop.run();
  CHECK(joined.client.tunnel->open_streams() == 0);
  CHECK(joined.server.tunnel->open_streams() == 0);
}

TEST_CASE("a client's handshake is given up after five seconds") {
  FakeLoop loop;
  FakeNetwork network(loop);
  Recorders recorders;
  ProxyContext context = recorders.context(loop, network, nullptr);
  TunnelHolder client(context);
  auto [near, far] = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:15008"), {}});
  FakePeer peer(std::move(far));
  client.open(Role::kClient, std::move(near), credential_for(kProduct));
  loop.advance(kHandshakeTimeout - 1ms);
  CHECK(client.gone == 0);
  loop.advance(1ms);
  CHECK(client.gone == 1);
  CHECK(client.handshake);
  CHECK_THAT(client.error, Catch::Contains("longer than 5 s"));
  CHECK(network.open_streams() == 1);
}

TEST_CASE("a server's handshake is given up after five seconds however slowly bytes come") {
  FakeLoop loop;
  FakeNetwork network(loop);
  Recorders recorders;
  ProxyContext context = recorders.context(loop, network, nullptr);
  TunnelHolder server(context);
  auto [near, far] = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:15008"), {}});
  FakePeer peer(std::move(near));
  server.open(Role::kServer, std::move(far), credential_for(kReviews));
  // The first bytes of a ClientHello record, one a second.
  const std::string hello("\x16\x03\x01\x01\x00\x01\x00", 7);
  for (std::size_t i = 0; i < 4; ++i) {
    peer.send(hello.substr(i, 1));
    loop.advance(1s);
  }
  loop.advance(1s - 1ms);
  CHECK_FALSE(peer.ended);
  loop.advance(1ms);
  CHECK(peer.ended);
  // It listens on for a moment, so that the peer gets to read what was sent.
  CHECK(server.gone == 0);
  loop.advance(1s);
  CHECK(server.gone == 1);
  CHECK(server.handshake);
  CHECK_THAT(server.error, Catch::Contains("longer than 5 s"));
  CHECK(network.open_streams() == 1);
}

TEST_CASE("a tunnel is pinged after ten seconds of silence and again after each answer") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.check_talk();
  joined.wire->carried();
  joined.loop.advance(kPingAfter - 1ms);
  CHECK(joined.wire->carried() == 0);
  for (int round = 0; round < 5; ++round) {
    INFO(round);
    joined.loop.advance(1ms);
    CHECK(joined.wire->carried() > 0);
    joined.loop.advance(kPingAfter - 1ms);
    CHECK(joined.wire->carried() == 0);
  }
  CHECK(joined.client.gone == 0);
  CHECK(joined.server.gone == 0);
  joined.check_talk();
}

TEST_CASE("a tunnel whose peer answers no ping for twenty seconds is dropped") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.check_talk();
  joined.wire->go_silent();
  joined.loop.advance(kPingAfter + kPongWithin - 1ms);
  CHECK(joined.client.gone == 0);
  CHECK(joined.server.gone == 0);
  joined.loop.advance(1ms);
  const std::string why = "the far agent did not answer a ping within 20 s";
  CHECK(joined.near_ear.failed == 1);
  CHECK(joined.near_ear.error == why);
  CHECK(joined.far_ear.failed == 1);
  CHECK_FALSE(joined.client.handshake);
  joined.check_gone(why, why);
}

TEST_CASE("a tunnel with a stream stays however long it is silent") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.loop.advance(2h);
  CHECK(joined.client.gone == 0);
  joined.check_talk();
}

TEST_CASE("a peer that the client refuses reads why") {
  JoinedTunnels joined(kProduct);
  joined.loop.advance(2s);
  CHECK(joined.client.gone == 1);
  CHECK(joined.client.handshake);
  CHECK_THAT(joined.client.error, Catch::Contains("the peer is " + kReviews.uri()));
  CHECK(joined.server.gone == 1);
  CHECK(joined.server.handshake);
  CHECK_THAT(joined.server.error, Catch::Contains("alert") || Catch::Contains("ACCESS_DENIED"));
}

TEST_CASE("a peer that the server refuses reads why") {
  const tls::PemPair other = tls::make_root("example.internal", kNow - 1h, 24h).value();
  JoinedTunnels joined(kReviews, credential_for(kProduct), credential_for(kReviews, other));
  joined.loop.advance(2s);
  CHECK(joined.client.gone == 1);
  CHECK_THAT(joined.client.error, !Catch::Contains("closed the connection"));
  CHECK(joined.server.gone == 1);
  joined.wire.reset();
  joined.loop.run();
  CHECK(joined.network.open_streams() == 0);
}

TEST_CASE("what is no TLS at all is turned away once") {
  FakeLoop loop;
  FakeNetwork network(loop);
  Recorders recorders;
  ProxyContext context = recorders.context(loop, network, nullptr);
  TunnelHolder server(context);
  auto [near, far] = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:15008"), {}});
  FakePeer peer(std::move(near));
  server.open(Role::kServer, std::move(far), credential_for(kReviews));
  peer.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n" + pattern(5000));
  loop.run();
  CHECK(peer.ended);
  CHECK_FALSE(peer.error);
  peer.send("more of it");
  peer.finish();
  loop.run();
  CHECK(server.gone == 1);
  CHECK(server.handshake);
  CHECK(network.open_streams() == 1);
}

TEST_CASE("a peer that resets streams beyond the limit is told to calm down") {
  JoinedTunnels joined;
  for (std::uint32_t i = 0; i < kResetBurst; ++i) {
    if (!joined.client.tunnel) {
      break;
    }
    Answer answer;
    auto stream = joined.client.tunnel->connect(request_to("10.0.0.2:9080"), &answer);
    REQUIRE(stream);
    joined.loop.run();
    stream.reset();
    joined.loop.run();
    joined.server.accepted.clear();
  }
  CHECK(joined.client.gone == 0);
  CHECK(joined.server.excesses.empty());
  Answer answer;
  auto stream = joined.client.tunnel->connect(request_to("10.0.0.2:9080"), &answer);
  joined.loop.run();
  stream.reset();
  joined.loop.run();
  joined.loop.advance(1s);
  CHECK(joined.server.gone == 1);
  CHECK(joined.client.gone == 1);
  CHECK(joined.server.excesses.size() == 1);
  CHECK(joined.recorders.hits(telemetry::Limit::kResets) >= 1);
}

TEST_CASE("a peer told to calm down that does not listen has a second, streams or none") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.wire->stall_back();
  say(joined.far(), std::string(std::size_t{2} << 20U, 'x'));  // the GOAWAY waits behind it
  joined.loop.run();
  joined.server.tunnel->calm(telemetry::Limit::kTunnelsPerPeer, "too many of them");
  joined.server.accepted.clear();
  joined.loop.advance(999ms);
  CHECK(joined.server.gone == 0);
  joined.loop.advance(1ms);
  CHECK(joined.server.gone == 1);
  CHECK(joined.server.error == "too many of them");
}

TEST_CASE("a tunnel whose socket takes nothing takes 256 KiB and a frame from its streams") {
  JoinedTunnels joined;
  joined.open_stream();
  joined.wire->stall();
  const std::string all = pattern(std::size_t{2} << 20U);
  say(*joined.near, all);
  joined.loop.run();
  const std::size_t taken = all.size() - joined.near->queued();
  CHECK(taken >= kMaxQueued);
  CHECK(taken < kMaxQueued + kMaxPayload + joined.network.shape.capacity);
  joined.wire->resume();
  joined.loop.run();
  CHECK((joined.far_ear.data == all));
}
