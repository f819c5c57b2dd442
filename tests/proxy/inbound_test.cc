#include "proxy/inbound.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "proxy/caller.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

namespace {

/// A far agent's side of a tunnel to node b, under the test's control.
struct Peer final : TunnelOwner {
  explicit Peer(World& of, const std::shared_ptr<const tls::Credential>& credential,
                const SpiffeId& expected = kReviews)
      : world(of), context(recorders.context(of.loop, of.network, nullptr)) {
    auto wire = dialled(world);
    tunnel = std::make_unique<Tunnel>(context, Role::kClient, static_cast<TunnelOwner*>(this));
    auto session = tls::Session::client(
        credential, expected, [this] { return context.clock.wall_now(); }, tunnel->tls_events());
    REQUIRE(session);
    tunnel->start(std::move(wire), std::move(*session));
    world.loop.run();
  }
  ~Peer() override {
    stream.reset();
    tunnel.reset();
    world.loop.run();
  }
  void ask(const std::string& authority, const std::string& host = "") {
    ConnectRequest request = request_to(authority);
    if (!host.empty()) {
      request.forwarded += ";host=" + host;
    }
    stream = tunnel->connect(request, &answer);
    REQUIRE(stream);
    world.loop.run();
  }
  void listen() {
    stream->set_events(&ear);
    stream->start_reading();
  }
  void on_tunnel_ready(Tunnel&) override {}
  void on_tunnel_changed(Tunnel&) override {}
  void on_tunnel_gone(Tunnel&, bool, const std::string& why) override {
    ++gone;
    error = why;
    world.loop.retire(std::move(tunnel));
  }
  void on_connect(Tunnel&, std::unique_ptr<HboneStream>, ConnectRequest) override {}
  void on_refused(Tunnel&, telemetry::Flag, const std::string&) override {}

  World& world;
  Recorders recorders;
  ProxyContext context;
  std::unique_ptr<Tunnel> tunnel;
  std::unique_ptr<HboneStream> stream;
  Answer answer;
  Ear ear;
  int gone = 0;
  std::string error;
};

std::uint64_t refusals(World& world, telemetry::Refusal reason) {
  return world.b.recorders.metrics.refused(reason).value();
}

}  // namespace

TEST_CASE("a tunnelled request for anything but the workload's endpoints is answered 400") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  const std::string authority =
      GENERATE(as<std::string>{}, "10.0.0.2:22", "10.0.0.9:9080", "127.0.0.1:9080", "reviews:9080",
               "10.0.0.2", "[::1]:9080");
  Peer peer(world, credential_for(kProduct));
  peer.ask(authority);
  CHECK(peer.answer.refused == 1);
  CHECK(peer.answer.status == 400);
  CHECK(refusals(world, telemetry::Refusal::kAuthority) == 1);
  REQUIRE(world.b.refusals().size() == 1);
  CHECK(world.b.refusals()[0].flag == telemetry::Flag::kConnect);
  CHECK(world.b.refusals()[0].labels.source.principal == kProduct.uri());
  CHECK(world.b.proxy->idle());
  CHECK(world.dials("10.0.0.2:9080").empty());
  // One bad request spoils nothing for the next.
  peer.stream.reset();
  peer.ask("10.0.0.2:9080");
  CHECK(peer.answer.accepted == 1);
  CHECK(program->peers.size() == 1);
}

TEST_CASE("a request beyond a limit is logged with its caller and counted") {
  World world;
  world.open();
  Peer peer(world, credential_for(kProduct));
  peer.ask("10.0.0.2:9080", std::string(kMaxHeaderList, 'h'));
  CHECK(peer.answer.status == 503);
  CHECK(refusals(world, telemetry::Refusal::kLimit) == 1);
  REQUIRE(world.b.refusals().size() == 1);
  CHECK(world.b.refusals()[0].flag == telemetry::Flag::kOverload);
  CHECK(world.b.refusals()[0].error == "a header list of more than 16 KiB");
  CHECK(world.b.recorders.hits(telemetry::Limit::kHeaderList) == 1);
  CHECK(world.b.refusals()[0].labels.source.principal == kProduct.uri());
  CHECK(world.b.refusals()[0].labels.destination.principal == kReviews.uri());
  CHECK(world.b.recorders.reports.limits.size() == 1);
  CHECK(peer.gone == 0);
}

