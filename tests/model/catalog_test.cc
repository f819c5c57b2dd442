#include "model/catalog.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

using namespace meshnode;         // NOLINT: test
using namespace meshnode::model;  // NOLINT: test

namespace {

const std::string kNode =
    "apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: a}\nspec: {address: 10.77.0.1,\n"
    "  trustDomain: td, identity: {source: files}, locality: eu/a}\n";

std::string workload(const std::string& name, const std::string& labels, const std::string& rest) {
  return "---\napiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: " + name +
         ", namespace: shop, labels: {" + labels + "}}\nspec: {match: {user: " + name +
         "}, serviceAccount: " + name + ", " + rest + "}\n";
}
std::string entry(const std::string& name, const std::string& labels, const std::string& rest,
                  bool tunnel = true) {
  return "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: " + name +
         ", namespace: shop, labels: {" + labels +
         (tunnel ? ", networking.istio.io/tunnel: http" : "") + "}}\nspec: {" + rest + "}\n";
}
std::string service(const std::string& name, const std::string& rest) {
  return "---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name +
         ", namespace: shop}\nspec: {" + rest + "}\n";
}
std::string service_entry(const std::string& name, const std::string& rest) {
  return "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: " + name +
         ", namespace: shop}\nspec: {resolution: STATIC, " + rest + "}\n";
}

Catalog catalog_of(const std::string& text, std::vector<std::string> addresses = {"10.77.0.1"}) {
  ConfigSet set;
  set.update("f.yaml", text);
  for (const Rejection& rejection : set.rejected()) UNSCOPED_INFO(rejection.text());
  REQUIRE(set.rejected().empty());
  CatalogInput input{"host", {}};
  for (const std::string& address : addresses) {
    input.local_addresses.push_back(*IpAddress::parse(address));
  }
  return make_catalog(set.accepted(), input);
}

/// "service[host:port name(tunnel|local|plain) ...]", or "direct" where there is no route.
std::string at(const Catalog& catalog, const std::string& address) {
  const SocketAddress wanted = *SocketAddress::parse(address);
  const auto route = std::find_if(catalog.routes.begin(), catalog.routes.end(),
                                  [&](const CatalogRoute& r) { return r.address == wanted; });
  if (route == catalog.routes.end()) return "direct";
  std::string out = route->service ? catalog.services[*route->service].hostname : "-";
  for (const CatalogEndpoint& endpoint : route->endpoints) {
    const Member& member = catalog.members[endpoint.member];
    out += " " + endpoint.address.text() + "=" + member.name +
           (member.local       ? "(local)"
            : member.tunnelled ? "(tunnel)"
                               : "(plain)");
  }
  return out;
}

std::vector<std::string> codes(const Catalog& catalog) {
  std::vector<std::string> out;
  for (const CatalogProblem& problem : catalog.problems) {
    CHECK_FALSE(problem.message.empty());
    CHECK_FALSE(problem.hint.empty());
    out.push_back(problem.code + " " + problem.object);
  }
  return out;
}
using Codes = std::vector<std::string>;

}  // namespace

TEST_CASE("a service leads to what it selects in its namespace, by each way of naming a port") {
  const std::string entries =
      entry("named", "app: web, v: a", "address: 10.0.0.1, ports: {http: 9081}") +
      entry("bare", "app: web", "address: 10.0.0.2") +
      entry("other", "app: db", "address: 10.0.0.3") +
      "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
      "metadata: {name: elsewhere, labels: {app: web}}\nspec: {address: 10.0.0.4}\n";
  const Catalog number = catalog_of(
      kNode + entries +
      service("web",
              "clusterIP: 10.99.0.1, selector: {app: web}, ports: [{name: http, port: 80, "
              "targetPort: 9080}]"));
  CHECK(at(number, "10.99.0.1:80") ==
        "web.shop.mesh.internal 10.0.0.1:9081=named(tunnel) 10.0.0.2:9080=bare(tunnel)");
  CHECK(at(number, "10.0.0.2:9080") == "web.shop.mesh.internal 10.0.0.2:9080=bare(tunnel)");
  CHECK(at(number, "10.99.0.1:81") == "direct");
  CHECK(at(number, "10.0.0.2:80") == "direct");
  CHECK(at(number, "10.0.0.4:9080") == "direct");
  CHECK(codes(number).empty());

  const Catalog narrow = catalog_of(
      kNode + entries +
      service("web", "clusterIP: 10.99.0.1, selector: {app: web, v: a}, ports: [{port: 80}]"));
  CHECK(at(narrow, "10.99.0.1:80") == "web.shop.mesh.internal 10.0.0.1:80=named(tunnel)");

  const Catalog name =
      catalog_of(kNode + entries +
                 service("web",
                         "clusterIP: 10.99.0.1, selector: {app: web}, ports: [{port: 80, "
                         "targetPort: http}]"));
  CHECK(at(name, "10.99.0.1:80") == "web.shop.mesh.internal 10.0.0.1:9081=named(tunnel)");
  CHECK(codes(name) == Codes{"target-port-missing Service shop/web"});
}

