#include "agent/reports.h"

#include <catch2/catch.hpp>

namespace meshnode::agent {
namespace {

using namespace std::chrono_literals;

constexpr WallTime kStart{1'767'225'600s};

}  // namespace

TEST_CASE("descriptors used up degrade health until 15 minutes after the last time") {
  WallTime now = kStart;
  Reports reports([&now] { return now; });
  CHECK_FALSE(reports.degraded());
  reports.descriptors_used_up();
  now += 10min;
  reports.descriptors_used_up();
  now += 15min;
  REQUIRE(reports.list().size() == 1);
  CHECK(reports.list()[0].code == "limit-reached");
  CHECK(reports.list()[0].object == "descriptors");
  CHECK(reports.list()[0].count == 2);
  CHECK(reports.degraded());
  now += 1ns;
  CHECK_FALSE(reports.degraded());
  CHECK(reports.list().empty());
}

TEST_CASE("what a stranger does, or a program here, degrades nothing") {
  Reports reports([] { return kStart; });
  const IpAddress peer = IpAddress::parse("10.0.0.7").value();
  reports.peer_refused(peer, telemetry::Flag::kTlsFailure, "no certificate");
  reports.limit_reached(peer, "streams");
  reports.own_limit_reached(peer, "ports");
  reports.handshakes_used_up();
  reports.tunnel_failed({peer, 15008}, "refused");
  CHECK(reports.list().size() == 4);
  CHECK_FALSE(reports.degraded());
}

TEST_CASE("a condition degrades health while it lasts, and is listed on") {
  Reports reports([] { return kStart; });
  reports.set("limit-reached", {{"memory", "90 % is used", "find slow readers", true}});
  CHECK(reports.degraded());
  reports.set("limit-reached", {});
  CHECK_FALSE(reports.degraded());
  CHECK(reports.list().size() == 1);
}

}  // namespace meshnode::agent
