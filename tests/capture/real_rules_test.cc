// What the applier does to a real packet filter, with both iptables backends.

#include <algorithm>
#include <catch2/catch.hpp>

#include "capture/applier.h"
#include "capture/lab.h"
#include "capture/routes.h"

using namespace meshnode;
using namespace meshnode::capture;
using namespace meshnode::capture::test;

namespace {

Spec two_workloads() {
  Spec spec;
  spec.workloads = {{"shop/web", 1, ByUser{61001}, {9080, 9090}},
                    {"shop/db", 300, ByUser{61002}, {}}};
  std::vector<std::uint16_t> many;
  for (std::uint16_t port = 20000; port < 20064; ++port) many.push_back(port);
  spec.workloads[1].ports = many;
  return spec;
}

/// Rules of the host's own, before and after ours, in every table.
void add_foreign_rules(LabKernel& kernel, const std::string& program) {
  kernel.must({program + "-restore", "--noflush"},
              "*filter\n:OTHER - [0:0]\n-A OTHER -j RETURN\n"
              "-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -m comment --comment \"a -j MESHNODE_X\""
              " -j OTHER\n-A OUTPUT -p tcp -j OTHER\nCOMMIT\n"
              "*nat\n-A OUTPUT -p tcp -m tcp --dport 81 -j RETURN\nCOMMIT\n"
              "*mangle\n-A PREROUTING -p tcp -m tcp --dport 82 -j RETURN\n"
              "-A OUTPUT -p udp -j RETURN\nCOMMIT\n"
              "*raw\n-A PREROUTING -p udp -j RETURN\nCOMMIT\n");
}

/// iptables-save without its times, counters and hints.
std::string dump(LabKernel& kernel, const std::string& program) {
  std::string kept;
  std::string all = kernel.must({program + "-save"});
  for (std::size_t from = 0; from < all.size();) {
    const std::size_t end = std::min(all.find('\n', from), all.size());
    std::string line = all.substr(from, end - from);
    from = end + 1;
    if (line.starts_with("#")) continue;
    if (line.starts_with(":")) line.erase(line.find('['));
    kept += line + "\n";
  }
  return kept;
}

std::string both(LabKernel& kernel) { return dump(kernel, "iptables") + dump(kernel, "ip6tables"); }

std::string routes(LabKernel& kernel) {
  std::string all = kernel.must({"ip", "-4", "rule"}) + kernel.must({"ip", "-6", "rule"}) +
                    kernel.must({"ip", "-4", "route", "show", "table", "all"}) +
                    kernel.must({"ip", "-6", "route", "show", "table", "all"});
  // The link-local address comes when the kernel has found nobody else to have it.
  const std::size_t later = all.find("local fe80:");
  if (later != all.npos) all.erase(later, all.find('\n', later) + 1 - later);
  return all;
}

/// `dump` without our chains and the jumps into them.
std::string foreign(const std::string& dump) {
  std::string kept;
  for (std::size_t from = 0; from < dump.size();) {
    const std::size_t end = dump.find('\n', from) + 1;
    const std::string line = dump.substr(from, end - from);
    from = end;
    if (line.starts_with(":MESHNODE_") || line.starts_with("-A MESHNODE_")) continue;
    if (line.find("--comment meshnode -j MESHNODE_") == line.npos) kept += line;
  }
  return kept;
}

}  // namespace

