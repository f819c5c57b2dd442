#include "agent/departing.h"

#include <catch2/catch.hpp>
#include <chrono>

using namespace meshnode;
using namespace meshnode::agent;
using namespace std::chrono_literals;

TEST_CASE("who leaves the configuration is a caller for as long as rules may lead here") {
  const WorkloadId web{"shop", "web"};
  const WorkloadId client{"shop", "client"};
  snapshot::SlotTable slots;
  REQUIRE(slots.assign({web, client}));
  snapshot::Snapshot before;
  for (const WorkloadId& id : {web, client}) {
    auto one = std::make_shared<snapshot::LocalWorkload>();
    one->id = id;
    one->slot = slots.slot(id);
    before.workloads.push_back(one);
    before.by_slot.emplace(one->slot, one);
  }
  const std::uint16_t old = slots.slot(client);
  REQUIRE(slots.assign({web}));
  Departing departing;
  const Instant now{};
  departing.compare(before, slots, now);
  REQUIRE(departing.all().size() == 1);
  CHECK(departing.all()[0]->id == client);

  // The next snapshot has it among the callers only, and does not make it stay longer.
  snapshot::Snapshot after;
  after.workloads.push_back(before.workloads[0]);
  after.by_slot = before.by_slot;
  CHECK(after.caller(old));
  departing.compare(after, slots, now + 4s);
  CHECK_FALSE(departing.forget(now + 4s));
  CHECK(departing.all().size() == 1);
  CHECK(departing.forget(now + kDeparting));
  CHECK(departing.all().empty());
  departing.compare(after, slots, now + kDeparting);
  CHECK(departing.all().empty());
  CHECK_FALSE(departing.forget(now + 60s));
}
