// What connections meet once the rules are in a real kernel: who lands where, with which addresses.

#include <netinet/in.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <map>

#include "capture/applier.h"
#include "capture/lab.h"
#include "capture/rules.h"

using namespace meshnode;
using namespace meshnode::capture;
using namespace meshnode::capture::test;

namespace {

constexpr unsigned kShop = 61001;   // enrolled, declares 9080
constexpr unsigned kOther = 61009;  // nobody's workload
constexpr auto kSoon = std::chrono::milliseconds(150);

Spec shop() {
  Spec spec;
  spec.workloads = {{"shop/web", 258, ByUser{kShop}, {9080}}};
  return spec;
}

/// A host with the rules applied and the agent's listeners open.
struct World {
  explicit World(const Spec& spec = shop(), const std::string& backend = "")
      : kernel(backend), applier(kernel) {
    for (const Listener& listener : listeners()) {
      agent.emplace(listener.name, open_listener(listener));
    }
    auto applied = applier.apply(spec);
    if (!applied) FAIL(applied.error().message);
  }
  const Fd& outbound(Family family) {
    return agent.at(family == Family::kV4 ? "outbound4" : "outbound6");
  }
  const Fd& inbound(Family family) {
    return agent.at(family == Family::kV4 ? "inbound4" : "inbound6");
  }
  std::uint64_t bypassed(const std::string& reason) {
    REQUIRE(applier.verify_and_repair());
    std::uint64_t sum = 0;
    for (const Bypass& hit : applier.counters()) sum += hit.reason == reason ? hit.packets : 0;
    return sum;
  }

  Lab lab;
  LabKernel kernel;
  Applier applier;
  std::map<std::string, Fd> agent;
};

struct Addresses {
  Family family;
  std::string host;
  std::string peer;
  std::string loopback;
  SocketAddress host_at(int port) const { return at(host + ":" + std::to_string(port)); }
  SocketAddress peer_at(int port) const { return at(peer + ":" + std::to_string(port)); }
  SocketAddress loopback_at(int port) const { return at(loopback + ":" + std::to_string(port)); }
};

Addresses each_family() {
  return GENERATE(Addresses{Family::kV4, "10.9.0.1", "10.9.0.2", "127.0.0.1"},
                  Addresses{Family::kV6, "[fd00:9::1]", "[fd00:9::2]", "[::1]"});
}

int outcome(const SocketAddress& to, const DialAs& as) {
  int error = 0;
  const Fd fd = dial(to, as, error);
  return error;
}

/// The connection that dialling `to` as `as` makes at `listener`, proved by bytes in both ways.
Accepted lands(const Fd& listener, const SocketAddress& to, const DialAs& as) {
  int error = 0;
  const Fd client = dial(to, as, error);
  INFO("to " << to.text() << " as " << as.uid);
  REQUIRE(error == 0);
  auto served = accept_one(listener);
  REQUIRE(served);
  CHECK(echo(client, served->socket));
  return std::move(*served);
}

}  // namespace

TEST_CASE("an enrolled caller's connection is steered and names caller and destination") {
  if (!can_make_namespaces()) return;
  const std::string backend = GENERATE("-nft", "-legacy");
  const Addresses net = each_family();
  World world(shop(), backend);
  const Accepted caught = lands(world.outbound(net.family), net.peer_at(8080), {kShop});
  CHECK(caught.local == SocketAddress{capture_address(net.family, 258), kOutboundPort});
  CHECK(slot_of(caught.local.ip).value() == 258);
  REQUIRE(caught.original);
  CHECK(*caught.original == net.peer_at(8080));
  CHECK(caught.peer.ip == net.host_at(1).ip);
}

TEST_CASE("other users and our own packets go where they always went") {
  if (!can_make_namespaces()) return;
  const Addresses net = each_family();
  World world;
  world.lab.enter_peer();
  const Fd remote = listen_on(net.peer_at(8080));
  world.lab.enter_host();
  CHECK(lands(remote, net.peer_at(8080), {kOther}).local == net.peer_at(8080));
  CHECK(lands(remote, net.peer_at(8080), {kShop, kOwnMark}).local == net.peer_at(8080));
  CHECK_FALSE(accept_one(world.outbound(net.family), std::chrono::milliseconds(0)));
}

