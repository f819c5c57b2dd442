#include "model/decode.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "model/config_set.h"

using namespace meshnode;         // NOLINT: test
using namespace meshnode::model;  // NOLINT: test

namespace {

Resource good(const std::string& text) {
  const auto documents = parse_yaml(text);
  REQUIRE(documents);
  REQUIRE(documents->size() == 1);
  Decoded decoded = decode(documents->front().root, "f.yaml");
  for (const TextError& error : decoded.errors) UNSCOPED_INFO(error.reason);
  REQUIRE(decoded.resource);
  return std::move(*decoded.resource);
}

template <class T>
T spec(const std::string& text) {
  return std::get<T>(good(text).spec);
}

std::string join(const std::vector<Rejection>& all) {
  std::string out;
  for (const Rejection& one : all) out += one.text() + "\n";
  return out;
}

std::string node(const std::string& spec) {
  return "apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: web-1}\nspec:\n" + spec;
}
std::string workload(const std::string& spec) {
  return "apiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: web}\nspec:\n" + spec;
}
std::string service(const std::string& spec) {
  return "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n" + spec;
}
std::string service_entry(const std::string& spec) {
  return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: web}\nspec:\n" +
         spec;
}
std::string workload_entry(const std::string& spec) {
  return "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: web}\nspec:\n" +
         spec;
}

struct Bad {
  std::string text;
  std::string says;  ///< "line:column: words", or part of it
};

void refused(const std::vector<Bad>& cases) {
  for (const Bad& bad : cases) {
    CAPTURE(bad.text);
    CHECK_THAT(join(validate("f.yaml", bad.text)), Catch::Contains(bad.says));
  }
}

std::string ports(int count) {
  std::string list = "1";
  for (int port = 2; port <= count; ++port) list += ", " + std::to_string(port);
  return list;
}

const std::string kUser = "  match: {user: web}\n";
const std::string kStatic =
    "  hosts: [a.example.com]\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n";

}  // namespace

TEST_CASE("a Node says what the contract lists, and defaults the rest") {
  const auto all = spec<NodeSpec>(
      node("  address: 10.77.0.1\n  locality: eu/a/r7\n  trustDomain: example.internal\n"
           "  identity: {source: files, directory: /srv/certs}\n"
           "  capture: {onCrash: closed, loopback: false, preserveSourceAddress: false,\n"
           "    excludePorts: [9100, 22, 9100], excludeCidrs: [fd00::/8, 10.1.0.0/16]}\n"
           "  proxy: {threads: 3, connectTimeout: 1.5s, halfClosedTimeout: 2h, drainTimeout: 0,\n"
           "    idleTunnelTimeout: 90s, maxTunnelsPerPeer: 7, maxMemory: 512Mi}\n  accessLog: "
           "{format: \"off\"}\n"));
  CHECK(all.address == *IpAddress::parse("10.77.0.1"));
  CHECK(all.locality == "eu/a/r7");
  CHECK(all.trust_domain == "example.internal");
  CHECK(all.identity_source == NodeSpec::IdentitySource::kFiles);
  CHECK(all.identity_directory == "/srv/certs");
  CHECK_FALSE(all.capture_loopback);
  CHECK_FALSE(all.preserve_source_address);
  CHECK(all.exclude_ports == std::vector<std::uint16_t>{22, 9100});
  CHECK(all.exclude_cidrs == std::vector<IpPrefix>{IpPrefix::parse("10.1.0.0/16").value(),
                                                   IpPrefix::parse("fd00::/8").value()});
  CHECK(all.proxy_threads == 3);
  CHECK(all.proxy_limits.connect_timeout == std::chrono::milliseconds(1500));
  CHECK(all.proxy_limits.half_closed_timeout == std::chrono::hours(2));
  CHECK(all.proxy_limits.idle_tunnel_timeout == std::chrono::seconds(90));
  CHECK(all.proxy_limits.drain_timeout == Duration::zero());
  CHECK(all.proxy_limits.max_tunnels_per_peer == 7);
  CHECK(all.proxy_limits.max_memory == std::uint64_t{512} << 20U);
  CHECK(all.access_log == NodeSpec::AccessLog::kOff);

  CHECK(spec<NodeSpec>(node("  {}\n")) == NodeSpec{});
  CHECK(spec<NodeSpec>("apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: a}\n") ==
        NodeSpec{});
  CHECK(spec<NodeSpec>(node("  identity: {source: cluster}\n")) == NodeSpec{});
  CHECK(spec<NodeSpec>(node("  accessLog: {format: off}\n")).access_log ==
        NodeSpec::AccessLog::kOff);
}

