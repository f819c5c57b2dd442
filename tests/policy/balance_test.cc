#include "policy/balance.h"

#include <rapidcheck.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>
#include <vector>

using meshnode::policy::pick;

TEST_CASE("successive counters choose each endpoint once a round") {
  REQUIRE(rc::check([] {
    const auto count = *rc::gen::inRange<std::size_t>(1, 50);
    const auto start = *rc::gen::inRange<std::uint64_t>(0, 1U << 30);
    std::vector<int> hits(count);
    for (std::uint64_t i = 0; i < 3 * count; ++i) ++hits[*pick(count, start + i)];
    RC_ASSERT(std::all_of(hits.begin(), hits.end(), [](int n) { return n == 3; }));
  }));
}

TEST_CASE("no endpoint, no choice") {
  CHECK_FALSE(pick(0, 7));
  CHECK_FALSE(pick(0, 7, [](std::size_t) { return true; }));
  CHECK_FALSE(pick(3, 7, [](std::size_t) { return false; }));
}

TEST_CASE("the next usable endpoint is chosen, wrapping once") {
  const auto only_one = [](std::size_t index) { return index == 1; };
  for (std::uint64_t counter = 0; counter < 9; ++counter) CHECK(pick(3, counter, only_one) == 1U);
  const auto not_zero = [](std::size_t index) { return index != 0; };
  CHECK(pick(3, 0, not_zero) == 1U);
  CHECK(pick(3, 2, not_zero) == 2U);
}

TEST_CASE("a counter may be anything") {
  const auto last = std::numeric_limits<std::uint64_t>::max();
  CHECK(pick(10, last) == last % 10);
  CHECK(pick(10, last, [](std::size_t) { return true; }) == last % 10);
}