TEST_CASE("a workload's own undeclared port on this host is none of our business") {
  if (!can_make_namespaces()) return;
  const Addresses net = each_family();
  World world;
  for (const SocketAddress& where : {net.loopback_at(5432), net.host_at(5432)}) {
    const Fd database = listen_on(where);
    CHECK(lands(database, where, {kShop}).local == where);
    CHECK(lands(database, where, {kOther}).local == where);
  }
}

TEST_CASE(
    "an undeclared port of this host that a container publishes still leads to the container") {
  if (!can_make_namespaces()) return;
  World world;
  world.kernel.must({"iptables", "-t", "nat", "-A", "OUTPUT", "-d", "10.9.0.1", "-p", "tcp",
                     "--dport", "8081", "-j", "DNAT", "--to-destination", "10.9.0.2:8080"});
  world.lab.enter_peer();
  const Fd container = listen_on(at("10.9.0.2:8080"));
  world.lab.enter_host();
  lands(container, at("10.9.0.1:8081"), {kShop});
}

TEST_CASE("callers on this host reach a declared port through us, each as who they are") {
  if (!can_make_namespaces()) return;
  const Addresses net = each_family();
  World world;
  for (const SocketAddress& where : {net.loopback_at(9080), net.host_at(9080)}) {
    const Fd app = listen_on(where);
    const Accepted stranger = lands(world.inbound(net.family), where, {kOther});
    CHECK(stranger.local.port == kInboundPort);
    CHECK(stranger.peer.ip == where.ip);
    REQUIRE(stranger.original);
    CHECK(*stranger.original == where);

    const Accepted enrolled = lands(world.outbound(net.family), where, {kShop});
    CHECK(slot_of(enrolled.local.ip).value() == 258);
    REQUIRE(enrolled.original);
    CHECK(*enrolled.original == where);

    CHECK(lands(app, where, {0, kOwnMark}).local == where);
  }
  CHECK(world.bypassed("inbound") == 0);
}

TEST_CASE("without loopback capture nobody on this host is steered or refused at a declared port") {
  if (!can_make_namespaces()) return;
  const Addresses net = each_family();
  Spec spec = shop();
  spec.capture_loopback = false;
  World world(spec);
  for (const SocketAddress& where : {net.loopback_at(9080), net.host_at(9080)}) {
    const Fd app = listen_on(where);
    CHECK(lands(app, where, {kOther}).local == where);
    CHECK(lands(app, where, {kShop}).local == where);
  }
}

TEST_CASE("a connection from another host to a declared port comes to us with its destination") {
  if (!can_make_namespaces()) return;
  const std::string backend = GENERATE("-nft", "-legacy");
  const Addresses net = each_family();
  World world(shop(), backend);
  const Fd app = listen_on(net.host_at(9080));
  const Fd undeclared = listen_on(net.host_at(2222));
  world.lab.enter_peer();
  const Accepted caught = lands(world.inbound(net.family), net.host_at(9080), {kOther});
  CHECK(caught.local == net.host_at(9080));
  CHECK(caught.peer.ip == net.peer_at(1).ip);
  CHECK(lands(undeclared, net.host_at(2222), {kOther}).local == net.host_at(2222));
  CHECK(lands(world.agent.at(net.family == Family::kV4 ? "tunnel4" : "tunnel6"),
              net.host_at(kTunnelPort), {kOther})
            .local == net.host_at(kTunnelPort));
}

TEST_CASE("the host's own firewall sees the real port") {
  if (!can_make_namespaces()) return;
  World world;
  const SocketAddress where = at("10.9.0.1:9080");
  SECTION("a denied port stays closed") {
    world.kernel.must({"iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9080", "-j", "REJECT",
                       "--reject-with", "tcp-reset"});
    world.lab.enter_peer();
    CHECK(outcome(where, {kOther}) == ECONNREFUSED);
  }
  SECTION("an allowed port stays open") {
    world.kernel.must({"iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9080", "-j", "ACCEPT"});
    world.kernel.must({"iptables", "-P", "INPUT", "DROP"});
    world.lab.enter_peer();
    lands(world.inbound(Family::kV4), where, {kOther});
  }
  SECTION("a source denied in mangle stays denied") {
    world.kernel.must({"iptables", "-t", "mangle", "-A", "PREROUTING", "-s", "10.9.0.2", "-p",
                       "tcp", "--dport", "9080", "-j", "DROP"});
    Applier successor(world.kernel);
    REQUIRE(successor.remove());
    REQUIRE(successor.apply(shop()));
    world.lab.enter_peer();
    CHECK(outcome(where, {kOther}) != 0);
  }
}

