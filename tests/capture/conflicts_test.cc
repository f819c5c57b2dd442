#include "capture/conflicts.h"

#include <catch2/catch.hpp>

using namespace meshnode;
using namespace meshnode::capture;

namespace {

Spec web() {
  Spec spec;
  spec.workloads = {{"shop/web", 1, ByUser{1000}, {9080, 9443}}};
  return spec;
}

std::vector<std::string> found(const std::string& table, const std::string& chain,
                               const std::string& rule, const Spec& spec = web()) {
  auto saved =
      parse_save("*" + table + "\n:" + chain + " - [0:0]\n-A " + chain + " " + rule + "\nCOMMIT\n");
  REQUIRE(saved);
  return conflicts(*saved, spec, Family::kV4);
}

}  // namespace

TEST_CASE("rules that take outgoing TCP out of tracking are conflicts") {
  const char* rule =
      GENERATE("-o lo -j NOTRACK", "-j CT --notrack", "-p tcp -m tcp --dport 9080 -j NOTRACK",
               "-p 6 -j NOTRACK", "-o eth0 -j CT --zone 5", "-j CT --zone 5");
  const auto lines = found("raw", "OUTPUT", rule);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].starts_with("iptables raw OUTPUT: "));
  CHECK(lines[0].find(rule) != lines[0].npos);
}

TEST_CASE("what leaves captured connections tracked is none") {
  CHECK(found("raw", "PREROUTING", "-p tcp -m tcp --dport 9080 -j NOTRACK").empty());
  CHECK(found("raw", "OUTPUT", "-p udp -m udp --dport 53 -j NOTRACK").empty());
  CHECK(found("raw", "PREROUTING", "-i eth0 -j CT --zone 5").empty());
  CHECK(found("raw", "OUTPUT", "-m comment --comment \"-j NOTRACK\" -j ACCEPT").empty());
}

TEST_CASE("a translated declared port is a conflict, named with its workload") {
  const char* rule =
      GENERATE("! -i docker0 -p tcp -m tcp --dport 9080 -j DNAT --to-destination 172.17.0.2:80",
               "-p tcp -m multiport --dports 80,9000:9100 -j REDIRECT --to-ports 3128",
               "-p tcp -m tcp --dport 9000:9080 -j DNAT --to-destination 10.0.0.1");
  const auto lines = found("nat", "DOCKER", rule);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].starts_with("iptables nat DOCKER port 9080: "));
  CHECK(lines[0].find(rule) != lines[0].npos);
  CHECK(lines[0].find("shop/web") != lines[0].npos);
  Spec excluded = web();
  excluded.exclude_ports = {9080};
  CHECK(found("nat", "DOCKER", rule, excluded).empty());
}

TEST_CASE("translations of other ports, protocols and directions are none") {
  CHECK(found("nat", "DOCKER", "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 1.2.3.4")
            .empty());
  CHECK(found("nat", "DOCKER", "-p udp -m udp --dport 9080 -j DNAT --to-destination 1.2.3.4")
            .empty());
  CHECK(found("nat", "DOCKER", "-p tcp -m tcp --dport 9080 -j RETURN").empty());
  CHECK(found("nat", "OUTPUT", "-p tcp -m tcp --dport 9080 -j REDIRECT --to-ports 1").empty());
  CHECK(found("nat", "MESHNODE_X", "-p tcp -m tcp --dport 9080 -j REDIRECT --to-ports 1").empty());
}

TEST_CASE("tables of the other backend are a conflict, and the list is bounded") {
  Saved saved;
  saved.other_backend = true;
  auto lines = conflicts(saved, web(), Family::kV6);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].starts_with("ip6tables backend: "));
  Chain chain{"OUTPUT", {}};
  for (std::size_t i = 0; i < kMaxConflicts; ++i) chain.rules.push_back({"-j NOTRACK", 0});
  saved.tables = {{"raw", {chain}}};
  CHECK(conflicts(saved, web(), Family::kV6).size() == kMaxConflicts);
}
