#include "capture/applier.h"

#include <catch2/catch.hpp>

#include "capture/fake_kernel.h"
#include "capture/rules.h"

using namespace meshnode;
using namespace meshnode::capture;
using namespace meshnode::capture::test;

namespace {

Spec shop() {
  Spec spec;
  spec.workloads = {{"shop/web", 1, ByUser{1000}, {9080, 9090}}};
  return spec;
}

Spec in_cgroup() {
  Spec spec;
  spec.workloads = {{"shop/job", 2, ByCgroup{"jobs"}, {}}};
  return spec;
}

std::string everything(FakeKernel& kernel) {
  return FakeKernel::print(kernel.filter("iptables")) +
         FakeKernel::print(kernel.filter("ip6tables"));
}

std::size_t callers(FakeKernel& kernel) {
  return kernel.chain("iptables", "nat", "MESHNODE_CALLERS").size();
}

void add_foreign(FakeKernel& kernel) {
  kernel.chain("iptables", "filter", "INPUT").push_back({"-i lo -j ACCEPT", 0});
  kernel.chain("iptables", "nat", "OUTPUT").push_back({"-d 10.0.0.1/32 -j RETURN", 0});
}

}  // namespace

TEST_CASE("apply writes both families, steering before backstops, and reports") {
  FakeKernel kernel;
  Applier applier(kernel);
  auto report = applier.apply(shop());
  REQUIRE(report);
  CHECK(report->v4);
  CHECK(report->v6);
  CHECK(kernel.committed == std::vector<std::string>{"iptables raw", "iptables mangle",
                                                     "iptables nat", "iptables filter",
                                                     "ip6tables raw", "ip6tables mangle",
                                                     "ip6tables nat", "ip6tables filter"});
  CHECK(kernel.routing.size() == 5);
}

TEST_CASE("another's lock is waited for less long where programs have less time") {
  for (const bool others : {false, true}) {
    FakeKernel kernel;
    kernel.others = others;
    REQUIRE(Applier(kernel).apply(shop()));
    CHECK(kernel.waits == (others ? "1" : "5"));
  }
}

TEST_CASE("the same spec again writes nothing") {
  FakeKernel kernel;
  Applier applier(kernel);
  REQUIRE(applier.apply(shop()));
  const std::size_t restores = kernel.committed.size();
  REQUIRE(applier.apply(shop()));
  auto report = applier.verify_and_repair();
  REQUIRE(report);
  CHECK(report->repaired.empty());
  CHECK(kernel.committed.size() == restores);
}

TEST_CASE("what is withdrawn loses its backstop before its steering") {
  FakeKernel kernel;
  Applier applier(kernel);
  REQUIRE(applier.apply(shop()));
  kernel.committed.clear();
  Spec less = shop();
  less.workloads[0].ports = {9080};
  bool backstop_alone = false;
  kernel.refuse = [&](const std::string&, const std::string&) {
    const auto& input = kernel.chain("iptables", "filter", "MESHNODE_INPUT");
    const auto& steering = kernel.chain("iptables", "mangle", "MESHNODE_PREROUTING");
    const auto has = [](const std::vector<Rule>& rules) {
      return std::any_of(rules.begin(), rules.end(), [](const Rule& rule) {
        return rule.text.find("9080,9090") != rule.text.npos;
      });
    };
    backstop_alone = backstop_alone || (has(input) && !has(steering));
    return false;
  };
  REQUIRE(applier.apply(less));
  CHECK_FALSE(backstop_alone);
  CHECK(kernel.committed.front() == "iptables filter");
  CHECK(everything(kernel).find("9090") == std::string::npos);
}

TEST_CASE("a host without IPv6 gets IPv4 rules and says so") {
  FakeKernel kernel;
  kernel.ipv6 = false;
  Applier applier(kernel);
  auto report = applier.apply(shop());
  REQUIRE(report);
  CHECK(report->v4);
  CHECK_FALSE(report->v6);
  CHECK(kernel.count("ip6tables-save") == 0);

  kernel.ipv6 = true;
  report = applier.verify_and_repair();
  REQUIRE(report);
  CHECK(report->v6);
  CHECK(report->repaired == std::vector<std::string>{"IPv6 appeared"});
}