TEST_CASE("a service that selects nothing is there and empty, without a problem") {
  const Catalog catalog =
      catalog_of(kNode +
                 service("none",
                         "clusterIP: 10.99.0.1, selector: {app: no}, ports: [{port:"
                         " 80}]") +
                 service("unselective", "clusterIP: 10.99.0.2, ports: [{port: 80}]"));
  CHECK(at(catalog, "10.99.0.1:80") == "none.shop.mesh.internal");
  CHECK(at(catalog, "10.99.0.2:80") == "unselective.shop.mesh.internal");
  CHECK(codes(catalog).empty());
}

TEST_CASE("an entry at this host's address and a Workload's port is that Workload") {
  const std::string files =
      kNode +
      workload("web", "app: web", "ports: [{name: http, port: 9080}, {name: admin, port: 9090}]") +
      entry("web-a", "app: web", "address: 10.77.0.1, ports: {http: 9080}, serviceAccount: web") +
      entry("web-b", "app: web", "address: 10.77.0.2, ports: {http: 9080}, serviceAccount: web") +
      service("web",
              "clusterIPs: [10.99.0.1, \"2001:2::1\"], selector: {app: web}, ports: [{name: "
              "http, port: 80}]");
  const Catalog catalog = catalog_of(files, {"127.0.0.1", "10.77.0.1", "fd00::1", "fe80::1"});
  CHECK(codes(catalog).empty());
  CHECK(at(catalog, "10.99.0.1:80") ==
        "web.shop.mesh.internal 10.77.0.1:9080=web(local) 10.77.0.2:9080=web-b(tunnel)");
  CHECK(at(catalog, "[2001:2::1]:80") ==
        "web.shop.mesh.internal 10.77.0.2:9080=web-b(tunnel) [fd00::1]:9080=web(local)");
  for (const char* own : {"10.77.0.1:9080", "[fd00::1]:9080", "127.0.0.1:9080", "[::1]:9080"}) {
    CHECK(at(catalog, own) == std::string("web.shop.mesh.internal ") + own + "=web(local)");
  }
  CHECK(at(catalog, "[fe80::1]:9080") == "direct");
  CHECK(at(catalog, "127.0.0.1:9090") == "web.shop.mesh.internal 127.0.0.1:9090=web(local)");
  CHECK(at(catalog, "10.77.0.1:22") == "direct");
  CHECK(at(catalog, "10.77.0.2:22") == "direct");
  CHECK(catalog.inbound == std::map<std::uint16_t, std::size_t>{{9080, 0}, {9090, 0}});
  CHECK(catalog.addresses.size() == 3);
}

TEST_CASE("a workload with an app label is a service by itself, unless one selects it") {
  const std::string files = kNode + workload("web", "app: front", "ports: [{port: 9080}]") +
                            entry("db", "app: db", "address: 10.0.0.1, ports: {pg: 5432}") +
                            entry("x", "role: x", "address: 10.0.0.2, ports: {x: 1}");
  const Catalog alone = catalog_of(files);
  CHECK(at(alone, "10.77.0.1:9080") == "front.shop.mesh.internal 10.77.0.1:9080=web(local)");
  CHECK(at(alone, "10.0.0.1:5432") == "db.shop.mesh.internal 10.0.0.1:5432=db(tunnel)");
  CHECK(at(alone, "10.0.0.2:1") == "- 10.0.0.2:1=x(tunnel)");
  const Catalog selected =
      catalog_of(files + service("store", "selector: {app: db}, ports: [{port: 5432}]"));
  CHECK(at(selected, "10.0.0.1:5432") == "store.shop.mesh.internal 10.0.0.1:5432=db(tunnel)");
}

