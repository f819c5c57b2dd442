#include "telemetry/observed.h"

#include <fmt/format.h>
#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <vector>

using namespace meshnode;
using namespace meshnode::telemetry;

namespace {

struct World {
  WallTime now{std::chrono::hours(1'000)};
  Observed observed{[this] { return now; }};
  void pass(Duration by) { now += by; }
};

Call call_of(std::size_t number) {
  return {{"shop", "web"},
          fmt::format("spiffe://example.internal/ns/shop/sa/s{}", number),
          IpAddress::v4({10, 0, 0, 1}),
          {IpAddress::v4({10, 0, 0, 2}), 80}};
}

}  // namespace

TEST_CASE("calls are counted by who, whom and where, and open ones are known as such") {
  World world;
  auto first = world.observed.admitted(call_of(1));
  world.pass(std::chrono::minutes(10));
  auto second = world.observed.admitted(call_of(1));
  world.observed.denied(call_of(2));
  first.reset();
  const auto calls = world.observed.calls({});
  REQUIRE(calls.size() == 2);
  CHECK(calls[0].call == call_of(1));
  CHECK(calls[0].admitted == 2);
  CHECK(calls[0].open == 1);
  CHECK(calls[0].last - calls[0].first == std::chrono::minutes(10));
  CHECK(calls[1].denied == 1);
  CHECK(calls[1].admitted == 0);
}

TEST_CASE("what has neither been open nor begun since is not among the calls since") {
  World world;
  auto lasting = world.observed.admitted(call_of(1));
  world.observed.admitted(call_of(2)).reset();
  world.pass(std::chrono::hours(2));
  world.observed.admitted(call_of(3)).reset();
  const auto calls = world.observed.calls(world.now - std::chrono::hours(1));
  REQUIRE(calls.size() == 2);
  CHECK(calls[0].call == call_of(1));
  CHECK(calls[1].call == call_of(3));
}

TEST_CASE("10,000 calls are known; of more the oldest that are over make room, open ones never") {
  World world;
  auto lasting = world.observed.admitted(call_of(0));
  for (std::size_t i = 1; i < Observed::kMaxCalls; ++i) {
    world.pass(std::chrono::seconds(1));
    world.observed.admitted(call_of(i)).reset();
  }
  CHECK(world.observed.calls({}).size() == Observed::kMaxCalls);
  CHECK(world.observed.forgotten() == 0);
  world.observed.denied(call_of(Observed::kMaxCalls));
  CHECK(world.observed.forgotten() == Observed::kMaxCalls / 10);
  const auto calls = world.observed.calls({});
  CHECK(calls.size() == Observed::kMaxCalls - Observed::kMaxCalls / 10 + 1);
  CHECK(std::any_of(calls.begin(), calls.end(), [](const auto& one) { return one.open == 1; }));
}

TEST_CASE("when all calls are open one more is not known, and counted") {
  World world;
  std::vector<std::unique_ptr<Observed::Open>> open;
  for (std::size_t i = 0; i < Observed::kMaxCalls; ++i) {
    open.push_back(world.observed.admitted(call_of(i)));
  }
  CHECK(world.observed.admitted(call_of(Observed::kMaxCalls)) == nullptr);
  CHECK(world.observed.forgotten() == 1);
}