TEST_CASE("when any table of any family is refused, everything is as before") {
  const std::string program = GENERATE("iptables-restore", "ip6tables-restore");
  const std::string table = GENERATE("mangle", "nat", "filter");
  const bool applied_before = GENERATE(false, true);
  CAPTURE(program, table, applied_before);
  FakeKernel kernel;
  add_foreign(kernel);
  Applier applier(kernel);
  Spec former = shop();
  former.workloads[0].ports = {7000};
  if (applied_before) REQUIRE(applier.apply(former));
  const std::string before = everything(kernel);

  bool refused = false;
  kernel.refuse = [&](const std::string& by, const std::string& in) {
    if (refused || by != program || in != table) return false;
    return refused = true;
  };
  auto report = applier.apply(shop());
  REQUIRE_FALSE(report);
  CHECK(report.error().message.find(program + " refused") != std::string::npos);
  CHECK(report.error().message.find("xt_TPROXY") != std::string::npos);
  CHECK(everything(kernel) == before);
  CHECK(kernel.count("(prolonged)") == 1);
  auto verified = applier.verify_and_repair();
  REQUIRE(verified);
  CHECK(verified->v4 == applied_before);
  CHECK(verified->repaired.empty());
}

TEST_CASE("a rollback that fails too is told") {
  FakeKernel kernel;
  Applier applier(kernel);
  REQUIRE(applier.apply(shop()));
  int commits = 0;
  kernel.refuse = [&](const std::string&, const std::string&) { return ++commits > 1; };
  Spec other = shop();
  other.workloads[0].slot = 9;
  other.workloads[0].ports.push_back(9100);
  auto report = applier.apply(other);
  REQUIRE_FALSE(report);
  CHECK(report.error().message.find("could not be put back") != std::string::npos);
}

TEST_CASE("a cgroup is waited for, bound, and bound anew when it is created again") {
  FakeKernel kernel;
  Applier applier(kernel);
  auto report = applier.apply(in_cgroup());
  REQUIRE(report);
  CHECK(report->waiting == std::vector<std::string>{"shop/job"});
  CHECK(callers(kernel) == 0);

  kernel.cgroups["jobs"] = 1;
  report = applier.verify_and_repair();
  REQUIRE(report);
  CHECK(report->waiting.empty());
  CHECK(report->repaired == std::vector<std::string>{"cgroup jobs: appeared"});
  CHECK(callers(kernel) == 1);

  kernel.cgroups["jobs"] = 2;
  kernel.committed.clear();
  report = applier.verify_and_repair();
  REQUIRE(report);
  CHECK(report->repaired == std::vector<std::string>{"cgroup jobs: was created again"});
  CHECK(kernel.committed.size() == 8);

  kernel.cgroups.clear();
  report = applier.verify_and_repair();
  REQUIRE(report);
  CHECK(report->repaired == std::vector<std::string>{"cgroup jobs: was removed"});
  CHECK(report->waiting.size() == 1);
  CHECK(callers(kernel) == 0);
}

TEST_CASE("a cgroup created again while it is being bound is bound again at once") {
  FakeKernel kernel;
  kernel.cgroups["jobs"] = 1;
  kernel.after_restore = [&] { kernel.cgroups["jobs"] = 2; };
  Applier applier(kernel);
  REQUIRE(applier.apply(in_cgroup()));
  CHECK(kernel.count("iptables-restore") == 2);
  kernel.committed.clear();
  REQUIRE(applier.verify_and_repair());
  CHECK(kernel.committed.empty());

  // One that never rests does not hold us up for ever.
  std::uint64_t inode = 10;
  kernel.after_restore = [&] { kernel.cgroups["jobs"] = ++inode; };
  kernel.cgroups["jobs"] = 3;
  kernel.ran.clear();
  REQUIRE(applier.verify_and_repair());
  CHECK(kernel.count("iptables-restore") == 3);
}

TEST_CASE("a successor binds cgroups anew although the rules read the same") {
  FakeKernel kernel;
  kernel.cgroups["jobs"] = 1;
  Applier first(kernel);
  REQUIRE(first.apply(in_cgroup()));
  kernel.committed.clear();
  Applier second(kernel);
  REQUIRE(second.apply(in_cgroup()));
  CHECK(kernel.committed.size() == 8);
}

