#include "agent/departing.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <vector>

using namespace meshnode;
using namespace meshnode::agent;
using namespace std::chrono_literals;

namespace {

struct At {
  const char* name;
  std::uint16_t slot;
  std::uint16_t space = 0;
};

snapshot::Snapshot with(const std::vector<At>& workloads) {
  snapshot::Snapshot made;
  for (const At& at : workloads) {
    auto one = std::make_shared<snapshot::LocalWorkload>();
    one->id = {"shop", at.name};
    one->slot = at.slot;
    one->space = at.space;
    made.workloads.push_back(one);
    made.by_slot.emplace(one->slot, one);
  }
  return made;
}

}  // namespace

TEST_CASE("who leaves the configuration is a caller for as long as rules may lead here") {
  const auto before = with({{"web", 1}, {"client", 2}});
  auto after = with({{"web", 1}});
  Departing departing;
  const Instant now{};
  departing.compare(before, after, now);
  REQUIRE(departing.all().size() == 1);
  CHECK(departing.all().at({2, 0})->id == WorkloadId{"shop", "client"});

  // The next snapshot has it among the departed only, and does not make it stay longer.
  after.departed = departing.all();
  departing.compare(after, with({{"web", 1}}), now + 4s);
  CHECK_FALSE(departing.forget(now + 4s));
  CHECK(departing.all().size() == 1);
  CHECK(departing.forget(now + kDeparting));
  departing.compare(after, with({{"web", 1}}), now + kDeparting);
  CHECK(departing.all().empty());
  CHECK_FALSE(departing.forget(now + 60s));
}

TEST_CASE("who moves between the host and a network namespace has left where it was") {
  Departing departing;
  departing.compare(with({{"web", 1}, {"client", 2, 2}}), with({{"web", 1, 1}, {"client", 2, 2}}),
                    Instant{});
  REQUIRE(departing.all().size() == 1);
  CHECK(departing.all().at({1, 0})->space == 0);

  // Removed soon after: rules of either place may lead here yet.
  departing.compare(with({{"web", 1, 1}, {"client", 2, 2}}), with({{"client", 2, 2}}), Instant{});
  CHECK(departing.all().size() == 2);
  CHECK(departing.all().at({1, 1})->space == 1);
}

TEST_CASE("who leaves again is what it was the last time, for as long again") {
  Departing departing;
  departing.compare(with({{"web", 1}}), with({}), Instant{});
  const auto again = with({{"web", 1}});
  departing.compare(again, with({}), Instant{} + 3s);
  CHECK_FALSE(departing.forget(Instant{} + kDeparting));
  CHECK(departing.all().at({1, 0}) == again.workloads[0]);
}
