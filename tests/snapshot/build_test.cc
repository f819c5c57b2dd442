#include "snapshot/build.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <ctime>
#include <set>
#include <string>
#include <vector>

#include "model/config_set.h"

using namespace meshnode;            // NOLINT: test
using namespace meshnode::snapshot;  // NOLINT: test

namespace {

class FakeCredential : public tls::Credential {
 public:
  explicit FakeCredential(SpiffeId id) : id_(std::move(id)) {}
  const SpiffeId& identity() const override { return id_; }
  WallTime not_before() const override { return {}; }
  WallTime not_after() const override { return {}; }
  const std::string& serial() const override { return serial_; }

 private:
  SpiffeId id_;
  std::string serial_;
};

const std::string kNode =
    "apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: web-1}\n"
    "spec: {address: 10.77.0.1, trustDomain: td, identity: {source: files},\n"
    "  locality: eu/zone-a/rack, capture: {preserveSourceAddress: false},\n"
    "  proxy: {halfClosedTimeout: 7s}}\n";
const std::string kWeb =
    "---\napiVersion: meshnode.io/v1\nkind: Workload\n"
    "metadata: {name: web, namespace: shop, labels: {app: store, version: v1}}\n"
    "spec: {match: {user: web}, serviceAccount: web, ports: [{name: http, port: 9080}]}\n";
const std::string kClient =
    "---\napiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: client, namespace: shop}\n"
    "spec: {match: {user: client}, serviceAccount: client}\n";
const std::string kRemote =
    "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
    "metadata: {name: web-2, namespace: shop, labels: {app: store, version: v2,\n"
    "  networking.istio.io/tunnel: http, service.istio.io/canonical-name: store-x,\n"
    "  service.istio.io/canonical-revision: r7}}\n"
    "spec: {address: 10.77.0.2, serviceAccount: web, locality: eu}\n"
    "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
    "metadata: {name: db, namespace: shop}\nspec: {address: 10.77.0.3, ports: {pg: 5432},\n"
    "  serviceAccount: db}\n";
const std::string kService =
    "---\napiVersion: v1\nkind: Service\nmetadata: {name: store, namespace: shop}\n"
    "spec: {clusterIP: 10.99.0.1, selector: {app: store},\n"
    "  ports: [{name: http, port: 80, targetPort: 9080}]}\n";

model::Catalog catalog_of(const std::string& text, std::vector<IpAddress> addresses = {}) {
  model::ConfigSet set;
  set.update("f.yaml", text);
  for (const auto& rejection : set.rejected()) UNSCOPED_INFO(rejection.text());
  REQUIRE(set.rejected().empty());
  return make_catalog(set.accepted(), {"host", std::move(addresses)});
}

SlotTable slots_of(const model::Catalog& catalog) {
  SlotTable slots;
  std::vector<WorkloadId> ids;
  for (const auto& workload : catalog.workloads) ids.push_back(workload.id);
  REQUIRE(slots.assign(ids));
  return slots;
}

policy::Policies no_policies(const model::Catalog& catalog) {
  return policy::compile({}, policy_subjects(catalog), policy_scope(catalog));
}

std::shared_ptr<const Snapshot> snapshot_of(const std::string& text,
                                            const Credentials& credentials = {}) {
  const model::Catalog catalog =
      catalog_of(text, {*IpAddress::parse("10.77.0.1"), *IpAddress::parse("fd00::1")});
  return build(catalog, slots_of(catalog), credentials, no_policies(catalog), 7);
}

SocketAddress at(const char* text) { return *SocketAddress::parse(text); }

}  // namespace

TEST_CASE("who has left is a caller still, where it was, and nothing else") {
  const model::Catalog catalog = catalog_of(kNode + kWeb, {*IpAddress::parse("10.77.0.1")});
  const auto snapshot = build(catalog, slots_of(catalog), {}, no_policies(catalog), 7);
  const std::uint16_t space = GENERATE(as<std::uint16_t>{}, 0, 77);
  auto left = std::make_shared<LocalWorkload>();
  left->space = space;
  left->ports = {4711};
  auto usurper = std::make_shared<LocalWorkload>();
  snapshot->departed = {{{77, space}, left}, {{snapshot->workloads[0]->slot, 0}, usurper}};
  CHECK(snapshot->caller(77, space) == left);
  CHECK_FALSE(snapshot->caller(77, 78));
  CHECK(snapshot->caller(snapshot->workloads[0]->slot, 0) == snapshot->workloads[0]);
  CHECK_FALSE(snapshot->callee(at("10.77.0.1:4711"), space));
  CHECK_FALSE(snapshot->for_server_name(std::nullopt, {77, *IpAddress::parse("10.77.0.1")}));
}