TEST_CASE("unfinished handshakes are bounded, and the oldest give way to an honest one") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  struct Dialled final : DialEvents {
    void on_connected(std::unique_ptr<Stream> got) override {
      silent.push_back(std::make_unique<FakePeer>(std::move(got)));
    }
    void on_dial_failed(const Error& why) override { FAIL(why.message); }
    std::vector<std::unique_ptr<FakePeer>> silent;
  } dialled;
  DialOptions options;
  options.to = at("10.0.0.2:15008");
  for (std::size_t i = 0; i < kMaxHandshakes; ++i) {
    const auto dial = world.network.dial(options, &dialled);
    world.loop.run();
  }
  CHECK(world.b.recorders.reports.handshakes == 0);
  CHECK(world.b.refusals().empty());
  Peer peer(world, credential_for(kProduct));
  peer.ask("10.0.0.2:9080");
  CHECK(peer.answer.accepted == 1);
  CHECK(world.b.recorders.reports.handshakes == 1);
  CHECK(world.b.recorders.hits(telemetry::Limit::kHandshakes) == 1);
  REQUIRE(world.b.refusals().size() == 1);
  CHECK(world.b.refusals()[0].flag == telemetry::Flag::kOverload);
  CHECK(refusals(world, telemetry::Refusal::kLimit) == 1);
  CHECK((dialled.silent[0]->ended || dialled.silent[0]->error));
  CHECK_FALSE((dialled.silent[1]->ended || dialled.silent[1]->error));
  // One handshake is done: there is room again.
  const auto dial = world.network.dial(options, &dialled);
  world.loop.run();
  CHECK(world.b.recorders.reports.handshakes == 1);
  world.loop.advance(kHandshakeTimeout + 2s);
  CHECK(refusals(world, telemetry::Refusal::kTls) == kMaxHandshakes);
  CHECK(world.b.recorders.metrics.tunnels_open(telemetry::Direction::kInbound).value() == 1);
}

TEST_CASE("a tunnelled request whose program does not answer is answered 503") {
  World world;
  world.open();
  Peer peer(world, credential_for(kProduct));
  SECTION("at once when the port is closed") {
    peer.ask("10.0.0.2:9080");
    CHECK(peer.answer.status == 503);
  }
  SECTION("after ten seconds when nothing comes back") {
    world.network.ignore(at("10.0.0.2:9080"));
    peer.ask("10.0.0.2:9080");
    world.loop.advance(10s - 1ms);
    CHECK(peer.answer.refused == 0);
    world.loop.advance(1ms);
    CHECK(peer.answer.status == 503);
  }
  CHECK(refusals(world, telemetry::Refusal::kUnavailable) == 1);
  CHECK(world.b.proxy->idle());
}

TEST_CASE("the program sees the tunnel peer's address, whatever the request says") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  const bool preserve = GENERATE(true, false);
  world.b.snapshot->preserve_source_address = preserve;
  world.network.host = ip("10.0.0.77");
  Peer peer(world, credential_for(kProduct));
  peer.ask("10.0.0.2:9080");  // its forwarded header says 10.0.0.1
  CHECK(peer.answer.accepted == 1);
  const auto dials = world.dials("10.0.0.2:9080");
  REQUIRE(dials.size() == 1);
  CHECK(dials[0].transparent == preserve);
  CHECK(dials[0].source == (preserve ? std::optional(ip("10.0.0.77")) : std::nullopt));
  CHECK(dials[0].timeout == 10s);
}

TEST_CASE("a name of the callee's becomes a label, another's or one that was made up does not") {
  World world;
  world.b.enrol(kRatings, 2, {7070}, credential_for(kRatings), {"ratings.bookinfo.mesh.internal"});
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  Peer peer(world, credential_for(kProduct));
  const std::string known = "reviews.bookinfo.mesh.internal";
  const std::string said = GENERATE(as<std::string>{}, "reviews.bookinfo.mesh.internal",
                                    "ratings.bookinfo.mesh.internal", "made-up-4711.example");
  peer.ask("10.0.0.2:1", said);
  REQUIRE(world.b.refusals().size() == 1);
  CHECK(world.b.refusals()[0].labels.service.empty());
  peer.ask("10.0.0.2:9080", said);
  REQUIRE(world.b.opened().size() == 1);
  CHECK(world.b.opened()[0]->labels.service == (said == known ? known : ""));
}

TEST_CASE("a tunnel from this host's own address needs no foreign socket") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  world.network.host = ip("10.0.0.2");
  Peer peer(world, credential_for(kProduct));
  peer.ask("10.0.0.2:9080");
  REQUIRE(world.dials("10.0.0.2:9080").size() == 1);
  CHECK_FALSE(world.dials("10.0.0.2:9080")[0].transparent);
}

