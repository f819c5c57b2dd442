// Where the callee's policies are asked, and what a caller that they do not admit sees.

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <utility>

#include "proxy/caller.h"
#include "support/policies.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

namespace {

using Action = model::AuthorizationPolicySpec::Action;

model::Resources authorization(Action action, std::vector<std::string> principals) {
  model::AuthorizationPolicySpec spec;
  spec.action = action;
  if (!principals.empty()) spec.rules = {policy::from_principals(std::move(principals))};
  return policy::one({"bookinfo", "guard", {}}, std::move(spec));
}

model::Resources strict() {
  model::PeerAuthenticationSpec spec;
  spec.mode = model::PeerMode::kStrict;
  return policy::one({"bookinfo", "strict", {}}, spec);
}

/// The same snapshot with these policies for the workload at `slot`.
void guard(Node& node, std::uint16_t slot, const model::Resources& resources) {
  auto next = std::make_shared<snapshot::Snapshot>(*node.snapshot);
  const auto before = next->by_slot.at(slot);
  auto after = std::make_shared<snapshot::LocalWorkload>(*before);
  after->policies =
      policy::compile(resources, {{after->id, {}}}, policy::scope()).at(after->id);
  next->by_slot[slot] = next->by_id[after->id] = after;
  for (auto& [address, workload] : next->inbound) {
    if (workload == before) workload = after;
  }
  for (auto& [address, route] : next->routes) {
    for (snapshot::Endpoint& endpoint : route.endpoints) {
      if (endpoint.local == before) endpoint.local = after;
    }
  }
  node.snapshot = next;
  node.proxy->swap(std::move(next));
}

const std::string kProductPrincipal = "example.internal/ns/bookinfo/sa/productpage";

}  // namespace

TEST_CASE("a tunnel's caller that a policy denies is answered 401, and a permitted one 200") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  struct Row {
    model::Resources policies;
    int status;
    std::string why;
  };
  const auto row = GENERATE(
      Row{authorization(Action::kDeny, {kProductPrincipal}), 401, "bookinfo/guard rules[0]"},
      Row{authorization(Action::kAllow, {"example.internal/ns/other/sa/x"}), 401, "no rule"},
      Row{authorization(Action::kAllow, {}), 401, "no rule"},
      Row{authorization(Action::kAllow, {kProductPrincipal}), 200, ""}, Row{strict(), 200, ""});
  guard(world.b, 1, row.policies);
  Caller caller(world, "10.0.0.1");
  caller.ask();
  CHECK((row.status == 200 ? caller.answer.accepted : caller.answer.refused) == 1);
  if (row.status == 200) return;
  CHECK(caller.answer.status == 401);
  CHECK(world.dials("10.0.0.2:9080").empty());
  REQUIRE(world.b.refusals().size() == 1);
  CHECK(world.b.refusals()[0].flag == telemetry::Flag::kDeny);
  CHECK_THAT(world.b.refusals()[0].error, Catch::Contains(row.why));
  CHECK(world.b.recorders.metrics.refused(telemetry::Refusal::kPolicy).value() == 1);
}

TEST_CASE("plaintext that a policy or STRICT does not admit is reset before the program sees it") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  const bool by_mode = GENERATE(true, false);
  guard(world.b, 1, by_mode ? strict() : authorization(Action::kAllow, {kProductPrincipal}));
  const bool loopback = GENERATE(false, true);
  auto caller =
      loopback
          ? world.network.connect(world.b.plaintext, {at("127.0.0.1:4000"), at("127.0.0.1:15006"),
                                                      at("127.0.0.1:9080")})
          : world.network.connect(world.b.plaintext,
                                  {at("10.0.0.1:4000"), at("10.0.0.2:9080"), std::nullopt});
  world.loop.run();
  REQUIRE(caller->error);
  CHECK(caller->error->code == ErrorCode::kReset);
  CHECK(program->peers.empty());
  REQUIRE(world.b.refusals().size() == 1);
  CHECK(world.b.refusals()[0].flag == telemetry::Flag::kDeny);
}

TEST_CASE("a caller on the callee's node is judged as one from elsewhere, wherever it dials") {
  World world;
  world.open();
  const std::string to = GENERATE(as<std::string>{}, "10.0.0.1:7070", "127.0.0.2:7070");
  auto program = world.network.serve(at(to));
  SECTION("denied by name") {
    guard(world.a, 2, authorization(Action::kDeny, {kProductPrincipal}));
    auto app = world.a.call(to);
    world.loop.run();
    REQUIRE(app->error);
    CHECK(program->peers.empty());
    REQUIRE(world.a.refusals().size() == 1);
    CHECK(world.a.refusals()[0].flag == telemetry::Flag::kDeny);
  }
  SECTION("admitted by name where plaintext is not, as the kernel has proven who it is") {
    guard(world.a, 2, strict());
    auto app = world.a.call(to);
    app->send("hello");
    world.loop.run();
    REQUIRE(program->peers.size() == 1);
    CHECK(program->peer().received == "hello");
  }
}

TEST_CASE("a policy that tightens cuts what it no longer allows, open or not, and nothing else") {
  World world;
  world.open();
  auto program = world.network.serve(at("10.0.0.2:9080"));
  auto neighbour = world.network.serve(at("10.0.0.1:7070"));
  auto tunnelled = world.a.call("10.0.0.2:9080");
  auto plain = world.network.connect(world.b.plaintext,
                                     {at("192.0.2.7:4000"), at("10.0.0.2:9080"), std::nullopt});
  auto local = world.a.call("10.0.0.1:7070");
  world.loop.run();
  REQUIRE(program->peers.size() == 2);
  REQUIRE(neighbour->peers.size() == 1);

  guard(world.b, 1, strict());
  world.loop.run();
  CHECK(plain->error);
  CHECK_FALSE(tunnelled->error);
  CHECK_FALSE(local->error);

  guard(world.b, 1, authorization(Action::kAllow, {kProductPrincipal}));
  world.loop.run();
  CHECK_FALSE(tunnelled->error);

  guard(world.b, 1, authorization(Action::kDeny, {kProductPrincipal}));
  world.loop.run();
  CHECK(tunnelled->error);
  CHECK_FALSE(local->error);

  guard(world.a, 2, authorization(Action::kDeny, {kProductPrincipal}));
  world.loop.run();
  CHECK(local->error);
  CHECK(world.b.proxy->idle());
}