TEST_CASE("a Node's mistakes are named") {
  refused({
      {node("  adress: 10.0.0.1\n"),
       "f.yaml:5:3: spec.adress: unknown field; did you mean 'addres"},
      {node("  zebra: 1\n"), "5:3: spec.zebra: unknown field\n"},
      {node("  address: 10.0.0.256\n"), "5:12: spec.address: \"10.0.0.256\" is not an IP address"},
      {node("  address: 127.0.0.1\n"), "other nodes cannot reach"},
      {node("  address: 1.5\n"), "expected a string, found a number \"1.5\"; put it in quotes"},
      {node("  locality: a/b/c/d\n"), "region[/zone[/subzone]]"},
      {node("  locality: a//c\n"), "region[/zone[/subzone]]"},
      {node("  trustDomain: a\n"), "only for identity.source: files"},
      {node("  identity: {source: files}\n"), "spec.trustDomain: is required"},
      {node("  identity: {source: files}\n  trustDomain: A.b\n"), "not a DNS name in lower"},
      {node("  identity: {source: files, directory: certs}\n"), "not an absolute path"},
      {node("  identity: {directory: /certs}\n"), "only for identity.source: files"},
      {node("  identity: {source: vault}\n"), "\"vault\" is not known; use cluster, files"},
      {node("  capture: {onCrash: open}\n"), "open is not supported by this version"},
      {node("  capture: {onCrash: ajar}\n"), "is not known; use closed, open"},
      {node("  capture: {excludePorts: [0]}\n"),
       "5:28: spec.capture.excludePorts: every entry is a port"},
      {node("  capture: {excludePorts: [\"22\"]}\n"), "every entry is a port from 1 to 65535"},
      {node("  capture: {excludeCidrs: [10.0.0.1/8]}\n"),
       "5:28: spec.capture.excludeCidrs: \"10.0.0.1/8\" is not an address block: it has bits "
       "beyond its length; write 10.0.0.0/8"},
      {node("  capture: {excludeCidrs: [\"::/0\"]}\n"), "::/0 is wider than /7: name the networks"},
      {node("  capture: {excludeCidrs: [0.0.0.0/6]}\n"), "is wider than /7"},
      {node("  capture: {excludePorts: [" + ports(65) + "]}\n"), "65 entries, at most 64"},
      {node("  capture: {loopback: yes}\n"),
       "expected true or false, found a string \"yes\"; write true or false without quotes"},
      {node("  proxy: {threads: 257}\n"), "257 is out of range; allowed is 0 to 256"},
      {node("  proxy: {threads: -1}\n"), "-1 is out of range"},
      {node("  proxy: {threads: \"2\"}\n"), "found a string \"2\"; write it as decimal digits"},
      {node("  proxy: {conectTimeout: 1s}\n"),
       "5:11: spec.proxy.conectTimeout: unknown field; did you mean 'connectTimeout'?"},
      {node("  proxy: {connectTimeout: 99ms}\n"),
       "5:27: spec.proxy.connectTimeout: duration \"99ms\" is not between 100ms and 1m"},
      {node("  proxy: {connectTimeout: 61s}\n"), "is not between 100ms and 1m"},
      {node("  proxy: {connectTimeout: 10}\n"), "not a duration: \"10\"; write it like"},
      {node("  proxy: {connectTimeout: [1s]}\n"), "expected a duration like 30s, found a list"},
      {node("  proxy: {halfClosedTimeout: 999ms}\n"), "is not between 1s and 24h"},
      {node("  proxy: {halfClosedTimeout: 25h}\n"), "is not between 1s and 24h"},
      {node("  proxy: {idleTunnelTimeout: 0}\n"), "is not between 1s and 24h"},
      {node("  proxy: {drainTimeout: 601s}\n"), "is not between 0s and 10m"},
      {node("  proxy: {maxTunnelsPerPeer: 0}\n"), "0 is out of range; allowed is 1 to 1000000"},
      {node("  proxy: {maxMemory: 63Mi}\n"), "63Mi is out of range; allowed is 64Mi to 64Ti"},
      {node("  proxy: {maxMemory: 65Ti}\n"), "65Ti is out of range"},
      {node("  proxy: {maxMemory: 99999999999Ti}\n"), "expected an amount of memory like 512Mi"},
      {node("  proxy: {maxMemory: 1GB}\n"), "expected an amount of memory like 512Mi or 2Gi"},
      {node("  proxy: {maxMemory: -1}\n"), "expected an amount of memory"},
      {node("  proxy: {maxMemory: 4096}\n"), "4096 is out of range"},
      {node("  proxy: 2\n"), "spec.proxy: expected a mapping, found an integer \"2\""},
      {node("  accessLog: {format: xml}\n"), "use text, json, off"},
      {node("  - a\n"), "5:3: spec: expected a mapping, found a list"},
      {"apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: a, namespace: b}\n",
       "a Node has no namespace"},
      {"apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: a}\nstatus: {}\n",
       "4:1: status: unknown field"},
  });
}