TEST_CASE("a handshake that is refused is reported with its reason") {
  World world;
  world.open();
  const tls::PemPair strange = tls::make_root("example.internal", kNow - 1h, 24h).value();
  SECTION("a certificate of an unknown authority") {
    Peer peer(world, credential_for(kProduct, strange));
    world.loop.advance(2s);
    CHECK(peer.gone == 1);
  }
  SECTION("a server name nobody answers to") {
    Peer peer(world, credential_for(kProduct), kRatings);
    world.loop.advance(2s);
    CHECK(peer.gone == 1);
    CHECK_THAT(world.b.recorders.reports.refused.at(0), Catch::Contains(kRatings.server_name()));
  }
  SECTION("a workload without a certificate") {
    auto bare = std::make_shared<snapshot::Snapshot>(*world.b.snapshot);
    bare->by_server_name.clear();
    bare->by_server_name.emplace(kReviews.server_name(), workload(kReviews, 1, {9080}));
    world.b.proxy->swap(bare);
    Peer peer(world, credential_for(kProduct));
    world.loop.advance(2s);
    CHECK(peer.gone == 1);
    CHECK_THAT(world.b.recorders.reports.refused.at(0), Catch::Contains("has no certificate"));
  }
  SECTION("no TLS at all") {
    auto stranger = world.network.pair({});
    auto plain = world.network.serve(at("10.0.0.250:1"));
    struct Dialled final : DialEvents {
      std::unique_ptr<Stream> stream;
      void on_connected(std::unique_ptr<Stream> got) override { stream = std::move(got); }
      void on_dial_failed(const Error&) override {}
    } dialled;
    DialOptions options;
    options.to = at("10.0.0.2:15008");
    const auto dial = world.network.dial(options, &dialled);
    world.loop.run();
    FakePeer scanner(std::move(dialled.stream));
    scanner.send("GET / HTTP/1.1\r\n\r\n");
    world.loop.advance(2s);
    CHECK(scanner.ended);
  }
  REQUIRE(world.b.recorders.reports.refused.size() == 1);
  CHECK(world.b.recorders.reports.flags[0] == telemetry::Flag::kTlsFailure);
  CHECK(refusals(world, telemetry::Refusal::kTls) == 1);
  REQUIRE(world.b.refusals().size() == 1);
  CHECK(world.b.refusals()[0].flag == telemetry::Flag::kTlsFailure);
  CHECK(world.b.recorders.metrics.tunnels_open(telemetry::Direction::kInbound).value() == 0);
}

TEST_CASE("plaintext is passed on and counted") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  std::unique_ptr<FakePeer> caller;
  bool transparent = false;
  std::string source;
  SECTION("steered from outside, with its address kept") {
    source = "192.0.2.7";
    transparent = true;
    caller = world.network.connect(world.b.plaintext,
                                   {{ip(source), 4000}, at("10.0.0.2:9080"), std::nullopt});
  }
  SECTION("of a program on this host") {
    source = "10.0.0.2";
    caller = world.network.connect(
        world.b.plaintext, {{ip(source), 4000}, at("127.0.0.1:15006"), at("10.0.0.2:9080")});
  }
  caller->send("hello");
  world.loop.run();
  REQUIRE(program->peers.size() == 1);
  CHECK(program->peer().received == "hello");
  program->peer().send("welcome");
  program->peer().finish();
  world.loop.run();
  CHECK(caller->received == "welcome");
  CHECK(caller->ended);
  const auto dials = world.dials("10.0.0.2:9080");
  REQUIRE(dials.size() == 1);
  CHECK(dials[0].source == ip(source));
  CHECK(dials[0].transparent == transparent);
  CHECK(world.b.recorders.metrics.plaintext_inbound.value() == 1);
  const Conversation& seen = *world.b.opened()[0];
  CHECK(seen.labels.security == telemetry::Security::kNone);
  CHECK(seen.labels.destination.workload == "reviews");
  CHECK(seen.labels.source.principal.empty());
  caller->finish();
  world.loop.run();
  CHECK(seen.closed == 1);
  CHECK(world.b.proxy->idle());
}

TEST_CASE("a known address names the plaintext caller, without proof of who it is") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto caller = world.network.connect(world.b.plaintext,
                                      {at("10.0.0.1:4000"), at("10.0.0.2:9080"), std::nullopt});
  world.loop.run();
  REQUIRE(world.b.opened().size() == 1);
  CHECK(world.b.opened()[0]->labels.source.workload == "productpage");
  CHECK(world.b.opened()[0]->labels.source.principal.empty());
}

