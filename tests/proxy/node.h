#pragma once
/// Two nodes of a mesh in one process: a proxy loop each, joined by one fake network, with the
/// programs at their ends played by the test.

#include <catch2/catch.hpp>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "proxy/mesh.h"
#include "proxy/proxy_loop.h"

namespace meshnode::proxy::test {

inline const SpiffeId kRatings = id_of("spiffe://example.internal/ns/bookinfo/sa/ratings");

struct Node {
  Node(FakeLoop& loop, FakeNetwork& network, const std::string& address4,
       const std::string& address6)
      : v4(ip(address4)), v6(ip(address6)), loop_(loop), network_(network) {
    snapshot = std::make_shared<snapshot::Snapshot>();
    snapshot->trust_domain = "example.internal";
  }
  void enrol(const SpiffeId& identity, std::uint16_t slot, std::vector<std::uint16_t> ports,
             std::shared_ptr<const tls::Credential> credential,
             std::set<std::string> hostnames = {}) {
    auto one = workload(identity, slot, std::move(ports), std::move(credential));
    one->hostnames = std::move(hostnames);
    test::enrol(*snapshot, one, {v4, v6, ip("127.0.0.1"), ip("::1")});
  }
  void route(const std::string& to, std::vector<snapshot::Endpoint> endpoints,
             std::optional<snapshot::ServiceRef> service = std::nullopt) {
    snapshot->routes.emplace(at(to), snapshot::Route{snapshot->routes.size() + 1,
                                                     std::move(service), std::move(endpoints)});
  }
  void open() {
    outbound = network_.bind({ip("127.15.0.1"), 15001});
    plaintext = network_.bind({ip("127.0.0.1"), 15006});
    const int tunnels4 = network_.bind({v4, 15008});
    const int tunnels6 = network_.bind({v6, 15008});
    proxy = std::make_unique<ProxyLoop>(recorders.context(loop_, network_, snapshot));
    REQUIRE(proxy->open(0, {{outbound}, {plaintext}, {tunnels4, tunnels6}, nullptr}));
  }
  /// A program of the workload at `slot` connects to `to`; a rule leads it to us.
  std::unique_ptr<FakePeer> call(const std::string& to, std::uint16_t slot = 1) {
    const SocketAddress target = at(to);
    const SocketAddress from{target.ip.is_v4() ? v4 : v6, next_port_++};
    const auto k = static_cast<std::uint8_t>(slot);
    return network_.connect(outbound, {from, {IpAddress::v4({127, 15, 0, k}), 15001}, target});
  }
  std::vector<std::shared_ptr<Conversation>>& opened() { return recorders.telemetry.opened; }
  std::vector<RecordedTelemetry::Refused>& refusals() { return recorders.telemetry.refusals; }

  IpAddress v4;
  IpAddress v6;
  Recorders recorders;
  std::shared_ptr<snapshot::Snapshot> snapshot;
  int outbound = 0;
  int plaintext = 0;
  std::unique_ptr<ProxyLoop> proxy;

 private:
  FakeLoop& loop_;
  FakeNetwork& network_;
  std::uint16_t next_port_ = 50'000;
};

/// productpage and ratings live on a, reviews on b; everybody knows of it.
struct World {
  World() {
    a.enrol(kProduct, 1, {8080}, credential_for(kProduct));
    a.enrol(kRatings, 2, {7070}, credential_for(kRatings));
    b.enrol(kReviews, 1, {9080}, credential_for(kReviews), {"reviews.bookinfo.mesh.internal"});
    a.route("10.0.0.2:9080", {tunnelled("10.0.0.2:9080", kReviews, "10.0.0.2:15008")});
    a.route("[fd00::2]:9080", {tunnelled("[fd00::2]:9080", kReviews, "[fd00::2]:15008")});
    a.route("10.99.0.1:80", {tunnelled("10.0.0.2:9080", kReviews, "10.0.0.2:15008")},
            snapshot::ServiceRef{"reviews.bookinfo.mesh.internal", "reviews", "bookinfo"});
    snapshot::Endpoint local;
    local.address = at("10.0.0.1:7070");
    local.identity = kRatings;
    local.via = snapshot::Endpoint::Via::kLocal;
    local.local = a.snapshot->by_slot.at(2);
    a.route("10.0.0.1:7070", {local});
    b.snapshot->parties.emplace(kProduct, a.snapshot->by_slot.at(1)->party);
    b.snapshot->party_by_ip.emplace(ip("10.0.0.1"), a.snapshot->by_slot.at(1)->party);
  }
  ~World() {
    // Whatever the test left open must come apart without touching what is gone.
    a.proxy.reset();
    b.proxy.reset();
    loop.run();
  }
  void open() {
    a.open();
    b.open();
  }
  /// The dials that were made to `to`.
  std::vector<DialOptions> dials(const std::string& to) const {
    std::vector<DialOptions> found;
    for (const DialOptions& dial : network.dials) {
      if (dial.to == at(to)) {
        found.push_back(dial);
      }
    }
    return found;
  }

  FakeLoop loop;
  FakeNetwork network{loop};
  Node a{loop, network, "10.0.0.1", "fd00::1"};
  Node b{loop, network, "10.0.0.2", "fd00::2"};
};

}  // namespace meshnode::proxy::test
