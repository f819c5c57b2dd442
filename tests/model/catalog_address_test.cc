#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "model/catalog.h"

using namespace meshnode;         // NOLINT: test
using namespace meshnode::model;  // NOLINT: test

namespace {

// 10.79.0.77 is what others are told; no interface has it.
const std::string kNode =
    "apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: a}\n"
    "spec: {address: 10.79.0.77, trustDomain: td, identity: {source: files}}\n";
const std::string kWorkload =
    "---\napiVersion: meshnode.io/v1\nkind: Workload\n"
    "metadata: {name: web, namespace: shop, labels: {app: web}}\n"
    "spec: {match: {user: web}, serviceAccount: web, ports: [{port: 80}]}\n";

std::string entry(const std::string& account, const std::string& port, bool tunnel = true) {
  return "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
         "metadata: {name: there, namespace: shop, labels: {app: other" +
         std::string(tunnel ? ", networking.istio.io/tunnel: http" : "") +
         "}}\nspec: {address: 10.79.0.77, serviceAccount: " + account + ", ports: {p: " + port +
         "}}\n";
}
std::string service(const std::string& name, const std::string& ip, const std::string& port,
                    const std::string& app = "") {
  return "---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name +
         ", namespace: shop}\nspec: {clusterIP: \"" + ip +
         "\", selector: {app: " + (app.empty() ? name : app) +
         "}, ports: [{name: p, port: " + port + "}]}\n";
}

std::string local_workload(const std::string& name, const std::string& match,
                           const std::string& ports) {
  return "---\napiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: " + name +
         ", namespace: shop, labels: {app: " + name + "}}\nspec: {match: {" + match +
         "}, serviceAccount: " + name + ", ports: [" + ports + "]}\n";
}

using Namespaces = std::map<WorkloadId, std::vector<IpAddress>>;

Catalog catalog_of(const std::string& text, const std::vector<std::string>& addresses,
                   Namespaces namespaces = {}) {
  ConfigSet set;
  set.update("f.yaml", text);
  REQUIRE(set.rejected().empty());
  CatalogInput input{"host", {}, std::move(namespaces)};
  for (const std::string& address : addresses) {
    input.local_addresses.push_back(*IpAddress::parse(address));
  }
  return make_catalog(set.accepted(), input);
}

/// Where a dialled address leads: "local a", "plain a", "tunnel a", "refused" or "direct".
std::string at(const Catalog& catalog, const std::string& address) {
  const SocketAddress wanted = *SocketAddress::parse(address);
  for (const CatalogRoute& route : catalog.routes) {
    if (route.address != wanted) continue;
    if (route.endpoints.empty()) return "refused";
    REQUIRE(route.endpoints.size() == 1);
    const Member& member = catalog.members[route.endpoints[0].member];
    const std::string how = member.local ? "local " : member.tunnelled ? "tunnel " : "plain ";
    return how + route.endpoints[0].address.text();
  }
  return "direct";
}

std::vector<std::string> codes(const Catalog& catalog) {
  std::vector<std::string> out;
  for (const CatalogProblem& problem : catalog.problems) out.push_back(problem.code);
  return out;
}
using Codes = std::vector<std::string>;

}  // namespace

TEST_CASE("a Node address that no interface has is told, and dialled nowhere") {
  const std::string files = kNode + kWorkload + entry("web", "80") +
                            service("web", "10.99.0.1", "80") + service("other", "10.99.0.2", "80");
  const Catalog catalog = catalog_of(files, {"10.0.0.5", "fd00::5"});
  CHECK(catalog.addresses.front().text() == "10.79.0.77");
  CHECK(catalog.address_elsewhere == IpAddress::parse("10.79.0.77").value());
  for (const char* dialled : {"10.99.0.1:80", "10.99.0.2:80", "10.79.0.77:80", "10.0.0.5:80"}) {
    CAPTURE(dialled);
    CHECK(at(catalog, dialled) == "local 10.0.0.5:80");
  }
  CHECK(at(catalog, "[fd00::5]:80") == "local [fd00::5]:80");
  CHECK(at(catalog, "127.0.0.1:80") == "local 127.0.0.1:80");
  CHECK(at(catalog, "10.79.0.77:22") == "direct");
  REQUIRE(codes(catalog) == Codes{"node-address-elsewhere"});
  CHECK(catalog.problems[0].informational);
  CHECK(catalog.problems[0].object == "Node a");
  CHECK_THAT(catalog.problems[0].message,
             Catch::Contains("10.79.0.77") && Catch::Contains("10.0.0.5"));
  CHECK_FALSE(catalog.problems[0].hint.empty());
}