TEST_CASE("a virtual address leads to the local and the far endpoint") {
  const auto snapshot = snapshot_of(kNode + kWeb + kClient + kRemote + kService);
  CHECK(snapshot->node_name == "web-1");
  CHECK(snapshot->trust_domain == "td");
  CHECK(snapshot->revision == 7);
  CHECK_FALSE(snapshot->preserve_source_address);
  CHECK(snapshot->limits.half_closed_timeout == std::chrono::seconds(7));

  const Route* route = snapshot->route(at("10.99.0.1:80"));
  REQUIRE(route != nullptr);
  REQUIRE(route->service);
  CHECK(route->service->hostname == "store.shop.mesh.internal");
  REQUIRE(route->endpoints.size() == 2);
  const Endpoint& local = route->endpoints[0];
  CHECK(local.via == Endpoint::Via::kLocal);
  CHECK(local.address == at("10.77.0.1:9080"));
  CHECK(local.local->id == WorkloadId{"shop", "web"});
  CHECK(local.local->hostnames == std::set<std::string>{"store.shop.mesh.internal"});
  const Endpoint& far = route->endpoints[1];
  CHECK(far.via == Endpoint::Via::kTunnel);
  CHECK(far.address == at("10.77.0.2:9080"));
  CHECK(far.tunnel == at("10.77.0.2:15008"));
  CHECK(far.identity.uri() == "spiffe://td/ns/shop/sa/web");
  CHECK(far.local == nullptr);

  const Route* plain = snapshot->route(at("10.77.0.3:5432"));
  REQUIRE(plain != nullptr);
  CHECK(plain->endpoints[0].via == Endpoint::Via::kPlain);
  CHECK(snapshot->route(at("10.77.0.3:5433")) == nullptr);
  CHECK(snapshot->route(at("10.77.0.2:22")) == nullptr);
}

TEST_CASE("parties carry Istio's labels") {
  const auto snapshot = snapshot_of(kNode + kWeb + kClient + kRemote + kService);
  const Route* route = snapshot->route(at("10.99.0.1:80"));
  const Party& local = route->endpoints[0].party;
  CHECK(local.workload == "web");
  CHECK(local.ns == "shop");
  CHECK(local.app == "store");
  CHECK(local.version == "v1");
  CHECK(local.canonical_service == "store");
  CHECK(local.canonical_revision == "v1");
  CHECK(local.region == "eu");
  CHECK(local.zone == "zone-a");
  CHECK(local.identity->uri() == "spiffe://td/ns/shop/sa/web");
  const Party& far = route->endpoints[1].party;
  CHECK(far.canonical_service == "store-x");
  CHECK(far.canonical_revision == "r7");
  CHECK(far.region == "eu");
  CHECK(far.zone.empty());
  const Party& db = snapshot->party_by_ip.at(*IpAddress::parse("10.77.0.3"));
  CHECK(db.canonical_service == "db");
  CHECK(db.canonical_revision == "latest");
}

TEST_CASE("a party known by identity or address only is what all candidates share") {
  const auto snapshot = snapshot_of(kNode + kWeb + kClient + kRemote + kService);
  const Party& web = snapshot->parties.at(*SpiffeId::make("td", "shop", "web"));
  CHECK(web.workload.empty());
  CHECK(web.ns == "shop");
  CHECK(web.app == "store");
  CHECK(web.version.empty());
  CHECK(web.identity);
  // Two workloads live at this node's address, one at each other.
  CHECK(snapshot->party_by_ip.count(*IpAddress::parse("10.77.0.1")) == 0);
  CHECK(snapshot->party_by_ip.at(*IpAddress::parse("10.77.0.2")).workload == "web-2");
  const auto alone = snapshot_of(kNode + kWeb);
  CHECK(alone->party_by_ip.at(*IpAddress::parse("fd00::1")).workload == "web");
}