TEST_CASE("a Workload says what the contract lists, and defaults the rest") {
  const Resource all = good(
      "apiVersion: meshnode.io/v1\nkind: Workload\n"
      "metadata: {name: web, namespace: shop, labels: {app: web, a.example/x_y: \"1.0\"},\n"
      "  annotations: {x: y}}\n"
      "spec:\n  match: {cgroup: /batch.slice/web/}\n  serviceAccount: frontend\n"
      "  ports: [{name: http, port: 8080, protocol: HTTP}, {port: 9090, protocol: GRPC},\n"
      "    {port: 9091, protocol: HTTP2}, {port: 9092}]\n  default: true\n");
  CHECK(all.metadata.ns == "shop");
  CHECK(all.metadata.labels.at("a.example/x_y") == "1.0");
  CHECK(all.kind() == "Workload");
  CHECK(all.origin.text() == "f.yaml:1:1");
  const auto& full = std::get<WorkloadSpec>(all.spec);
  CHECK(std::get<MatchCgroup>(full.match).path == "batch.slice/web");
  CHECK(full.service_account == "frontend");
  REQUIRE(full.ports.size() == 4);
  CHECK(full.ports[0] == WorkloadPort{"http", 8080, Protocol::kHttp});
  CHECK(full.ports[1].protocol == Protocol::kGrpc);
  CHECK(full.ports[2].protocol == Protocol::kHttp2);
  CHECK(full.ports[3].protocol == Protocol::kTcp);
  CHECK(full.is_default);

  const Resource least = good(workload(kUser));
  CHECK(least.metadata.ns == "default");
  CHECK(std::get<WorkloadSpec>(least.spec).service_account == "default");
  for (const char* uid : {"1000", "\"1000\""}) {
    const auto by_uid = spec<WorkloadSpec>(workload("  match: {user: " + std::string(uid) + "}\n"));
    CHECK(std::get<MatchUser>(by_uid.match).user == "1000");
  }
}