TEST_CASE("nobody reaches our listeners but through the rules") {
  if (!can_make_namespaces()) return;
  const Addresses net = each_family();
  World world;
  for (const int port : {int{kOutboundPort}, int{kInboundPort}}) {
    CHECK(outcome(net.host_at(port), {kOther}) == ECONNREFUSED);
    CHECK(outcome(net.loopback_at(port), {kShop}) == ECONNREFUSED);
    CHECK(outcome({capture_address(net.family, 258), static_cast<std::uint16_t>(port)}, {kOther}) ==
          ECONNREFUSED);
    world.lab.enter_peer();
    CHECK(outcome(net.host_at(port), {kOther}) == ECONNREFUSED);
    world.lab.enter_host();
  }
  CHECK(world.bypassed("own-port") >= 8);
}

TEST_CASE("with the steering gone, the backstops refuse and count until it is repaired") {
  if (!can_make_namespaces()) return;
  const std::string backend = GENERATE("-nft", "-legacy");
  const Addresses net = each_family();
  World world(shop(), backend);
  const std::string iptables = net.family == Family::kV4 ? "iptables" : "ip6tables";
  world.lab.enter_peer();
  const Fd remote = listen_on(net.peer_at(8080));
  world.lab.enter_host();
  const Fd app = listen_on(net.host_at(9080));

  world.kernel.must({iptables, "-t", "nat", "-F"});
  world.kernel.must({iptables, "-t", "mangle", "-F"});
  CHECK(outcome(net.peer_at(8080), {kShop}) == ECONNREFUSED);
  CHECK(outcome(net.host_at(9080), {kOther}) == ECONNREFUSED);
  CHECK(lands(remote, net.peer_at(8080), {kOther}).local == net.peer_at(8080));
  world.lab.enter_peer();
  CHECK(outcome(net.host_at(9080), {kOther}) == ECONNREFUSED);
  world.lab.enter_host();

  CHECK(world.bypassed("outbound") == 1);
  CHECK(world.bypassed("inbound") == 2);
  lands(world.outbound(net.family), net.peer_at(8080), {kShop});
  lands(world.inbound(net.family), net.host_at(9080), {kOther});
  CHECK(world.bypassed("inbound") == 2);

  // The count outlives the rules that counted.
  Spec more = shop();
  more.workloads[0].ports.push_back(9090);
  REQUIRE(world.applier.apply(more));
  CHECK(world.bypassed("inbound") == 2);
}

TEST_CASE("an app sees the source address of the tunnel's peer and answers it through us") {
  if (!can_make_namespaces()) return;
  const Addresses net = each_family();
  const std::string rp_filter = GENERATE("0", "1", "2");
  const std::string backend = GENERATE("-nft", "-legacy");
  World world(shop(), backend);
  for (const char* device : {"all", "lo", "veth0"}) {
    const std::string directory = std::string("/proc/sys/net/ipv4/conf/") + device;
    REQUIRE(world.kernel.write(directory + "/rp_filter", rp_filter));
    REQUIRE(world.kernel.write(directory + "/src_valid_mark", "1"));
  }
  const Fd app = listen_on(net.host_at(9080));
  const SocketAddress client = net.peer_at(40123);
  const Accepted served = lands(app, net.host_at(9080), {0, kOwnMark, client});
  CHECK(served.peer == client);
  CHECK(served.local == net.host_at(9080));

  // The same client's traffic with this host is not led astray.
  const Fd undeclared = listen_on(net.host_at(2222));
  world.lab.enter_peer();
  const Fd remote = listen_on(net.peer_at(8080));
  lands(undeclared, net.host_at(2222), {kOther});
  lands(world.inbound(net.family), net.host_at(9080), {kOther});
  world.lab.enter_host();
  lands(remote, net.peer_at(8080), {kOther});
}

