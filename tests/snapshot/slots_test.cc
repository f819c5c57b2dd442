#include "snapshot/slots.h"

#include <rapidcheck.h>

#include <catch2/catch.hpp>
#include <set>
#include <string>
#include <vector>

using meshnode::WorkloadId;
using meshnode::snapshot::SlotTable;

namespace {

WorkloadId id(std::size_t number) { return {"shop", "w" + std::to_string(number)}; }

std::vector<WorkloadId> ids(std::size_t first, std::size_t count) {
  std::vector<WorkloadId> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(id(first + i));
  return out;
}

}  // namespace

TEST_CASE("a workload keeps its slot while others come and go") {
  SlotTable table;
  REQUIRE(table.assign({id(1), id(2), id(3)}));
  const auto two = table.slot(id(2));
  CHECK(table.slot(id(1)) == 1);
  REQUIRE(table.assign({id(2), id(9)}));
  CHECK(table.slot(id(2)) == two);
  CHECK(table.slot(id(1)) == 0);
  CHECK(table.slot(id(9)) == 4);
}

TEST_CASE("a slot taken back comes round only after all others") {
  SlotTable table;
  REQUIRE(table.assign({id(0)}));
  std::set<std::uint16_t> seen{table.slot(id(0))};
  for (std::size_t i = 1; i < SlotTable::kLast; ++i) {
    REQUIRE(table.assign({id(i)}));
    const bool fresh = seen.insert(table.slot(id(i))).second;
    if (!fresh) FAIL("slot " << table.slot(id(i)) << " was used twice within a round");
  }
  CHECK(*seen.begin() == SlotTable::kFirst);
  CHECK(*seen.rbegin() == SlotTable::kLast);
  REQUIRE(table.assign({id(SlotTable::kLast)}));
  CHECK(table.slot(id(SlotTable::kLast)) == SlotTable::kFirst);
}

TEST_CASE("65,000 workloads fit, one more does not and changes nothing") {
  SlotTable table;
  REQUIRE(table.assign(ids(0, SlotTable::kLast)));
  const std::string before = table.save();
  const auto refused = table.assign(ids(0, SlotTable::kLast + 1U));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == meshnode::ErrorCode::kLimit);
  CHECK(table.save() == before);
}

TEST_CASE("the text form brings back the same slots and the same next one") {
  REQUIRE(rc::check([](const std::vector<std::set<std::uint8_t>>& steps) {
    SlotTable table;
    for (const auto& step : steps) {
      std::vector<WorkloadId> wanted;
      for (const std::uint8_t number : step) wanted.push_back(id(number));
      RC_ASSERT(table.assign(wanted).has_value());
    }
    SlotTable copy;
    RC_ASSERT(copy.restore(table.save()).has_value());
    RC_ASSERT(copy.save() == table.save());
    RC_ASSERT(table.assign(ids(200, 90)).has_value());
    RC_ASSERT(copy.assign(ids(200, 90)).has_value());
    RC_ASSERT(copy.save() == table.save());
  }));
}

TEST_CASE("a damaged text form is refused and changes nothing") {
  SlotTable table;
  REQUIRE(table.assign({id(1), id(2)}));
  const std::string before = table.save();
  for (const char* text : {"", "\n", "next\n", "next 0\n", "next 65001\n", "next 1x\n", "prev 1\n",
                           "next 1\n1\n", "next 1\n1 shop\n", "next 1\n1 shop/\n", "next 1\n1 /w\n",
                           "next 1\n1 shop/W\n", "next 1\n0 shop/w\n", "next 1\n65001 shop/w\n",
                           "next 1\n1 shop/a\n1 shop/b\n", "next 1\n1 shop/a\n2 shop/a\n",
                           "next 1\n\n", "next 1\n-1 shop/a\n", "next 1\n 1 shop/a\n"}) {
    CAPTURE(text);
    CHECK_FALSE(table.restore(text));
    CHECK(table.save() == before);
  }
}

TEST_CASE("slots that the kernel steers by win over saved ones, and nobody inherits another's") {
  SlotTable table;
  REQUIRE(table.restore("next 2\n1 shop/w1\n"));
  REQUIRE(table.adopt({{id(9), 1}, {id(2), 2}}, 4));
  REQUIRE(table.assign({id(0), id(1), id(2), id(9)}));
  CHECK(table.slot(id(9)) == 1);
  CHECK(table.slot(id(2)) == 2);
  CHECK(table.slot(id(0)) == 4);
  CHECK(table.slot(id(1)) == 5);
}

TEST_CASE("a slot given back before the old worker died is not given out at once") {
  SlotTable stale;
  REQUIRE(stale.adopt({{id(1), 1}}, 3));
  REQUIRE(stale.assign({id(1), id(5)}));
  CHECK(stale.slot(id(5)) == 3);
}

TEST_CASE("the later of two next slots is kept, around the end as well") {
  const auto later = [](const std::string& saved, std::uint16_t adopted) {
    SlotTable table;
    REQUIRE(table.restore("next " + saved + "\n"));
    REQUIRE(table.adopt({}, adopted));
    return table.next();
  };
  CHECK(later("5", 9) == 9);
  CHECK(later("9", 5) == 9);
  CHECK(later("9", 0) == 9);
  CHECK(later("64999", 3) == 3);
  CHECK(later("3", 64999) == 3);
  CHECK(later("65000", 65000) == 65000);
}

TEST_CASE("steering out of bounds changes nothing") {
  SlotTable table;
  REQUIRE(table.assign({id(1)}));
  const std::string before = table.save();
  CHECK_FALSE(table.adopt({{id(2), 0}}, 1));
  CHECK_FALSE(table.adopt({{id(2), SlotTable::kLast + 1}}, 1));
  CHECK_FALSE(table.adopt({{id(2), 3}, {id(3), 3}}, 1));
  CHECK_FALSE(table.adopt({}, SlotTable::kLast + 1));
  CHECK(table.save() == before);
  CHECK(table.adopt({{id(2), SlotTable::kLast}}, SlotTable::kLast));
}
