#include "supervisor/space_offers.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

using namespace meshnode;
using namespace meshnode::supervisor;

TEST_CASE("what a worker could not be told is told again, what it never heard is no loss") {
  std::vector<std::string> said;
  bool full = true;
  SpaceOffers offers({[&](const SpaceListeners& message, const std::vector<int>&) -> Status {
                        if (full) return fail(ErrorCode::kLimit, "too many");
                        said.push_back("listeners " + std::to_string(message.slot));
                        return {};
                      },
                      [&](SpaceGone message) {
                        said.push_back("gone " + std::to_string(message.slot));
                      },
                      [](std::uint16_t, const std::shared_ptr<const io::NetNamespace>&) -> Status {
                        return {};
                      },
                      [](std::uint16_t) {}});
  TakenUp space;
  space.slot = 7;
  space.workload = "shop/web";
  space.listeners = std::make_shared<std::vector<OpenListener>>();
  offers.taken_up(space);
  CaptureReport report;
  offers.add_to(report);
  CHECK(report.failed["shop/web"] == "the worker got no listeners: too many");
  SECTION("gone before it was told") {
    offers.gone(7);
    full = false;
    offers.try_again();
    CHECK(said.empty());
  }
  SECTION("told when there is room, once a worker") {
    full = false;
    offers.try_again();
    offers.try_again();
    CHECK(std::exchange(said, {}) == std::vector<std::string>{"listeners 7"});
    offers.new_worker();
    offers.gone(7);
    CHECK(said == std::vector<std::string>{"listeners 7", "gone 7"});
  }
}
