#include "proxy/plan.h"

#include <catch2/catch.hpp>
#include <set>
#include <string>
#include <vector>

#include "proxy/mesh.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

namespace {

const SpiffeId kRatings = id_of("spiffe://example.internal/ns/bookinfo/sa/ratings");

snapshot::Snapshot some_snapshot() {
  snapshot::Snapshot made;
  made.node_name = "a";
  made.trust_domain = "example.internal";
  const std::vector<IpAddress> here = {ip("10.0.0.1"), ip("fd00::1"), ip("127.0.0.1"), ip("::1")};
  enrol(made, workload(kProduct, 1, {9080}, credential_for(kProduct)), here);
  enrol(made, workload(kRatings, 2, {7070}), here);

  const auto add = [&made](const std::string& address, snapshot::Route route) {
    route.id = made.routes.size() + 1;
    made.routes.emplace(at(address), std::move(route));
  };
  add("10.0.0.2:9080", {0, {}, {tunnelled("10.0.0.2:9080", kReviews, "10.0.0.2:15008")}});
  add("[fd00::2]:9080", {0, {}, {tunnelled("[fd00::2]:9080", kReviews, "[fd00::2]:15008")}});
  snapshot::Endpoint plain;
  plain.address = at("10.0.0.9:5432");
  add("10.0.0.9:5432", {0, {}, {plain}});
  snapshot::Endpoint local;
  local.address = at("10.0.0.1:7070");
  local.identity = kRatings;
  local.via = snapshot::Endpoint::Via::kLocal;
  local.local = made.by_slot.at(2);
  add("10.0.0.1:7070", {0, {}, {local}});
  const snapshot::ServiceRef reviews{"reviews.bookinfo.mesh.internal", "reviews", "bookinfo"};
  add("10.99.0.1:80", {0,
                       reviews,
                       {tunnelled("10.0.0.2:9080", kReviews, "10.0.0.2:15008"),
                        tunnelled("10.0.0.3:9080", kReviews, "10.0.0.3:15008"),
                        tunnelled("10.0.0.4:9080", kReviews, "10.0.0.4:15008")}});
  add("10.99.0.2:80", {0, snapshot::ServiceRef{"empty.shop.mesh.internal", "empty", "shop"}, {}});
  add("10.99.0.3:80", {0, {}, {}});
  return made;
}

OutboundFacts facts(std::uint16_t slot, const std::string& original) {
  const auto k = static_cast<std::uint8_t>(slot);
  return {0, slot, {IpAddress::v4({127, 15, 0, k}), 15001}, at(original)};
}

std::string refusal(const OutboundPlan& plan) {
  const auto* refuse = std::get_if<Refuse>(&plan.step);
  return refuse == nullptr ? "" : refuse->reason;
}

}  // namespace

TEST_CASE("an outbound connection is planned from who called and where to") {
  const auto snapshot = some_snapshot();
  struct Row {
    std::string original;
    std::string to;      // of the address that is gone to
    std::string tunnel;  // empty: none
  };
  const std::vector<Row> rows = {
      {"192.0.2.1:443", "192.0.2.1:443", ""},  // unknown: direct
      {"10.0.0.2:22", "10.0.0.2:22", ""},      // an undeclared port of a mesh address: direct
      {"[2001:db8::1]:443", "[2001:db8::1]:443", ""},
      {"10.0.0.2:9080", "10.0.0.2:9080", "10.0.0.2:15008"},
      {"[fd00::2]:9080", "[fd00::2]:9080", "[fd00::2]:15008"},
      {"10.0.0.9:5432", "10.0.0.9:5432", ""},  // a plain endpoint
      {"10.0.0.1:7070", "10.0.0.1:7070", ""},  // on this node
  };
  for (const Row& row : rows) {
    INFO(row.original);
    const OutboundPlan plan = plan_outbound(snapshot, facts(1, row.original), 0);
    REQUIRE(plan.caller);
    CHECK(plan.caller->identity == kProduct);
    if (const auto* direct = std::get_if<GoDirect>(&plan.step)) {
      CHECK(direct->to == at(row.to));
      CHECK(row.tunnel.empty());
      CHECK(route_of(snapshot, facts(1, row.original)) == nullptr);
      continue;
    }
    const auto* go = std::get_if<GoTo>(&plan.step);
    REQUIRE(go != nullptr);
    CHECK(go->endpoint.address == at(row.to));
    CHECK((go->endpoint.via == snapshot::Endpoint::Via::kTunnel) == !row.tunnel.empty());
    CHECK((row.tunnel.empty() || go->endpoint.tunnel == at(row.tunnel)));
    CHECK_FALSE(go->service);
  }
}