TEST_CASE("rules are there as written, and leave nothing of themselves") {
  if (!can_make_namespaces()) return;
  const std::string backend = GENERATE("-nft", "-legacy");
  CAPTURE(backend);
  const Lab lab;
  LabKernel kernel(backend);
  add_foreign_rules(kernel, "iptables");
  add_foreign_rules(kernel, "ip6tables");
  const std::string before = both(kernel);
  const std::string routes_before = routes(kernel);

  Applier applier(kernel);
  auto applied = applier.apply(two_workloads());
  if (!applied) FAIL(applied.error().message);
  CHECK(applied->v4);
  CHECK(applied->v6);
  CHECK(applied->waiting.empty());

  HostFacts facts;
  facts.ipv6 = true;
  for (const auto& [program, family] :
       {std::pair("iptables-save", Family::kV4), std::pair("ip6tables-save", Family::kV6)}) {
    auto saved = parse_save(kernel.must({program}));
    REQUIRE(saved);
    // Our text is iptables-save's own, so nothing needs to be translated to be compared.
    CHECK(differences(*saved, rules(two_workloads(), facts, family)).empty());
    CHECK(restore_text(*saved, rules(two_workloads(), facts, family)).empty());
  }
  CHECK(foreign(both(kernel)) == before);

  SECTION("apply again changes nothing, also from a new process") {
    const std::string once = both(kernel);
    REQUIRE(applier.apply(two_workloads()));
    CHECK(both(kernel) == once);
    Applier successor(kernel);
    REQUIRE(successor.apply(two_workloads()));
    CHECK(both(kernel) == once);
    auto verified = successor.verify_and_repair();
    REQUIRE(verified);
    CHECK(verified->repaired.empty());
  }
  SECTION("a smaller spec takes its rules back") {
    Spec smaller = two_workloads();
    smaller.workloads.pop_back();
    REQUIRE(applier.apply(smaller));
    CHECK(both(kernel).find("shop/db") == std::string::npos);
    CHECK(both(kernel).find("shop/web") != std::string::npos);
    REQUIRE(applier.apply(Spec{}));
    CHECK(both(kernel).find("shop/") == std::string::npos);
    CHECK(both(kernel).find("meshnode anchor") != std::string::npos);
  }
  SECTION("a refused rule leaves the former rules in force") {
    const std::string once = both(kernel);
    LabKernel failing(backend);
    Applier other(kernel);
    Spec impossible = two_workloads();
    impossible.workloads[0].ports.push_back(1);
    REQUIRE(other.apply(two_workloads()));
    // ip6tables cannot write while its program is another one that refuses.
    struct Refusing : LabKernel {
      using LabKernel::LabKernel;
      Result<CommandResult> run(const std::vector<std::string>& argv,
                                const std::string& input) override {
        if (argv[0] == "ip6tables-restore" && input.find(",1 ") != std::string::npos) {
          return LabKernel::run(argv, input + "*filter\n-A NOWHERE -j ACCEPT\nCOMMIT\n");
        }
        return LabKernel::run(argv, input);
      }
    } refusing(backend);
    Applier unlucky(refusing);
    REQUIRE(unlucky.apply(two_workloads()));
    auto refused = unlucky.apply(impossible);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.find("ip6tables-restore refused") != std::string::npos);
    CHECK(both(kernel) == once);
  }

  auto removed = remove(kernel);
  if (!removed) FAIL(removed.error().message);
  CHECK_FALSE(removed->empty());
  CHECK(both(kernel) == before);
  CHECK(routes(kernel) == routes_before);
  removed = remove(kernel);
  REQUIRE(removed);
  CHECK(removed->empty());
}

TEST_CASE("rules of addresses and of a namespace are as the kernel prints them") {
  if (!can_make_namespaces()) return;
  const std::string backend = GENERATE("-nft", "-legacy");
  CAPTURE(backend);
  const Lab lab;
  LabKernel kernel(backend);
  const LabCgroup cgroup("meshnode-own-cgroup");
  if (cgroup.path().empty()) return;
  cgroup.create();
  Spec spec;
  spec.workloads = {{"shop/v4", 1, ByAddress{IpAddress::parse("10.0.0.5").value()}, {80, 81}},
                    {"shop/v6", 2, ByAddress{IpAddress::parse("fd00::5").value()}, {80}},
                    {"shop/box", 3, ByNamespace{"/run/netns/box", 0}, {82}}};
  HostFacts inside;
  inside.ipv6 = true;
  inside.own_cgroup = cgroup.path();
  cgroup.inside([&] {
    for (const auto& [part, facts] : {std::pair(of_host(spec), HostFacts{true, {}}),
                                      std::pair(of_namespace(spec, spec.workloads[2]), inside)}) {
      Applier applier(kernel);
      auto applied = applier.apply(part);
      if (!applied) FAIL(applied.error().message);
      for (const auto& [program, family] :
           {std::pair("iptables-save", Family::kV4), std::pair("ip6tables-save", Family::kV6)}) {
        auto saved = parse_save(kernel.must({program}));
        REQUIRE(saved);
        const auto wrong = differences(*saved, rules(part, facts, family));
        CAPTURE(wrong);
        CHECK(wrong.empty());
      }
    }
  });
  REQUIRE(remove(kernel));
  cgroup.destroy();
}