TEST_CASE("a cgroup's processes are steered, also after it was created again") {
  if (!can_make_namespaces()) return;
  const std::string backend = GENERATE("-nft", "-legacy");
  LabCgroup cgroup("meshnode test.");
  if (cgroup.path().empty()) {
    WARN("no cgroup2 is mounted: matching by cgroup was not tested");
    return;
  }
  Spec spec;
  spec.workloads = {{"shop/job", 7, ByCgroup{cgroup.path()}, {9080}}};
  World world(spec, backend);
  CHECK(world.applier.verify_and_repair()->waiting == std::vector<std::string>{"shop/job"});
  // Its ports are guarded before it is there.
  const Fd app = listen_on(at("10.9.0.1:9080"));
  lands(world.inbound(Family::kV4), at("10.9.0.1:9080"), {kOther});

  for (int life = 0; life < 3; ++life) {
    cgroup.create();
    auto bound = world.applier.verify_and_repair();
    if (!bound) FAIL(bound.error().message);
    REQUIRE(bound->repaired.size() == 1);
    CHECK(bound->repaired[0].find(cgroup.path()) != std::string::npos);
    CHECK(bound->waiting.empty());
    cgroup.inside([&] {
      const Accepted caught = lands(world.outbound(Family::kV4), at("10.9.0.2:8080"), {kOther});
      CHECK(slot_of(caught.local.ip).value() == 7);
    });
    CHECK_FALSE(accept_one(world.outbound(Family::kV4), kSoon));
    cgroup.destroy();
    if (life == 1) {
      REQUIRE(world.applier.verify_and_repair());
      CHECK(world.applier.verify_and_repair()->waiting.size() == 1);
    }
  }
}

TEST_CASE("connections that live are not touched by rules that come and go") {
  if (!can_make_namespaces()) return;
  const std::string backend = GENERATE("-nft", "-legacy");
  const Addresses net = each_family();
  World world(shop(), backend);
  REQUIRE(world.applier.remove());
  world.lab.enter_peer();
  const Fd remote = listen_on(net.peer_at(8080));
  world.lab.enter_host();
  int error = 0;
  const Fd direct = dial(net.peer_at(8080), {kShop}, error);
  REQUIRE(error == 0);
  auto direct_end = accept_one(remote);
  REQUIRE(direct_end);

  REQUIRE(world.applier.apply(shop()));
  CHECK(echo(direct, direct_end->socket));
  const Fd steered = dial(net.peer_at(8080), {kShop}, error);
  REQUIRE(error == 0);
  auto steered_end = accept_one(world.outbound(net.family));
  REQUIRE(steered_end);
  const Fd app = listen_on(net.host_at(9080));
  const Fd preserved = dial(net.host_at(9080), {0, kOwnMark, net.peer_at(40123)}, error);
  REQUIRE(error == 0);
  auto preserved_end = accept_one(app);
  REQUIRE(preserved_end);

  // Nothing enrolled any more: the anchor and the routes hold what lives.
  REQUIRE(world.applier.apply(Spec{}));
  CHECK(echo(steered, steered_end->socket));
  CHECK(echo(preserved, preserved_end->socket));
  CHECK(echo(direct, direct_end->socket));
  CHECK(lands(remote, net.peer_at(8080), {kShop}).local == net.peer_at(8080));

  // Someone flushes nat altogether: the anchor alone keeps translation alive.
  world.kernel.must({net.family == Family::kV4 ? "iptables" : "ip6tables", "-t", "nat", "-F"});
  CHECK(echo(steered, steered_end->socket));

  REQUIRE(world.applier.remove());
  CHECK(echo(direct, direct_end->socket));
}

TEST_CASE("the anchor alone keeps live connections translated when every other rule is flushed") {
  if (!can_make_namespaces()) return;
  const std::string backend = GENERATE("-nft", "-legacy");
  const Addresses net = each_family();
  Spec spec = shop();
  spec.preserve_source = false;
  World world(spec, backend);
  int error = 0;
  const Fd steered = dial(net.peer_at(8080), {kShop}, error);
  REQUIRE(error == 0);
  auto steered_end = accept_one(world.outbound(net.family));
  REQUIRE(steered_end);
  const std::string iptables = net.family == Family::kV4 ? "iptables" : "ip6tables";
  world.kernel.must({iptables, "-t", "nat", "-F"});
  world.kernel.must({iptables, "-F"});
  CHECK(echo(steered, steered_end->socket));
}

TEST_CASE("an IPv6 link-local destination is left alone") {
  if (!can_make_namespaces()) return;
  World world;
  world.lab.enter_peer();
  const std::string shown = world.kernel.must({"ip", "-6", "address", "show", "dev", "veth1"});
  const std::size_t begin = shown.find("fe80:");
  REQUIRE(begin != shown.npos);
  const SocketAddress peer{
      IpAddress::parse(shown.substr(begin, shown.find('/', begin) - begin)).value(), 8080};
  const Fd remote = listen_on(at("[::]:8080"));
  world.lab.enter_host();
  int error = 0;
  const Fd client = dial(peer, {kShop}, error, "veth0");
  CHECK(error == 0);
  CHECK(accept_one(remote));
}