TEST_CASE("a Workload is told by an address or a network namespace as well") {
  const auto match = [](const std::string& text) {
    return spec<WorkloadSpec>(workload("  match: " + text + "\n")).match;
  };
  CHECK(match("{address: \"fd00::5\"}") == Match(MatchAddress{*IpAddress::parse("fd00::5")}));
  CHECK(match("{netns: /run/netns/web}") == Match(MatchNetns{"/run/netns/web", 0}));
  CHECK(match("{netns: 4194304}") == Match(MatchNetns{{}, 4194304}));
}

TEST_CASE("a Workload's mistakes are named") {
  std::string many = "  ports: [";
  for (int i = 1; i <= 65; ++i) many += "{port: " + std::to_string(1000 + i) + "}, ";
  refused({
      {workload("  {}\n"), "spec.match: is required"},
      {workload("  match: {}\n"), "exactly one of systemdUnit, user, cgroup, netns, address"},
      {workload("  match: {user: a, cgroup: b}\n"), "exactly one of"},
      {workload("  match: {usr: a}\n"), "spec.match.usr: unknown field; did you mean 'user'?"},
      {workload("  match: {systemdUnit: a.service}\n"), "systemdUnit: is not supported by this v"},
      {workload("  match: {netns: web}\n"), "neither the id of a process nor an absolute path"},
      {workload("  match: {netns: /}\n"), "neither the id of a process nor an absolute path"},
      {workload("  match: {netns: /run/../a}\n"), "neither the id of a process nor an absolute"},
      {workload("  match: {netns: /mnt/far/a}\n"), "below /run or /var/run, or /proc/PID/ns/net"},
      {workload("  match: {netns: /proc/7/root/a}\n"), "below /run or /var/run"},
      {workload("  match: {netns: \"7\"}\n"), "neither the id of a process nor an absolute path"},
      {workload("  match: {netns: /" + std::string(512, 'a') + "}\n"), "neither the id"},
      {workload("  match: {netns: 0}\n"), "0 is out of range; allowed is 1 to 4194304"},
      {workload("  match: {netns: [1]}\n"), "expected a string, found a list"},
      {workload("  match: {address: web}\n"), "spec.match.address"},
      {workload("  match: {address: 127.0.0.1}\n"), "no address that one workload could have"},
      {workload("  match: {address: \"::\"}\n"), "no address that one workload could have"},
      {workload("  match: {address: 224.0.0.1}\n"), "no address that one workload could have"},
      {workload("  match: {address: \"fe80::1\"}\n"), "no address that one workload could have"},
      {workload("  match: {user: \"a b\"}\n"), "is not a user name"},
      {workload("  match: {user: \"\"}\n"), "is not a user name"},
      {workload("  match: {user: [a]}\n"), "expected a string, found a list"},
      {workload("  match: {user: -1}\n"), "-1 is out of range"},
      {workload("  match: {cgroup: a/../b}\n"), "not a path below the cgroup2 mount"},
      {workload("  match: {cgroup: a//b}\n"), "not a path below the cgroup2 mount"},
      {workload("  match: {cgroup: \"a b\"}\n"), "not a path below the cgroup2 mount"},
      {workload("  match: {cgroup: /}\n"), "is the root cgroup"},
      {workload("  match: {cgroup: 7}\n"), "expected a string, found an integer"},
      {workload(kUser + "  serviceAccount: A\n"), "spec.serviceAccount: is not a DNS label"},
      {workload(kUser + "  probe: {httpGet: {port: 1}}\n"), "spec.probe: is not supported"},
      {workload(kUser + "  ports: [{name: x}]\n"), "6:11: spec.ports[0].port: is required"},
      {workload(kUser + "  ports: [{port: 0}]\n"), "0 is out of range; allowed is 1 to 65535"},
      {workload(kUser + "  ports: [{port: 65536}]\n"), "65536 is out of range"},
      {workload(kUser + "  ports: [{port: \"80\"}]\n"), "decimal digits without quotes"},
      {workload(kUser + "  ports: [{port: eighty}]\n"), "found a string \"eighty\""},
      {workload(kUser + "  ports: [{port: 0x50}]\n"), "found a number \"0x50\"; write it as dec"},
      {workload(kUser + "  ports: [{port: 80, protocol: UDP}]\n"), "UDP is not supported"},
      {workload(kUser + "  ports: [{port: 80, protocol: http}]\n"), "use TCP, HTTP, HTTP2, GRPC"},
      {workload(kUser + "  ports: [{port: 80}, {port: 80}]\n"), "80 is declared twice"},
      {workload(kUser + "  ports: [{name: a, port: 80}, {name: a, port: 81}]\n"), "used twice"},
      {workload(kUser + "  ports: {port: 80}\n"), "spec.ports: expected a list, found a mapping"},
      {workload(kUser + many + "]\n"), "65 entries, at most 64 are allowed"},
      {workload(kUser + "  force: 1\n"), "spec.force: expected true or false"},
  });
}