TEST_CASE("without an address of the family the other one is dialled, without any loopback") {
  const std::string files =
      kNode + kWorkload + service("web", "10.99.0.1", "80") + service("web6", "2001:db8::1", "80");
  CHECK(at(catalog_of(files, {"fe80::1", "fd00::5"}), "10.79.0.77:80") == "local [fd00::5]:80");
  const Catalog bare = catalog_of(files, {});
  CHECK(at(bare, "10.79.0.77:80") == "local 127.0.0.1:80");
  CHECK(at(bare, "10.99.0.1:80") == "local 127.0.0.1:80");
  CHECK(bare.dial_address(Family::kV6, 0).text() == "::1");
}

TEST_CASE("a Node address that an interface has is no problem and is dialled") {
  const Catalog catalog = catalog_of(kNode + kWorkload, {"10.0.0.5", "10.79.0.77"});
  CHECK(catalog.problems.empty());
  CHECK_FALSE(catalog.address_elsewhere);
  CHECK(at(catalog, "10.79.0.77:80") == "local 10.79.0.77:80");
}

TEST_CASE("another host's address in our Node never swaps two workloads, nor opens one") {
  const std::string services =
      service("web", "10.99.0.1", "80") + service("other", "10.99.0.2", "80");
  const std::vector<std::string> ours = {"10.0.0.5"};
  // Its workload is another than ours at that port.
  const Catalog other = catalog_of(kNode + kWorkload + entry("db", "80") + services, ours);
  CHECK(at(other, "10.79.0.77:80") == "refused");
  CHECK(at(other, "10.99.0.2:80") == "refused");
  CHECK(at(other, "10.99.0.1:80") == "local 10.0.0.5:80");
  CHECK(at(other, "10.0.0.5:80") == "local 10.0.0.5:80");
  CHECK(codes(other) == Codes{"node-address-elsewhere", "identity-mismatch"});
  // Its port is none of ours.
  const Catalog missing =
      catalog_of(kNode + kWorkload + entry("db", "81") + service("other", "10.99.0.2", "81"), ours);
  CHECK(at(missing, "10.79.0.77:81") == "refused");
  CHECK(at(missing, "10.99.0.2:81") == "refused");
  CHECK(codes(missing) == Codes{"node-address-elsewhere", "workload-missing"});
  // Its workload is one of ours, or it speaks of no tunnel: answered here, not by a stranger.
  for (const std::string& same : {entry("web", "80"), entry("db", "80", false)}) {
    const Catalog catalog = catalog_of(kNode + kWorkload + same + services, ours);
    CHECK(at(catalog, "10.79.0.77:80") == "local 10.0.0.5:80");
    CHECK(at(catalog, "10.99.0.2:80") == "local 10.0.0.5:80");
    CHECK(codes(catalog) == Codes{"node-address-elsewhere"});
  }
}

TEST_CASE("a workload with an address of the host to itself answers there, the others elsewhere") {
  const std::string own = local_workload("own", "address: 10.0.0.6", "{port: 80}, {port: 81}");
  const std::string files = kWorkload.substr(4) + own + service("web", "10.99.0.1", "80") +
                            service("own", "10.99.0.2", "80") +
                            service("own6", "fd99::2", "80", "own");
  const Catalog catalog = catalog_of(files, {"10.0.0.6", "10.0.0.5"});
  CHECK(codes(catalog) == Codes{"identity-not-configured"});
  const auto who = [&](const std::string& address) {
    const auto found = catalog.answers(*SocketAddress::parse(address));
    return found ? catalog.workloads[*found].id.name : "";
  };
  CHECK(who("10.0.0.6:80") == "own");
  CHECK(who("10.0.0.6:81") == "own");
  CHECK(who("10.0.0.5:80") == "web");
  CHECK(who("127.0.0.1:80") == "web");
  CHECK(who("10.0.0.5:81") == "");
  CHECK(who("10.0.0.7:80") == "");
  CHECK(at(catalog, "10.0.0.6:80") == "local 10.0.0.6:80");
  CHECK(at(catalog, "10.0.0.5:81") == "direct");
  // Neither is dialled at the other's.
  CHECK(at(catalog, "10.99.0.1:80") == "local 10.0.0.5:80");
  CHECK(at(catalog, "10.99.0.2:80") == "local 10.0.0.6:80");
  CHECK(at(catalog, "[fd99::2]:80") == "local 10.0.0.6:80");
}