TEST_CASE("plaintext that cannot be passed on is reset") {
  World world;
  world.open();
  std::unique_ptr<FakePeer> caller;
  SECTION("because the program is not there") {
    caller = world.network.connect(world.b.plaintext,
                                   {at("192.0.2.7:4000"), at("10.0.0.2:9080"), std::nullopt});
  }
  SECTION("because the capture port was reached directly") {
    caller = world.network.connect(world.b.plaintext,
                                   {at("192.0.2.7:4000"), at("10.0.0.2:15006"), std::nullopt});
  }
  world.loop.run();
  REQUIRE(caller->error);
  CHECK(caller->error->code == ErrorCode::kReset);
  CHECK(world.b.refusals().size() == 1);
  CHECK(world.b.proxy->idle());
}

TEST_CASE("a program's reset is a reset of its stream and no more") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  Peer peer(world, credential_for(kProduct));
  peer.ask("10.0.0.2:9080");
  peer.listen();
  program->peer().reset();
  world.loop.run();
  CHECK(peer.ear.failed == 1);
  CHECK_FALSE(peer.ear.ended);
  CHECK_THAT(peer.ear.error, Catch::Contains("CONNECT_ERROR"));
  CHECK(peer.gone == 0);
  CHECK(world.b.proxy->idle());
}

TEST_CASE("a stream or tunnel lost while its program is being dialled leaves nothing behind") {
  World world;
  world.open();
  const bool listens = GENERATE(true, false);
  auto program = world.network.serve(at("10.0.0.2:9080"));
  Peer peer(world, credential_for(kProduct));
  // The answer of the program comes only after the loss.
  if (!listens) {
    world.network.ignore(at("10.0.0.2:9080"));
  }
  peer.stream = peer.tunnel->connect(request_to("10.0.0.2:9080"), &peer.answer);
  SECTION("by a reset") {
    world.loop.post([&] { peer.stream->reset(); });
  }
  SECTION("with its tunnel") {
    world.loop.post([&] { peer.tunnel.reset(); });
  }
  world.loop.advance(11s);
  for (const auto& one : program->peers) {
    CHECK((one->error || one->ended));
  }
  program->peers.clear();
  world.loop.run();
  CHECK(world.b.proxy->idle());
}

TEST_CASE("a tunnel that breaks resets the programs behind it") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  Peer peer(world, credential_for(kProduct));
  peer.ask("10.0.0.2:9080");
  peer.listen();
  say(*peer.stream, "half a messa");
  world.loop.run();
  peer.tunnel.reset();
  world.loop.run();
  CHECK(program->peer().received == "half a messa");
  REQUIRE(program->peer().error);
  CHECK(program->peer().error->code == ErrorCode::kReset);
  CHECK_FALSE(program->peer().ended);
  CHECK(world.b.proxy->idle());
  CHECK(world.b.recorders.metrics.tunnels_open(telemetry::Direction::kInbound).value() == 0);
}

TEST_CASE("an inbound side that is drained says GOAWAY and serves what it has") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  Peer peer(world, credential_for(kProduct));
  peer.ask("10.0.0.2:9080");
  peer.listen();
  world.b.proxy->drain();
  world.loop.advance(kGoawayPause);
  CHECK_FALSE(peer.tunnel->can_connect());
  CHECK_FALSE(world.b.proxy->idle());
  say(*peer.stream, "still here");
  world.loop.run();
  CHECK(program->peer().received == "still here");
  peer.stream->shutdown();
  program->peer().finish();
  world.loop.run();
  CHECK(peer.ear.ended);
  CHECK(world.b.proxy->idle());
  peer.stream.reset();
  world.loop.advance(kGoawayPause);
  CHECK(peer.gone == 1);
  CHECK(peer.error.empty());
  CHECK(world.b.recorders.metrics.tunnels_open(telemetry::Direction::kInbound).value() == 0);
}

TEST_CASE("loops may be destroyed with connections in every state") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto streaming = world.a.call("10.0.0.2:9080");
  streaming->send(pattern(std::size_t{1} << 20U));
  world.loop.run();
  program->peer().pause();
  streaming->send(pattern(std::size_t{8} << 20U));
  world.loop.run();
  world.network.ignore(at("192.0.2.1:80"));
  auto dialling = world.a.call("192.0.2.1:80");
  auto fresh = world.a.call("10.99.0.1:80");
  auto plain = world.network.connect(world.b.plaintext,
                                     {at("192.0.2.7:4000"), at("10.0.0.2:9080"), std::nullopt});
  world.loop.post([&] {
    world.a.proxy.reset();
    world.b.proxy.reset();
  });
  world.loop.advance(11s);
  program->peers.clear();
  streaming.reset();
  dialling.reset();
  fresh.reset();
  plain.reset();
  world.loop.run();
  CHECK(world.network.open_streams() == 0);
  CHECK(world.loop.running_timers() == 0);
}