TEST_CASE("a Service never opens a port that the Workload does not declare") {
  const Catalog catalog = catalog_of(
      kNode + workload("web", "app: web", "ports: [{name: http, port: 9080}]") +
      service("web",
              "clusterIP: 10.99.0.1, selector: {app: web}, ports: [{name: a, port: 22}, "
              "{name: b, port: 80, targetPort: 23}, {name: c, port: 81, targetPort: http}, "
              "{name: d, port: 82, targetPort: nope}, {name: http, port: 83}]"));
  CHECK(at(catalog, "10.99.0.1:22") == "web.shop.mesh.internal");
  CHECK(at(catalog, "10.99.0.1:80") == "web.shop.mesh.internal");
  CHECK(at(catalog, "10.99.0.1:81") == "web.shop.mesh.internal 10.77.0.1:9080=web(local)");
  CHECK(at(catalog, "10.99.0.1:82") == "web.shop.mesh.internal");
  CHECK(at(catalog, "10.99.0.1:83") == "web.shop.mesh.internal 10.77.0.1:9080=web(local)");
  CHECK(at(catalog, "10.77.0.1:22") == "direct");
  CHECK(codes(catalog) == Codes(3, "target-port-missing Service shop/web"));
}

TEST_CASE("a ServiceEntry leads to its endpoints, or to what it selects") {
  const Catalog catalog = catalog_of(
      kNode +
      service_entry("db",
                    "hosts: [db.example.com], addresses: [10.99.0.5], ports: [{number: 5432, name: "
                    "pg, targetPort: 5433}], endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2, "
                    "ports: {pg: 5434}, labels: {networking.istio.io/tunnel: http}}]") +
      entry("web", "app: web", "address: 10.0.0.3") +
      service_entry("web",
                    "hosts: [web.example.com], addresses: [10.99.0.6], ports: [{number: 80, "
                    "name: http}], workloadSelector: {labels: {app: web}}"));
  CHECK(at(catalog, "10.99.0.5:5432") ==
        "db.example.com 10.0.0.1:5433=db/0(plain) 10.0.0.2:5434=db/1(tunnel)");
  CHECK(at(catalog, "10.0.0.1:5433") == "db.example.com 10.0.0.1:5433=db/0(plain)");
  CHECK(at(catalog, "10.99.0.6:80") == "web.example.com 10.0.0.3:80=web(tunnel)");
  CHECK(codes(catalog).empty());
}

TEST_CASE("an entry's identity is its namespace and service account") {
  const Catalog catalog =
      catalog_of(kNode + entry("a", "app: a", "address: 10.0.0.1, serviceAccount: acc") +
                 entry("b", "app: b", "address: 10.0.0.2"));
  REQUIRE(catalog.members.size() == 2);
  CHECK(catalog.members[0].identity.uri() == "spiffe://td/ns/shop/sa/acc");
  CHECK(catalog.members[1].identity.uri() == "spiffe://td/ns/shop/sa/default");
}

TEST_CASE("two owners of one address and port under different identities: neither is used there") {
  const Catalog catalog = catalog_of(
      kNode +
      entry("one", "app: x", "address: 10.0.0.1, ports: {p: 80, q: 81}, serviceAccount: a") +
      entry("two", "app: y", "address: 10.0.0.1, ports: {p: 80, r: 82}, serviceAccount: b") +
      service("x", "clusterIP: 10.99.0.1, selector: {app: x}, ports: [{name: p, port: 1}]"));
  CHECK(at(catalog, "10.0.0.1:80") == "-");
  CHECK(at(catalog, "10.0.0.1:81") == "x.shop.mesh.internal 10.0.0.1:81=one(tunnel)");
  CHECK(at(catalog, "10.0.0.1:82") == "y.shop.mesh.internal 10.0.0.1:82=two(tunnel)");
  CHECK(at(catalog, "10.99.0.1:1") == "x.shop.mesh.internal 10.0.0.1:80=one(tunnel)");
  CHECK(codes(catalog) == Codes{"address-conflict 10.0.0.1:80"});

  const Catalog agreeing = catalog_of(
      kNode + entry("one", "app: x", "address: 10.0.0.1, ports: {p: 80}, serviceAccount: a") +
      entry("two", "app: y", "address: 10.0.0.1, ports: {p: 80}, serviceAccount: a"));
  CHECK(codes(agreeing).empty());
  const Catalog stricter = catalog_of(
      kNode +
      entry("one", "app: x", "address: 10.0.0.1, ports: {p: 80}, serviceAccount: a", false) +
      entry("two", "app: y", "address: 10.0.0.1, ports: {p: 80}, serviceAccount: b"));
  CHECK(at(stricter, "10.0.0.1:80") == "y.shop.mesh.internal 10.0.0.1:80=two(tunnel)");
}