TEST_CASE("hits are counted across rewritten rules and both families") {
  FakeKernel kernel;
  Applier applier(kernel);
  REQUIRE(applier.apply(shop()));
  const auto hit = [&](const std::string& family, std::uint64_t packets) {
    kernel.chain(family, "filter", "MESHNODE_INPUT").back().packets = packets;
    REQUIRE(applier.verify_and_repair());
  };
  const auto inbound = [&] {
    for (const Bypass& bypass : applier.counters()) {
      if (bypass.reason == "inbound") {
        CHECK(bypass.workload == "shop/web");
        return bypass.packets;
      }
    }
    return std::uint64_t{0};
  };
  hit("iptables", 3);
  hit("ip6tables", 2);
  CHECK(inbound() == 5);
  kernel.chain("iptables", "filter", "MESHNODE_INPUT").clear();
  REQUIRE(applier.verify_and_repair());
  CHECK(inbound() == 5);
  hit("iptables", 1);
  CHECK(inbound() == 6);
}

TEST_CASE("remove takes everything of ours and nothing else, with or without an apply") {
  FakeKernel kernel;
  add_foreign(kernel);
  const std::string before = everything(kernel);
  {
    Applier applier(kernel);
    REQUIRE(applier.apply(shop()));
  }
  auto shown = show(kernel);
  REQUIRE(shown);
  CHECK(shown->find("shop/web") != std::string::npos);
  auto removed = remove(kernel);
  REQUIRE(removed);
  CHECK(removed->size() == 13);
  CHECK(everything(kernel) == before);
  CHECK(kernel.routing.empty());
  removed = remove(kernel);
  REQUIRE(removed);
  CHECK(removed->empty());
  CHECK(show(kernel)->empty());
}

TEST_CASE("a missing program is named with its package, and nothing was touched") {
  FakeKernel kernel;
  Applier applier(kernel);
  kernel.absent = {"iptables-save"};
  auto report = applier.apply(shop());
  REQUIRE_FALSE(report);
  CHECK(report.error().message.find("Debian package iptables") != std::string::npos);
  kernel.absent = {"ip6tables-save"};
  CHECK_FALSE(applier.apply(shop()));
  kernel.absent = {"ip"};
  report = applier.apply(shop());
  REQUIRE_FALSE(report);
  CHECK(report.error().message.find("Debian package iproute2") != std::string::npos);
  CHECK(kernel.committed.empty());
}

TEST_CASE("a spec beyond its bounds never reaches the kernel") {
  FakeKernel kernel;
  Applier applier(kernel);
  Spec bad = shop();
  bad.workloads[0].name = "shop/web\" -j ACCEPT";
  CHECK_FALSE(applier.apply(bad));
  CHECK(kernel.ran.empty());
}

TEST_CASE("remove does not take being refused for finding nothing") {
  FakeKernel kernel;
  kernel.denied = {"iptables-save"};
  auto removed = remove(kernel);
  REQUIRE_FALSE(removed);
  CHECK(removed.error().message.find("CAP_NET_ADMIN") != std::string::npos);
  kernel.denied = {"iptables-legacy-save", "ip6tables-nft-save", "ip6tables-save"};
  CHECK_FALSE(remove(kernel));
  kernel.ipv6 = false;
  CHECK(remove(kernel));
  kernel.denied = {};
  kernel.absent = {"iptables-save", "ip6tables-save"};
  CHECK(remove(kernel));
}

TEST_CASE("rules in another namespace say whose they are, and follow the agent's cgroup") {
  FakeKernel kernel;
  kernel.own_cgroup = "/system.slice/meshnode.service";
  Spec spec;
  spec.workloads.push_back({"shop/web", 1, ByNamespace{"/run/netns/web", 0}, {8080}});
  Applier applier(kernel, "4026531840");
  REQUIRE(applier.apply(spec));
  CHECK(is_of_agent(kernel, "4026531840").value());
  CHECK_FALSE(is_of_agent(kernel, "4026531841").value());
  CHECK_FALSE(applier.facts_changed());
  kernel.own_cgroup = "/system.slice/other.service";
  CHECK(applier.facts_changed());
  const auto again = applier.verify_and_repair();
  REQUIRE(again);
  CHECK(again->repaired == std::vector<std::string>{"the agent's cgroup changed"});
  CHECK_FALSE(applier.facts_changed());
  CHECK(kernel.chain("iptables", "mangle", "MESHNODE_FOREIGN")[0].text.find("other.service") !=
        std::string::npos);

  // Of the agent's own network namespace they are nobody's that comes from outside.
  FakeKernel host;
  REQUIRE(Applier(host).apply(spec));
  CHECK_FALSE(is_of_agent(host, "4026531840").value());
}