TEST_CASE("root, SSH's port and our own ports need force") {
  for (const std::string user : {"root", "0", "\"0\"", "\"00\""}) {
    const std::string match = "  match: {user: " + user + "}\n";
    refused({{workload(match), "force: true"}});
    good(workload(match + "  force: true\n"));
  }
  for (const char* port :
       {"22", "7946", "15000", "15001", "15006", "15008", "15012", "15020", "15021", "15053"}) {
    const std::string text = kUser + "  ports: [{port: " + port + "}]\n";
    refused({{workload(text), std::string("spec.ports[0].port: ") + port}});
    good(workload(text + "  force: true\n"));
  }
}

TEST_CASE("a Service as Kubernetes stores it is read, surplus left aside") {
  const Resource resource = good(
      "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n"
      "  uid: abc\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n  resourceVersion: \"7\"\n"
      "  annotations: {a: b}\n  ownerReferences: []\n"
      "spec:\n  clusterIP: 10.99.0.1\n  clusterIPs: [10.99.0.1, \"2001:2::1\"]\n"
      "  internalTrafficPolicy: Cluster\n  ipFamilies: [IPv4, IPv6]\n"
      "  ipFamilyPolicy: PreferDualStack\n  sessionAffinity: None\n  type: ClusterIP\n"
      "  publishNotReadyAddresses: false\n  externalIPs: []\n  selector: {app: web}\n"
      "  ports:\n  - {name: http, port: 80, targetPort: 8080, protocol: TCP, appProtocol: http}\n"
      "  - {name: grpc, port: 81, targetPort: api, appProtocol: grpc}\n"
      "  - {name: raw, port: 82}\n"
      "status: {loadBalancer: {}}\n");
  const auto& service_spec = std::get<ServiceSpec>(resource.spec);
  REQUIRE(service_spec.addresses.size() == 2);
  CHECK(service_spec.addresses[1] == *IpAddress::parse("2001:2::1"));
  REQUIRE(service_spec.ports.size() == 3);
  CHECK(service_spec.ports[0] ==
        ServicePort{"http", 80, TargetPort{std::uint16_t{8080}}, Protocol::kHttp});
  CHECK(service_spec.ports[1] ==
        ServicePort{"grpc", 81, TargetPort{std::string("api")}, Protocol::kGrpc});
  CHECK(service_spec.ports[2].target == TargetPort{});

  CHECK(spec<ServiceSpec>(service("  clusterIP: None\n")).addresses.empty());
  CHECK(spec<ServiceSpec>(service("  ports: [{port: 80}]\n")).ports.size() == 1);
}