TEST_CASE("the callee is found at every address of the node, loopback included") {
  const auto snapshot = snapshot_of(kNode + kWeb + kClient);
  for (const char* address :
       {"10.77.0.1:9080", "[fd00::1]:9080", "127.0.0.1:9080", "127.200.3.4:9080", "[::1]:9080"}) {
    CAPTURE(address);
    const auto callee = snapshot->callee(at(address), 0);
    REQUIRE(callee != nullptr);
    CHECK(callee->id.name == "web");
  }
  for (const char* address :
       {"10.77.0.1:9081", "10.77.0.2:9080", "127.0.0.1:22", "[fd00::2]:9080"}) {
    CAPTURE(address);
    CHECK(snapshot->callee(at(address), 0) == nullptr);
  }
  const Route* loopback = snapshot->route(at("127.0.0.1:9080"));
  REQUIRE(loopback != nullptr);
  CHECK(loopback->endpoints[0].address == at("127.0.0.1:9080"));
  CHECK(loopback->endpoints[0].local->id.name == "web");
}

TEST_CASE("the caller is found by slot") {
  const auto snapshot = snapshot_of(kNode + kWeb + kClient);
  REQUIRE(snapshot->workloads.size() == 2);
  for (const auto& workload : snapshot->workloads) {
    CHECK(workload->slot != 0);
    CHECK(snapshot->caller(workload->slot, 0) == workload);
  }
  CHECK(snapshot->caller(0, 0) == nullptr);
  CHECK(snapshot->caller(9, 0) == nullptr);
}

TEST_CASE("a server name asks for one workload, none asks for the default") {
  const auto two = snapshot_of(kNode + kWeb + kClient);
  CHECK((*two->for_server_name("web.shop.sa.td", Arrival{}))->id.name == "web");
  CHECK((*two->for_server_name("WEB.shop.SA.td", Arrival{}))->id.name == "web");
  for (const char* name : {"", "web", "web.shop.sa.other", "db.shop.sa.td", "web.shop.sa.td."}) {
    const auto refused = two->for_server_name(name, Arrival{});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ErrorCode::kNotFound);
  }
  const auto unnamed = two->for_server_name({}, Arrival{});
  REQUIRE_FALSE(unnamed);
  CHECK_THAT(unnamed.error().message, Catch::Contains("default: true"));

  CHECK((*snapshot_of(kNode + kWeb)->for_server_name({}, Arrival{}))->id.name == "web");
  CHECK_FALSE(snapshot_of(kNode)->for_server_name({}, Arrival{}));

  const std::string marked = kWeb.substr(0, kWeb.size() - 2) + ", default: true}\n";
  CHECK((*snapshot_of(kNode + marked + kClient)->for_server_name({}, Arrival{}))->id.name == "web");
  const std::string also = kClient.substr(0, kClient.size() - 2) + ", default: true}\n";
  CHECK_FALSE(snapshot_of(kNode + marked + also)->for_server_name({}, Arrival{}));
}

TEST_CASE("at an address or in a namespace of its own a workload needs no server name") {
  const std::string own =
      "---\napiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: own, namespace: shop}\n"
      "spec: {match: {address: 10.77.0.1}, serviceAccount: own, ports: [{port: 9080}]}\n";
  const std::string boxed =
      "---\napiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: box, namespace: shop}\n"
      "spec: {match: {netns: /run/netns/box}, serviceAccount: box, ports: [{port: 9080}]}\n";
  const auto snapshot = snapshot_of(kNode + kWeb + own + boxed);
  const auto who = [&](std::optional<std::string_view> name, const Arrival& arrival) {
    const auto found = snapshot->for_server_name(name, arrival);
    return found ? (*found)->id.name : std::string();
  };
  const Arrival at_own{0, *IpAddress::parse("10.77.0.1")};
  const Arrival at_shared{0, *IpAddress::parse("fd00::1")};
  CHECK(who({}, at_own) == "own");
  CHECK(who("web.shop.sa.td", at_own) == "web");
  CHECK(who({}, at_shared) == "web");
  CHECK(who("own.shop.sa.td", at_shared) == "own");
  CHECK(who("box.shop.sa.td", at_shared) == "");

  const auto box = std::find_if(snapshot->workloads.begin(), snapshot->workloads.end(),
                                [](const auto& workload) { return workload->id.name == "box"; });
  REQUIRE(box != snapshot->workloads.end());
  CHECK((*box)->space == (*box)->slot);
  const Arrival inside{(*box)->space, *IpAddress::parse("10.1.0.2")};
  CHECK(who({}, inside) == "box");
  CHECK(who("box.shop.sa.TD", inside) == "box");
  CHECK(who("web.shop.sa.td", inside) == "");
  CHECK(who({}, {99, inside.local}) == "");
  CHECK(snapshot->callee(at("10.1.0.2:9080"), inside.space) == *box);
  CHECK(snapshot->callee(at("127.0.0.1:9080"), inside.space) == *box);
  CHECK(snapshot->callee(at("10.1.0.2:9081"), inside.space) == nullptr);
  CHECK(snapshot->callee(at("10.77.0.1:9080"), 0)->id.name == "own");
  CHECK(snapshot->callee(at("127.0.0.1:9080"), 0)->id.name == "web");
}