TEST_CASE("two services at one virtual address and port: neither is reached there") {
  const Catalog catalog =
      catalog_of(kNode + entry("web", "app: web", "address: 10.0.0.1") +
                 service("one",
                         "clusterIP: 10.99.0.1, selector: {app: web}, ports: [{name: a, port: 80}, "
                         "{name: b, port: 81}]") +
                 service("two", "clusterIP: 10.99.0.1, selector: {app: web}, ports: [{port: 80}]"));
  CHECK(at(catalog, "10.99.0.1:80") == "-");
  CHECK(at(catalog, "10.99.0.1:81") == "one.shop.mesh.internal 10.0.0.1:81=web(tunnel)");
  CHECK(codes(catalog) == Codes{"address-conflict Service shop/two"});
}

TEST_CASE("a service never takes an address of this host") {
  const Catalog catalog =
      catalog_of(kNode + service("web", "clusterIP: 10.77.0.1, ports: [{port: 22}]") +
                     service("six", "clusterIP: \"fd00::1\", ports: [{port: 22}]"),
                 {"10.77.0.1", "fd00::1"});
  CHECK(at(catalog, "10.77.0.1:22") == "direct");
  CHECK(at(catalog, "[fd00::1]:22") == "direct");
  CHECK(codes(catalog) ==
        Codes{"address-conflict Service shop/six", "address-conflict Service shop/web"});
}

TEST_CASE("a service at another host's address goes before that host") {
  const std::string one = entry("web", "app: web", "address: 10.0.0.1, ports: {p: 80}");
  const Catalog shadowing =
      catalog_of(kNode + one + entry("db", "app: db", "address: 10.0.0.2") +
                 service("db", "clusterIP: 10.0.0.1, selector: {app: db}, ports: [{port: 80}]"));
  CHECK(at(shadowing, "10.0.0.1:80") == "db.shop.mesh.internal 10.0.0.2:80=db(tunnel)");
  CHECK(codes(shadowing) == Codes{"address-conflict 10.0.0.1:80"});
  const Catalog itself =
      catalog_of(kNode + one +
                 service("web",
                         "clusterIP: 10.0.0.1, selector: {app: web}, ports: [{name: p, "
                         "port: 80}]"));
  CHECK(codes(itself).empty());
}

TEST_CASE("an entry at this host without its Workload is refused, not sent in the clear") {
  const std::string at_home = "address: 10.77.0.1, ports: {p: 80}, serviceAccount: x";
  const Catalog missing = catalog_of(
      kNode + entry("web", "app: web", at_home) +
      service("web", "clusterIP: 10.99.0.1, selector: {app: web}, ports: [{name: p, port: 1}]"));
  CHECK(at(missing, "10.77.0.1:80") == "-");
  CHECK(at(missing, "10.99.0.1:1") == "web.shop.mesh.internal");
  CHECK(codes(missing) == Codes{"workload-missing WorkloadEntry shop/web"});

  const Catalog plain = catalog_of(kNode + entry("web", "app: web", at_home, false));
  CHECK(at(plain, "10.77.0.1:80") == "web.shop.mesh.internal 10.77.0.1:80=web(plain)");

  const Catalog other = catalog_of(kNode + entry("web-a", "app: web", at_home) +
                                   workload("web", "app: web", "ports: [{port: 80}]"));
  CHECK(at(other, "10.77.0.1:80") == "web.shop.mesh.internal 10.77.0.1:80=web(local)");
  CHECK(codes(other) == Codes{"identity-mismatch WorkloadEntry shop/web-a"});
}