TEST_CASE("a Service's mistakes are named") {
  refused({
      {service("  selektor: {}\n"), "spec.selektor: unknown field; did you mean 'selector'?"},
      {service("  clusterIP: banana\n"), "spec.clusterIP: 'banana' is not an IP address"},
      {service("  clusterIP: 127.0.0.1\n"), "cannot stand for a service"},
      {service("  clusterIP: 224.0.0.1\n"), "cannot stand for a service"},
      {service("  clusterIPs:\n  - 1.1.1.1\n  - x\n"), "7:5: spec.clusterIPs: 'x' is not an IP"},
      {service("  ports:\n  - {name: a, port: 80}\n  - {name: b, port: 80}\n"),
       "7:5: spec.ports: port 80 is listed twice"},
      {service("  clusterIPs: [1.1.1.1, 1.1.1.2, 1.1.1.3]\n"), "3 entries, at most 2"},
      {service("  type: LoadBalancer\n"), "'LoadBalancer' is not supported by this version"},
      {service("  type: ExternalName\n  externalName: a.b\n"), "spec.externalName: is not supp"},
      {service("  sessionAffinity: ClientIP\n"), "'ClientIP' is not supported"},
      {service("  internalTrafficPolicy: Local\n"), "'Local' is not supported"},
      {service("  externalTrafficPolicy: Local\n"), "externalTrafficPolicy: is not supported"},
      {service("  externalIPs: [1.1.1.1]\n"), "externalIPs"},
      {service("  publishNotReadyAddresses: true\n"), "true is not supported"},
      {service("  ports: [{port: 53, protocol: UDP}]\n"), "protocol: UDP is not supported"},
      {service("  ports: [{port: 53, protocol: SCTP}]\n"), "protocol: SCTP is not supported"},
      {service("  ports: [{port: 80, targetPort: \"8080\"}]\n"), "number without quotes"},
      {service("  ports: [{port: 80, targetPort: A_b}]\n"), "neither a port name nor a number"},
      {service("  ports: [{port: 80, targetPort: 0}]\n"), "0 is out of range"},
      {service("  ports: [{port: 80, nodePort: 30000}]\n"), "nodePort: is not supported"},
      {service("  ports: [{port: 80}, {port: 81}]\n"), "needs a name"},
      {service("  ports: [{name: a, port: 80}, {name: b, port: 80}]\n"), "port 80 is listed twice"},
      {service("  ports: [{name: a, port: 80}, {name: a, port: 81}]\n"), "'a' is used twice"},
      {service("  ports: [{targetPort: 80}]\n"), "spec.ports[0].port: is required"},
      {service("  selector: {app: 1}\n"), "expected a string, found an integer \"1\"; put it in"},
      {service("  selector: {\"a b\": x}\n"), "not a label name"},
      {service("  selector: {app: \"a b\"}\n"), "not a label value"},
      {"apiVersion: v1\nkind: Service\nmetadata: {name: web, lables: {a: b}}\n",
       "metadata.lables: unknown field; did you mean 'labels'?"},
      {"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspecs: {}\n",
       "specs: unknown field; did you mean 'spec'?"},
  });
}

TEST_CASE("a ServiceEntry is read in each of its versions") {
  for (const char* version : {"v1", "v1beta1", "v1alpha3"}) {
    const auto entry = spec<ServiceEntrySpec>(
        "apiVersion: networking.istio.io/" + std::string(version) +
        "\nkind: ServiceEntry\nmetadata: {name: db.prod}\nspec:\n"
        "  hosts: [db.example.com, db2.example.com]\n  addresses: [10.99.0.2, \"2001:2::2\"]\n"
        "  location: MESH_INTERNAL\n  resolution: STATIC\n  exportTo: [\"*\"]\n"
        "  ports: [{number: 5432, name: pg, protocol: TLS, targetPort: 5433}]\n"
        "  endpoints:\n  - {address: 10.0.0.1, ports: {pg: 5434}, weight: 1, locality: eu/a,\n"
        "      labels: {networking.istio.io/tunnel: http}, serviceAccount: db}\n"
        "  - {address: 10.0.0.2}\n");
    CHECK(entry.hosts.size() == 2);
    CHECK(entry.addresses.size() == 2);
    CHECK(entry.mesh_internal);
    CHECK(entry.ports[0].target == TargetPort{std::uint16_t{5433}});
    REQUIRE(entry.endpoints.size() == 2);
    CHECK(entry.endpoints[0].tunnelled);
    CHECK(entry.endpoints[0].ports.at("pg") == 5434);
    CHECK(entry.endpoints[0].service_account == "db");
    CHECK_FALSE(entry.endpoints[1].tunnelled);
  }
  const auto selecting =
      spec<ServiceEntrySpec>(service_entry(kStatic + "  workloadSelector: {labels: {app: a}}\n"));
  CHECK(selecting.selector.at("app") == "a");
}