TEST_CASE("credentials belong to identities, and their absence says why") {
  const SpiffeId web = *SpiffeId::make("td", "shop", "web");
  Credentials credentials;
  credentials[web] = {std::make_shared<FakeCredential>(web), "expires soon"};
  const auto snapshot = snapshot_of(kNode + kWeb + kClient, credentials);
  const auto have = *snapshot->for_server_name("web.shop.sa.td", Arrival{});
  CHECK(have->credential != nullptr);
  CHECK(have->credential_problem == "expires soon");
  const auto lack = *snapshot->for_server_name("client.shop.sa.td", Arrival{});
  CHECK(lack->credential == nullptr);
  CHECK_THAT(lack->credential_problem, Catch::Contains("spiffe://td/ns/shop/sa/client"));

  const auto none = snapshot_of(kWeb);
  REQUIRE(none->workloads.size() == 1);
  CHECK(none->by_server_name.empty());
  CHECK_FALSE(none->workloads[0]->credential_problem.empty());
}

TEST_CASE("a route keeps its id over rebuilds, and no two share one") {
  const auto before = snapshot_of(kNode + kWeb + kService);
  const auto after = snapshot_of(kNode + kClient + kRemote + kService);
  CHECK(before->route(at("10.99.0.1:80"))->id == after->route(at("10.99.0.1:80"))->id);
  std::set<std::uint64_t> ids;
  for (const auto& entry : after->routes) CHECK(ids.insert(entry.second.id).second);
}

TEST_CASE("10,000 endpoints are joined and built well within a second") {
  std::string text = kNode + kWeb;
  for (int i = 0; i < 10'000; ++i) {
    const std::string n = std::to_string(i);
    text += "--- {apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: e" + n +
            ", namespace: shop, labels: {app: a" + std::to_string(i % 100) +
            ", networking.istio.io/tunnel: http}}, spec: {address: 10.1." +
            std::to_string(i / 200) + "." + std::to_string(i % 200 + 1) + ", ports: {http: 80}}}\n";
    if (i == 4'999) text += "...\n";
  }
  const std::size_t half = text.find("...\n") + 4;
  std::string services;
  for (int i = 0; i < 100; ++i) {
    const std::string n = std::to_string(i);
    services += "--- {apiVersion: v1, kind: Service, metadata: {name: a" + n +
                ", namespace: shop}, spec: {clusterIP: 10.99.1." + n + ", selector: {app: a" + n +
                "}, ports: [{name: http, port: 80}]}}\n";
  }
  model::ConfigSet set;
  set.update("a.yaml", std::string_view(text).substr(0, half));
  set.update("b.yaml", std::string_view(text).substr(half));
  set.update("c.yaml", services);
  REQUIRE(set.rejected().empty());

  // Processor time, so that a busy machine does not fail the test.
  const auto start = std::clock();
  const model::Catalog catalog = make_catalog(set.accepted(), {"host", {}});
  const std::shared_ptr<const Snapshot> snapshot =
      build(catalog, slots_of(catalog), {}, no_policies(catalog), 1);
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  std::size_t endpoints = 0;
  for (const auto& entry : snapshot->routes) endpoints += entry.second.endpoints.size();
  CHECK(endpoints > 19'000);
  CHECK(seconds < 1.0);
}