TEST_CASE("two Workloads of this node on one port: neither answers, unless they are one identity") {
  const Catalog catalog = catalog_of(kNode + workload("a", "app: a", "ports: [{port: 80}]") +
                                     workload("b", "app: b",
                                              "default: true, ports: [{port: 80}, "
                                              "{port: 81}]"));
  CHECK(catalog.inbound == std::map<std::uint16_t, std::size_t>{{81, 1}});
  CHECK(at(catalog, "10.77.0.1:80") == "-");
  CHECK(codes(catalog) == Codes{"address-conflict port 80"});
}

TEST_CASE("without an identity source the cause and the next step are told") {
  const Catalog bare = catalog_of(workload("web", "app: web", "ports: [{port: 80}]"));
  CHECK(bare.node_name == "host");
  CHECK(codes(bare) == Codes{"identity-not-configured Node host"});
  CHECK(bare.members[0].identity == SpiffeId{});
  CHECK(codes(catalog_of("apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: n}\n"
                         "spec: {identity: {source: cluster}}\n")) ==
        Codes{"identity-not-configured Node n"});
  CHECK_FALSE(bare.problems[0].informational);
}

TEST_CASE("several Workloads need one default for peers that name none") {
  const std::string a = workload("a", "app: a", "ports: []");
  const std::string b = workload("b", "app: b", "ports: []");
  const Catalog none = catalog_of(kNode + a + b);
  CHECK(codes(none) == Codes{"default-workload-missing Node a"});
  CHECK(none.problems[0].informational);
  CHECK(codes(catalog_of(kNode + a)).empty());
  const Catalog both = catalog_of(kNode + workload("a", "app: a", "default: true") +
                                  workload("b", "app: b", "default: true"));
  CHECK(codes(both) == Codes{"default-workload-conflict Node a"});
}

TEST_CASE("an identity too long for a server name is told") {
  const std::string label(63, 'x');
  const std::string long_node =
      "apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: a}\nspec: {trustDomain: " + label +
      "." + label + "." + label + ", identity: {source: files}}\n";
  const Catalog catalog = catalog_of(
      long_node +
      "---\napiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: w, namespace: " + label +
      "}\nspec: {match: {user: w}}\n");
  CHECK(codes(catalog) == Codes{"identity-not-configured Workload " + label + "/w"});
}

TEST_CASE("what multiplies beyond a million endpoints is cut off and told once") {
  std::string text = kNode;
  for (int i = 0; i < 1000; ++i) {
    text += "--- {apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: e" +
            std::to_string(i) + ", namespace: shop, labels: {app: x}}, spec: {address: 10.1." +
            std::to_string(i / 250) + "." + std::to_string(i % 250 + 1) + "}}\n";
  }
  std::string ports;
  for (int i = 1; i <= 256; ++i) {
    ports += "{name: p" + std::to_string(i) + ", port: " + std::to_string(i) + "},";
  }
  for (int i = 0; i < 10; ++i) {
    text += service("s" + std::to_string(i), "clusterIP: 10.99.0." + std::to_string(i + 1) +
                                                 ", selector: {app: x}, ports: [" + ports + "]");
  }
  const Catalog catalog = catalog_of(text);
  std::size_t endpoints = 0;
  for (const CatalogRoute& route : catalog.routes) endpoints += route.endpoints.size();
  CHECK(endpoints <= 2 * Catalog::kMaxRouteEndpoints);
  const auto all = codes(catalog);
  CHECK(std::count(all.begin(), all.end(), "limit-reached Service shop/s1") == 1);
  CHECK(all.size() == 1);
}

TEST_CASE("problems are bounded") {
  std::string text = kNode;
  for (int i = 0; i < 1500; ++i) {
    const std::string n = std::to_string(i);
    text += "--- {apiVersion: v1, kind: Service, metadata: {name: s" + n +
            "}, spec: {clusterIP: 10.77.0.1, ports: [{port: 80}]}}\n";
  }
  CHECK(catalog_of(text).problems.size() == Catalog::kMaxProblems);
}