TEST_CASE("a service's endpoints are taken in turn") {
  const auto snapshot = some_snapshot();
  const auto where = facts(1, "10.99.0.1:80");
  REQUIRE(route_of(snapshot, where) != nullptr);
  std::vector<std::string> taken;
  for (std::uint64_t turn = 0; turn < 6; ++turn) {
    const OutboundPlan plan = plan_outbound(snapshot, where, turn);
    const auto* go = std::get_if<GoTo>(&plan.step);
    REQUIRE(go != nullptr);
    REQUIRE(go->service);
    CHECK(go->service->hostname == "reviews.bookinfo.mesh.internal");
    taken.push_back(go->endpoint.address.text());
  }
  CHECK(std::set<std::string>(taken.begin(), taken.begin() + 3).size() == 3);
  CHECK(std::vector<std::string>(taken.begin(), taken.begin() + 3) ==
        std::vector<std::string>(taken.begin() + 3, taken.end()));
}

TEST_CASE("what cannot be planned is refused with its reason") {
  const auto snapshot = some_snapshot();
  const auto refused = [&](const OutboundFacts& about) {
    const OutboundPlan plan = plan_outbound(snapshot, about, 0);
    REQUIRE(std::holds_alternative<Refuse>(plan.step));
    return std::get<Refuse>(plan.step);
  };
  CHECK(refused(facts(1, "10.99.0.2:80")).reason == "empty.shop.mesh.internal has no endpoint now");
  CHECK(refused(facts(1, "10.99.0.3:80")).reason == "10.99.0.3:80 has no endpoint now");
  // Ratings has no certificate: a tunnel cannot be opened in its name.
  const Refuse no_credential = refused(facts(2, "10.0.0.2:9080"));
  CHECK(no_credential.flag == telemetry::Flag::kTlsFailure);
  CHECK(no_credential.reason == "bookinfo/ratings has no certificate: no certificate file for it");
  // Nobody is enrolled there, or the address is no capture address at all.
  CHECK(refused(facts(9, "192.0.2.1:443")).reason == "no workload is enrolled at 127.15.0.9");
  OutboundFacts elsewhere = facts(1, "192.0.2.1:443");
  elsewhere.slot.reset();
  CHECK(refused(elsewhere).reason == "no workload is enrolled at 127.15.0.1");
}

TEST_CASE("a capture port that was reached directly is refused") {
  const auto snapshot = some_snapshot();
  OutboundFacts direct = facts(1, "127.15.0.1:15001");
  CHECK_THAT(refusal(plan_outbound(snapshot, direct, 0)), Catch::Contains("reached directly"));
  CHECK(route_of(snapshot, direct) == nullptr);
  direct.original.reset();
  CHECK_THAT(refusal(plan_outbound(snapshot, direct, 0)), Catch::Contains("reached directly"));
  CHECK(route_of(snapshot, direct) == nullptr);
}

TEST_CASE("a workload without a certificate still goes direct and to its own node") {
  const auto snapshot = some_snapshot();
  CHECK(
      std::holds_alternative<GoDirect>(plan_outbound(snapshot, facts(2, "192.0.2.1:443"), 0).step));
  CHECK(std::holds_alternative<GoTo>(plan_outbound(snapshot, facts(2, "10.0.0.9:5432"), 0).step));
  CHECK(std::holds_alternative<GoTo>(plan_outbound(snapshot, facts(2, "10.0.0.1:7070"), 0).step));
}

TEST_CASE("plaintext goes to where it was headed") {
  const auto snapshot = some_snapshot();
  struct Row {
    std::string local;
    std::string original;  // empty: none
    std::string to;        // empty: refused
    bool known;
  };
  const std::vector<Row> rows = {
      {"10.0.0.1:9080", "", "10.0.0.1:9080", true},  // TPROXY
      {"[fd00::1]:9080", "", "[fd00::1]:9080", true},
      {"127.0.0.1:15006", "10.0.0.1:9080", "10.0.0.1:9080", true},  // NAT
      {"127.0.0.1:15006", "127.0.0.5:9080", "127.0.0.5:9080", true},
      {"[::1]:15006", "[::1]:9080", "[::1]:9080", true},
      {"10.0.0.1:8080", "", "10.0.0.1:8080", false},  // no longer declared
      {"10.0.0.1:15006", "", "", false},              // reached directly
      {"[fd00::1]:15006", "", "", false},
      {"127.0.0.1:15006", "127.0.0.1:15006", "", false},
  };
  for (const Row& row : rows) {
    INFO(row.local << " " << row.original);
    const auto original =
        row.original.empty() ? std::nullopt : std::optional<SocketAddress>(at(row.original));
    const InboundPlan plan = plan_plaintext(snapshot, 0, at(row.local), original);
    CHECK((plan.callee != nullptr) == row.known);
    const auto* direct = std::get_if<GoDirect>(&plan.step);
    REQUIRE((direct != nullptr) == !row.to.empty());
    CHECK((direct == nullptr || direct->to == at(row.to)));
  }
}

