#include "telemetry/problems.h"

#include <catch2/catch.hpp>

namespace meshnode::telemetry {
namespace {

using namespace std::chrono_literals;

constexpr WallTime kStart{1'767'225'600s};

ProblemReport event(const std::string& object, bool degrades = false) {
  return {"peer-refused", object, "no certificate", "look at the peer", false, degrades};
}
ProblemReport condition(const std::string& object) {
  return {"certificate-expiring", object, "2 h left", "renew it", true, true};
}

TEST_CASE("the same problem again is counted, not listed twice") {
  ProblemLog log;
  log.report(event("10.0.0.7"), kStart);
  auto again = event("10.0.0.7");
  again.message = "wrong CA";
  log.report(again, kStart + 60s);
  log.report(event("10.0.0.8"), kStart + 30s);
  auto all = log.snapshot(kStart + 60s);
  REQUIRE(all.size() == 2);
  CHECK(all[0].object == "10.0.0.7");
  CHECK(all[0].code == "peer-refused");
  CHECK(all[0].message == "wrong CA");
  CHECK(all[0].hint == "look at the peer");
  CHECK(all[0].count == 2);
  CHECK(all[0].first_seen == kStart);
  CHECK(all[0].last_seen == kStart + 60s);
}

TEST_CASE("an event is kept 15 minutes after it was last seen") {
  ProblemLog log;
  log.report(event("10.0.0.7"), kStart);
  CHECK(log.snapshot(kStart + 15min).size() == 1);
  CHECK(log.snapshot(kStart + 15min + 1ns).empty());
}

TEST_CASE("a condition is kept while it lasts and 15 minutes more") {
  ProblemLog log;
  log.report(condition("reviews"), kStart);
  auto later = log.snapshot(kStart + 24h);
  REQUIRE(later.size() == 1);
  CHECK(later[0].active);
  CHECK(later[0].last_seen == kStart + 24h);
  CHECK(log.degrading(kStart + 24h) == 1);
  log.clear("certificate-expiring", "reviews", kStart + 24h);
  log.clear("certificate-expiring", "nobody", kStart + 24h);
  CHECK(log.degrading(kStart + 24h) == 0);
  auto over = log.snapshot(kStart + 24h + 15min);
  REQUIRE(over.size() == 1);
  CHECK_FALSE(over[0].active);
  CHECK(log.snapshot(kStart + 24h + 15min + 1ns).empty());
}

TEST_CASE("only what is ours degrades health") {
  ProblemLog log;
  log.report(event("10.0.0.7"), kStart);
  CHECK(log.degrading(kStart) == 0);
  log.report(event("capture", true), kStart);
  CHECK(log.degrading(kStart) == 1);
  CHECK(log.degrading(kStart + 16min) == 0);
}

TEST_CASE("conditions not in the new list end together") {
  ProblemLog log;
  for (const char* object : {"a", "b", "c"}) log.report(condition(object), kStart);
  log.report({"other", "a", "", "", true, true}, kStart);
  log.retain("certificate-expiring", {"c", "a"}, kStart + 1s);
  std::string active;
  for (const Problem& problem : log.snapshot(kStart + 1s)) {
    if (problem.active) active += problem.code.substr(0, 1) + problem.object + " ";
  }
  CHECK(active == "ca cc oa ");
}

TEST_CASE("a flood of strangers is bounded and pushes out nothing of ours") {
  ProblemLog log;
  log.report(condition("reviews"), kStart);
  log.report(event("ours", true), kStart);
  for (int i = 0; i < 5'000; ++i) {
    log.report(event(std::to_string(i)), kStart + std::chrono::milliseconds(i));
  }
  auto all = log.snapshot(kStart + 5s);
  CHECK(all.size() <= ProblemLog::kMaxProblems);
  CHECK(all.size() >= ProblemLog::kMaxProblems * 8 / 10);
  CHECK(all[0].object == "reviews");
  CHECK(all[1].object == "ours");
  CHECK(all[2].object == "4999");
}

TEST_CASE("active conditions are never pushed out, not even by each other") {
  ProblemLog log;
  for (std::size_t i = 0; i < ProblemLog::kMaxProblems; ++i) {
    log.report(condition(std::to_string(i)), kStart);
  }
  CHECK(log.lost() == 0);
  log.report(condition("one more"), kStart);
  log.report(event("10.0.0.7"), kStart);
  CHECK(log.lost() == 2);
  CHECK(log.snapshot(kStart).size() == ProblemLog::kMaxProblems);
}

TEST_CASE("texts are cut between characters") {
  ProblemLog log;
  std::string text(ProblemLog::kMaxText - 1, 'x');
  log.report({"code", "object", text + "\xc3\xa4", text + "y", false, false}, kStart);
  auto all = log.snapshot(kStart);
  CHECK(all.at(0).message == text);
  CHECK(all.at(0).hint == text + "y");
}

}  // namespace
}  // namespace meshnode::telemetry