TEST_CASE("a ServiceEntry's mistakes are named") {
  const std::string ports = "  ports: [{number: 80, name: http}]\n";
  refused({
      {service_entry("  hosts: [a.b]\n" + ports), "its default, NONE, is not supported"},
      {service_entry("  hosts: [a.b]\n  resolution: DNS\n" + ports), "DNS is not supported"},
      {service_entry("  hosts: [a.b]\n  resolution: NONE\n" + ports), "NONE is not supported"},
      {service_entry("  resolution: STATIC\n" + ports), "spec.hosts: at least one is required"},
      {service_entry("  hosts: [\"*.a\"]\n  resolution: STATIC\n" + ports), "wildcard hosts"},
      {service_entry("  hosts: [A.b]\n  resolution: STATIC\n" + ports), "not a DNS name"},
      {service_entry("  resolution: STATIC\n" + ports + "  hosts:\n  - a.b\n  - A.b\n"),
       "9:5: spec.hosts: 'A.b' is not a DNS name"},
      {service_entry("  hosts: [1]\n  resolution: STATIC\n" + ports), "spec.hosts[0]: expected a"},
      {service_entry("  hosts: [a.b]\n  resolution: STATIC\n"), "spec.ports: at least one"},
      {service_entry(kStatic + "  addresses: [10.0.0.0/8]\n"), "is a range, which is not supp"},
      {service_entry(kStatic + "  exportTo: [\".\"]\n"), "'.' is not supported"},
      {service_entry(kStatic + "  subjectAltNames: [spiffe://a]\n"), "subjectAltNames: is not"},
      {service_entry(kStatic + "  endpoints: [{address: a.example.com}]\n"), "DNS addresses are n"},
      {service_entry(kStatic + "  endpoints: [{address: unix:///a}]\n"), "unix addresses are not"},
      {service_entry(kStatic + "  endpoints: [{ports: {a: 1}}]\n"), "endpoints[0].address: is req"},
      {service_entry(kStatic + "  endpoints: [{address: 10.0.0.1, weight: 3}]\n"), "weights other"},
      {service_entry(kStatic + "  endpoints: [{address: 10.0.0.1, network: n}]\n"),
       "network: is n"},
      {service_entry(kStatic + "  endpoints: [{address: 10.0.0.1, port: 1}]\n"), "did you mean 'p"},
      {service_entry(kStatic +
                     "  endpoints: [{address: 10.0.0.1}]\n  workloadSelector: {labels: {a: b}}\n"),
       "spec.workloadSelector: excludes endpoints"},
      {service_entry(kStatic + "  workloadSelector: {}\n"), "workloadSelector.labels: is required"},
  });
}