TEST_CASE("a tunnelled connection reaches only what its certificate answers for") {
  const auto snapshot = some_snapshot();
  const SpiffeId kGone = id_of("spiffe://example.internal/ns/bookinfo/sa/gone");
  struct Row {
    std::string authority;
    SpiffeId presented;
    bool allowed;
  };
  const std::vector<Row> rows = {
      {"10.0.0.1:9080", kProduct, true},
      {"[fd00::1]:9080", kProduct, true},
      {"10.0.0.1:7070", kRatings, true},
      {"10.0.0.1:9080", kRatings, false},
      {"10.0.0.1:7070", kProduct, false},
      {"10.0.0.1:22", kProduct, false},
      {"10.0.0.1:9080", kGone, false},
      {"10.0.0.2:9080", kProduct, false},
      {"127.0.0.1:9080", kProduct, false},
      {"127.9.9.9:9080", kProduct, false},
      {"[::1]:9080", kProduct, false},
      {"[::ffff:127.0.0.1]:9080", kProduct, false},
      {"localhost:9080", kProduct, false},
      {"10.0.0.1", kProduct, false},
      {"10.0.0.1:0", kProduct, false},
      {"10.0.0.1:15006", kProduct, false},
      {"", kProduct, false},
      {"0.0.0.0:9080", kProduct, false},
      {"[fd00::1%eth0]:9080", kProduct, false},
  };
  for (const Row& row : rows) {
    INFO(row.authority << " " << row.presented.uri());
    const InboundPlan plan = plan_tunnelled(snapshot, {}, row.authority, row.presented);
    const auto* refuse = std::get_if<Refuse>(&plan.step);
    CHECK((refuse == nullptr) == row.allowed);
    CHECK((plan.callee != nullptr) == row.allowed);
    if (refuse != nullptr) {
      CHECK(refuse->flag == telemetry::Flag::kConnect);
      CHECK_FALSE(refuse->reason.empty());
      CHECK(refuse->unknown_callee == (row.presented == kGone));
    } else {
      CHECK(std::get<GoDirect>(plan.step).to == at(row.authority));
      CHECK(plan.callee->identity == row.presented);
    }
  }
}

TEST_CASE("in a namespace of its own a workload is known by its listener") {
  auto snapshot = some_snapshot();
  auto boxed = workload(kReviews, 9, {6060}, credential_for(kReviews));
  boxed->space = 9;
  snapshot.by_slot.emplace(boxed->slot, boxed);

  // Whatever capture address its SYN was led to.
  OutboundFacts inside = facts(1, "10.0.0.2:9080");
  inside.space = 9;
  const OutboundPlan plan = plan_outbound(snapshot, inside, 0);
  REQUIRE(plan.caller);
  CHECK(plan.caller->identity == kReviews);
  CHECK(std::holds_alternative<GoTo>(plan.step));
  // And nobody outside is it.
  CHECK(std::holds_alternative<Refuse>(
      plan_outbound(snapshot, facts(9, "10.0.0.2:9080"), 0).step));

  const snapshot::Arrival arrival{9, ip("10.1.0.2")};
  const auto goes = [&](const std::string& authority, const SpiffeId& presented) {
    return std::holds_alternative<GoDirect>(
        plan_tunnelled(snapshot, arrival, authority, presented).step);
  };
  CHECK(goes("10.1.0.2:6060", kReviews));
  CHECK_FALSE(goes("10.1.0.2:6060", kProduct));
  CHECK_FALSE(goes("10.1.0.2:6061", kReviews));
  CHECK_FALSE(goes("10.1.0.3:6060", kReviews));
  CHECK_FALSE(goes("127.0.0.1:6060", kReviews));
  CHECK_FALSE(goes("10.0.0.1:9080", kReviews));
  CHECK(plan_plaintext(snapshot, 9, at("10.1.0.2:6060"), std::nullopt).callee == boxed);
  CHECK(plan_plaintext(snapshot, 0, at("10.1.0.2:6060"), std::nullopt).callee == nullptr);
}

TEST_CASE("an authority that only translation leads here is dialled at an address of the host") {
  auto snapshot = some_snapshot();
  const std::vector<IpAddress> advertised = {ip("203.0.113.7")};
  enrol(snapshot, workload(kReviews, 3, {6060}), advertised);
  snapshot.dialled_as.emplace(ip("203.0.113.7"), ip("10.0.0.1"));
  const InboundPlan plan = plan_tunnelled(snapshot, {}, "203.0.113.7:6060", kReviews);
  REQUIRE(std::holds_alternative<GoDirect>(plan.step));
  CHECK(std::get<GoDirect>(plan.step).to == at("10.0.0.1:6060"));
  REQUIRE(plan.callee);
  CHECK(plan.callee->identity == kReviews);
  const InboundPlan other = plan_tunnelled(snapshot, {}, "203.0.113.7:6060", kProduct);
  CHECK(std::holds_alternative<Refuse>(other.step));
}