TEST_CASE("what others take away or put before is repaired") {
  if (!can_make_namespaces()) return;
  const std::string backend = GENERATE("-nft", "-legacy");
  CAPTURE(backend);
  const Lab lab;
  LabKernel kernel(backend);
  Applier applier(kernel);
  REQUIRE(applier.apply(two_workloads()));
  const std::string once = both(kernel);

  const auto expect_repair = [&](const std::string& named) {
    auto repaired = applier.verify_and_repair();
    if (!repaired) FAIL(repaired.error().message);
    INFO("looking for " << named);
    CHECK(std::any_of(repaired->repaired.begin(), repaired->repaired.end(),
                      [&](const std::string& line) { return line.find(named) != line.npos; }));
    auto again = applier.verify_and_repair();
    REQUIRE(again);
    CHECK(again->repaired.empty());
  };

  SECTION("a flushed table") {
    kernel.must({"iptables", "-t", "nat", "-F"});
    expect_repair("IPv4 nat MESHNODE_OUTPUT");
    CHECK(both(kernel) == once);
  }
  SECTION("a flushed and emptied filter table") {
    kernel.must({"ip6tables", "-F"});
    kernel.must({"ip6tables", "-X"});
    expect_repair("IPv6 filter MESHNODE_INPUT: chain missing");
    CHECK(both(kernel) == once);
  }
  SECTION("one jump") {
    kernel.must({"iptables", "-t", "nat", "-D", "OUTPUT", "1"});
    expect_repair("IPv4 nat OUTPUT");
    CHECK(both(kernel) == once);
  }
  SECTION("a rule that was put before ours") {
    kernel.must({"iptables", "-I", "INPUT", "1", "-p", "tcp", "-j", "ACCEPT"});
    expect_repair("IPv4 filter INPUT");
    auto saved = parse_save(kernel.must({"iptables-save"}));
    REQUIRE(saved);
    const Chain* input = saved->find("filter")->find("INPUT");
    REQUIRE(input->rules.size() == 2);
    CHECK(input->rules[1].text == "-p tcp -j ACCEPT");
  }
  SECTION("a jump twice") {
    kernel.must({"iptables", "-A", "INPUT", "-p", "tcp", "-j", "MESHNODE_INPUT"});
    expect_repair("IPv4 filter INPUT");
    CHECK(both(kernel) == once);
  }
  SECTION("routing") {
    const std::string routes_before = routes(kernel);
    kernel.must({"ip", "-4", "rule", "del", "pref", "50"});
    kernel.must({"ip", "-6", "route", "flush", "table", "15006"});
    kernel.must({"ip", "-6", "route", "del", "local", "fd6d:6573:686e::/64", "dev", "lo"});
    expect_repair("ip -4 rule");
    CHECK(routes(kernel) == routes_before);
  }
  SECTION("a routing rule that was put before ours, as a VPN does without a priority") {
    const std::string routes_before = routes(kernel);
    for (const char* flag : {"-4", "-6"}) {
      kernel.must({"ip", flag, "rule", "add", "not", "fwmark", "51820", "table", "51820"});
    }
    expect_repair("ip -4 rule fwmark 0x111/0xfff: not before those of others");
    CHECK(kernel.must({"ip", "-4", "rule"}).find("48:\tfrom all fwmark 0x111") !=
          std::string::npos);
    for (const char* flag : {"-4", "-6"}) {
      kernel.must({"ip", flag, "rule", "del", "table", "51820"});
    }
    REQUIRE(remove(kernel));
    CHECK(routes(kernel).find("fwmark") == std::string::npos);
    CHECK(routes_before.find("50:\tfrom all fwmark 0x111") != std::string::npos);
  }
  SECTION("a rule among ours") {
    kernel.must({"iptables", "-t", "nat", "-I", "MESHNODE_CALLERS", "1", "-j", "ACCEPT"});
    expect_repair("IPv4 nat MESHNODE_CALLERS: rules differ");
    CHECK(both(kernel) == once);
  }
}

TEST_CASE("remove finds rules in the backend that is not the system's choice") {
  if (!can_make_namespaces()) return;
  const Lab lab;
  LabKernel legacy("-legacy");
  Applier applier(legacy);
  REQUIRE(applier.apply(two_workloads()));
  LabKernel system;
  auto saved = show(system);
  REQUIRE(saved);
  auto removed = remove(system);
  REQUIRE(removed);
  CHECK(std::any_of(removed->begin(), removed->end(), [](const std::string& line) {
    return line.find("iptables-legacy-save nat") != line.npos;
  }));
  CHECK(both(legacy).find("MESHNODE_") == std::string::npos);
}