TEST_CASE("a WorkloadEntry merges its labels, metadata first, and knows its tunnel") {
  const auto entry = spec<WorkloadEntrySpec>(
      "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
      "metadata: {name: web-1.a, labels: {app: meta, networking.istio.io/tunnel: http}}\n"
      "spec: {address: \"2001:db8::1\", labels: {app: spec, version: v1}, ports: {http: 80}}\n");
  CHECK(entry.labels.at("app") == "meta");
  CHECK(entry.labels.at("version") == "v1");
  CHECK(entry.tunnelled);
  CHECK(entry.service_account == "default");
  refused({
      {workload_entry("  {}\n"), "spec.address: is required"},
      {workload_entry("  address: 0.0.0.0\n"), "does not name one host"},
      {workload_entry("  address: 10.0.0.1\n  ports: {http: x}\n"), "spec.ports.http: expected an"},
      {workload_entry("  address: 10.0.0.1\n  ports: {http: }\n"), "spec.ports.http: is required"},
      {workload_entry("  address: 10.0.0.1\n  ports: {a_b: 1}\n"), "a port name is a DNS label"},
      {workload_entry("  address: 10.0.0.1\n  serviceAccount: [a]\n"), "found a list"},
  });
}

TEST_CASE("kinds that are not supported are refused by name, never applied") {
  const std::string rest = "\nmetadata: {name: a, namespace: b}\nspec: {anything: [1, 2]}\n";
  struct Kind {
    std::string version, kind;
  };
  const Kind kinds[] = {{"security.istio.io/v1", "AuthorizationPolicy"},
                        {"security.istio.io/v1beta1", "PeerAuthentication"},
                        {"security.istio.io/v1", "RequestAuthentication"},
                        {"networking.istio.io/v1", "VirtualService"},
                        {"networking.istio.io/v1alpha3", "DestinationRule"},
                        {"networking.istio.io/v1", "Gateway"},
                        {"networking.istio.io/v1", "WorkloadGroup"},
                        {"telemetry.istio.io/v1", "Telemetry"},
                        {"gateway.networking.k8s.io/v1", "HTTPRoute"},
                        {"gateway.networking.k8s.io/v1", "Gateway"}};
  for (const Kind& kind : kinds) {
    const auto all =
        validate("f.yaml", "apiVersion: " + kind.version + "\nkind: " + kind.kind + rest);
    REQUIRE(all.size() == 1);
    CHECK_THAT(all[0].text(), Catch::StartsWith("f.yaml:2:7: kind: " + kind.kind));
    CHECK_THAT(all[0].message, Catch::Contains("not supported by this version"));
    CHECK(all[0].kind == kind.kind);
    CHECK(all[0].ns == "b");
    CHECK(all[0].name == "a");
  }
}

TEST_CASE("a document without a proper head is refused") {
  refused({
      {"kind: Service\nmetadata: {name: a}\n", "1:1: apiVersion: is required"},
      {"apiVersion: v1\nmetadata: {name: a}\n", "1:1: kind: is required"},
      {"apiVersion: v1\nkind: Servise\nmetadata: {name: a}\n", "'Servise' is not a known kind"},
      {"apiVersion: v2\nkind: Service\nmetadata: {name: a}\n",
       "1:13: apiVersion: 'v2' does not have the kind Service; use v1"},
      {"apiVersion: v1\nkind: Workload\nmetadata: {name: a}\n", "use meshnode.io/v1"},
      {"apiVersion: networking.istio.io/v2\nkind: Gateway\nmetadata: {name: a}\n",
       "use networking.istio.io/v1"},
      {"apiVersion: v1\nkind: Service\n", "metadata.name: is required"},
      {"apiVersion: v1\nkind: Service\nmetadata: {name: A}\n", "metadata.name: is not a DNS label"},
      {"apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: B}\n", "metadata.namespace"},
      {"apiVersion: v1\nkind: Service\nmetadata: a\n", "metadata: expected a mapping"},
      {"- a\n", "1:1: document: expected a mapping, found a list"},
      {"hello\n", "1:1: document: expected a mapping, found a string \"hello\""},
  });
}

TEST_CASE("all mistakes of a document are told, up to a bound") {
  CHECK(validate("f.yaml", node("  a: 1\n  b: 1\n  locality: 1\n")).size() == 3);
  std::string many;
  for (int i = 0; i < 1000; ++i) many += "  unknown" + std::to_string(i) + ": 1\n";
  CHECK(validate("f.yaml", node(many)).size() == 20);
}