TEST_CASE("an address that is elsewhere now is dialled there, and said to be") {
  const std::string files = local_workload("own", "address: 10.0.0.6", "{port: 80}") +
                            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
                            "metadata: {name: own-vip, namespace: shop, labels: {app: own, "
                            "networking.istio.io/tunnel: http}}\n"
                            "spec: {address: 10.0.0.6, serviceAccount: own, ports: {p: 80}}\n";
  const Catalog away = catalog_of(files.substr(4), {"10.0.0.5"});
  CHECK(at(away, "10.0.0.6:80") == "tunnel 10.0.0.6:80");
  CHECK(codes(away) == Codes{"identity-not-configured", "workload-address-elsewhere"});
  CHECK(away.problems[1].informational);
  const Catalog here = catalog_of(files.substr(4), {"10.0.0.5", "10.0.0.6"});
  CHECK(at(here, "10.0.0.6:80") == "local 10.0.0.6:80");
  CHECK(codes(here) == Codes{"identity-not-configured"});
}

TEST_CASE("a workload in a network namespace answers at that namespace's addresses alone") {
  const std::string files = kWorkload.substr(4) +
                            local_workload("box", "netns: /run/netns/box", "{port: 80}") +
                            service("box", "10.99.0.2", "80") +
                            service("box6", "fd99::2", "80", "box");
  const Namespaces known = {{{"shop", "box"}, {*IpAddress::parse("10.1.0.2"),
                                               *IpAddress::parse("fd01::2"),
                                               *IpAddress::parse("fe80::2")}}};
  const Catalog catalog = catalog_of(files, {"10.0.0.5"}, known);
  CHECK(at(catalog, "10.1.0.2:80") == "local 10.1.0.2:80");
  CHECK(at(catalog, "[fd01::2]:80") == "local [fd01::2]:80");
  CHECK(at(catalog, "10.1.0.2:81") == "direct");
  CHECK(at(catalog, "10.0.0.5:80") == "local 10.0.0.5:80");
  CHECK(at(catalog, "10.99.0.2:80") == "local 10.1.0.2:80");
  CHECK(at(catalog, "[fd99::2]:80") == "local [fd01::2]:80");
  const auto box = catalog.answers(*SocketAddress::parse("10.1.0.2:80"));
  REQUIRE(box);
  CHECK(catalog.workloads[*box].id.name == "box");
  CHECK_FALSE(catalog.answers(*SocketAddress::parse("[fe80::2]:80")));

  const Catalog unknown = catalog_of(files, {"10.0.0.5"});
  CHECK(at(unknown, "10.99.0.2:80") == "refused");
  CHECK(at(unknown, "10.1.0.2:80") == "direct");
}

TEST_CASE("a network namespace cannot take what is the host's, a service's or another's") {
  const std::string box = local_workload("box", "netns: /run/netns/box", "{port: 80}");
  const std::string files = kNode + box + entry("web", "80") + service("web", "10.99.0.1", "80");
  const auto with = [&](const std::string& more, const std::string& address) {
    return catalog_of(files + more, {"10.79.0.77", "10.0.0.5"},
                      {{{"shop", "box"}, {*IpAddress::parse(address)}}});
  };
  const std::string there =
      "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: far, "
      "namespace: shop, labels: {networking.istio.io/tunnel: http}}\n"
      "spec: {address: 10.80.0.1, serviceAccount: db, ports: {p: 80}}\n";
  for (const char* address : {"10.0.0.5", "10.99.0.1", "10.80.0.1"}) {
    CAPTURE(address);
    const Catalog catalog = with(there, address);
    CHECK_FALSE(catalog.inbound_own.contains({*IpAddress::parse(address), 80}));
    const auto told = codes(catalog);
    CHECK(std::count(told.begin(), told.end(), "address-conflict") == 1);
  }
  CHECK(at(with(there, "10.80.0.1"), "10.80.0.1:80") == "tunnel 10.80.0.1:80");
  const std::string own = std::string(there).replace(there.find("db"), 2, "box");
  CHECK(at(with(own, "10.80.0.1"), "10.80.0.1:80") == "local 10.80.0.1:80");
}

TEST_CASE("two network namespaces with one address: neither is reached there") {
  const std::string files = kNode + local_workload("a", "netns: /run/netns/a", "{port: 80}") +
                            local_workload("b", "netns: /run/netns/b", "{port: 80}, {port: 81}");
  const std::vector<IpAddress> same = {*IpAddress::parse("10.1.0.2")};
  const Catalog catalog =
      catalog_of(files, {"10.79.0.77"}, {{{"shop", "a"}, same}, {{"shop", "b"}, same}});
  CHECK(at(catalog, "10.1.0.2:80") == "refused");
  CHECK(at(catalog, "10.1.0.2:81") == "local 10.1.0.2:81");
  CHECK(codes(catalog) == Codes{"address-conflict"});
}
