#pragma once
/// Two tunnels joined by a wire, for tests of a tunnel's whole life.

#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "proxy/mesh.h"
#include "proxy/tunnel.h"

namespace meshnode::proxy::test {

/// Owns one tunnel the way the product's owners do.
struct TunnelHolder final : TunnelOwner {
  explicit TunnelHolder(ProxyContext& of) : context(of) {}
  ~TunnelHolder() override { accepted.clear(); }
  void on_tunnel_ready(Tunnel&) override {
    ++ready;
    if (on_ready) {
      on_ready();
    }
  }
  void on_tunnel_changed(Tunnel&) override { ++changed; }
  void on_tunnel_gone(Tunnel& which, bool in_handshake, const std::string& what) override {
    ++gone;
    handshake = in_handshake;
    error = what;
    REQUIRE(tunnel.get() == &which);
    context.executor.retire(std::move(tunnel));
  }
  void on_connect(Tunnel&, std::unique_ptr<HboneStream> stream, ConnectRequest) override {
    stream->respond(200);
    accepted.push_back(std::move(stream));
  }
  void on_refused(Tunnel&, telemetry::Flag flag, const std::string& what) override {
    (flag == telemetry::Flag::kOverload ? excesses : malformed).push_back(what);
  }

  void open(Role role, std::unique_ptr<Stream> stream,
            const std::shared_ptr<const tls::Credential>& credential,
            const SpiffeId& expected = kReviews) {
    tunnel = std::make_unique<Tunnel>(context, role, static_cast<TunnelOwner*>(this));
    const auto now = [this] { return context.clock.wall_now(); };
    auto session =
        role == Role::kClient
            ? tls::Session::client(credential, expected, now, tunnel->tls_events())
            : tls::Session::server(tls::test::always(credential), now, tunnel->tls_events());
    REQUIRE(session);
    tunnel->start(std::move(stream), std::move(*session));
  }

  ProxyContext& context;
  std::unique_ptr<Tunnel> tunnel;
  std::vector<std::unique_ptr<HboneStream>> accepted;
  std::vector<std::string> malformed;
  std::vector<std::string> excesses;
  std::function<void()> on_ready;
  int ready = 0;
  int changed = 0;
  int gone = 0;
  bool handshake = false;
  std::string error;
};

/// Two tunnels and the wire between them.
struct JoinedTunnels {
  explicit JoinedTunnels(
      const SpiffeId& expected = kReviews,
      std::shared_ptr<const tls::Credential> of_client = credential_for(kProduct),
      std::shared_ptr<const tls::Credential> of_server = credential_for(kReviews)) {
    auto left = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:15008"), {}});
    auto right = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:15008"), {}});
    wire = std::make_unique<Wire>(std::move(left.second), std::move(right.first));
    server.open(Role::kServer, std::move(right.second), of_server);
    client.open(Role::kClient, std::move(left.first), of_client, expected);
    loop.run();
  }
  ~JoinedTunnels() {
    near.reset();
    server.accepted.clear();
    loop.run();
  }
  /// An open stream with both ears on.
  void open_stream() {
    near = client.tunnel->connect(request_to("10.0.0.2:9080"), &answer);
    REQUIRE(near);
    loop.run();
    REQUIRE(answer.accepted == 1);
    near->set_events(&near_ear);
    near->start_reading();
    far().set_events(&far_ear);
    far().start_reading();
  }
  HboneStream& far() { return *server.accepted.back(); }
  void check_talk() {
    near_ear.data.clear();
    far_ear.data.clear();
    say(*near, "question");
    say(far(), "answer");
    loop.run();
    CHECK(far_ear.data == "question");
    CHECK(near_ear.data == "answer");
  }
  void check_gone(const std::string& client_error, const std::string& server_error) {
    CHECK(client.gone == 1);
    CHECK(server.gone == 1);
    CHECK(client.error == client_error);
    CHECK(server.error == server_error);
    wire.reset();
    loop.run();
    CHECK(network.open_streams() == 0);
    CHECK(loop.running_timers() == 0);
  }

  FakeLoop loop;
  FakeNetwork network{loop};
  Recorders recorders;
  ProxyContext context{recorders.context(loop, network, nullptr)};
  TunnelHolder client{context};
  TunnelHolder server{context};
  std::unique_ptr<Wire> wire;
  Answer answer;
  Ear near_ear;
  Ear far_ear;
  std::unique_ptr<HboneStream> near;
};

}  // namespace meshnode::proxy::test
