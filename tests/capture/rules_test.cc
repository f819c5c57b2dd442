#include "capture/rules.h"

#include <rapidcheck.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "capture/listeners.h"

using namespace meshnode;
using namespace meshnode::capture;

namespace {

Spec shop() {
  Spec spec;
  spec.workloads = {{"shop/web", 1, ByUser{1000}, {9080, 9090}},
                    {"shop/job", 258, ByCgroup{"jobs.slice/night job"}, {}}};
  return spec;
}

HostFacts all_there() { return {true, {{"jobs.slice/night job", 4711}}}; }

std::string text(const Spec& spec, const HostFacts& facts, Family family) {
  return restore_text({}, rules(spec, facts, family));
}

const OwnTable& table_of(const Ruleset& all, const std::string& name) {
  return *std::find_if(all.begin(), all.end(),
                       [&](const OwnTable& table) { return table.name == name; });
}

const OwnChain& chain_of(const Ruleset& all, const std::string& table, const std::string& name) {
  const OwnTable& found = table_of(all, table);
  return *std::find_if(found.chains.begin(), found.chains.end(),
                       [&](const OwnChain& chain) { return chain.name == name; });
}

constexpr const char* kIpv4 =
    R"(*raw
:MESHNODE_RAW - [0:0]
-A MESHNODE_RAW -m mark --mark 0x539/0xfff -j ACCEPT
-A MESHNODE_RAW -m conntrack --ctstate DNAT --ctreplsrcport 15001 -j ACCEPT
-I PREROUTING 1 -i lo -p tcp -m comment --comment meshnode -j MESHNODE_RAW
-I OUTPUT 1 -o lo -m mark --mark 0x539/0xfff -m comment --comment meshnode -j MESHNODE_RAW
COMMIT
*mangle
:MESHNODE_ANCHOR - [0:0]
:MESHNODE_PREROUTING - [0:0]
:MESHNODE_SOURCE - [0:0]
:MESHNODE_REPLY - [0:0]
-A MESHNODE_ANCHOR -m conntrack --ctstate DNAT -m comment --comment "meshnode anchor"
-A MESHNODE_PREROUTING -m addrtype ! --dst-type LOCAL -j RETURN
-A MESHNODE_PREROUTING SYN -m multiport --dports 9080,9090 -m comment --comment "meshnode in shop/web" -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x53a/0xfff
-A MESHNODE_SOURCE SYN -m addrtype ! --src-type LOCAL -m addrtype --dst-type LOCAL -m comment --comment "meshnode preserved source" -j CONNMARK --set-xmark 0x111/0xfff
-A MESHNODE_REPLY -m comment --comment "meshnode answer to a preserved source" -j MARK --set-xmark 0x111/0xfff
-A PREROUTING ! -i lo SYN -m comment --comment meshnode -j MESHNODE_PREROUTING
-I OUTPUT 1 -p tcp -m connmark --mark 0x111/0xfff -m conntrack --ctdir REPLY -m comment --comment meshnode -j MESHNODE_REPLY
-I OUTPUT 1 SYN -m mark --mark 0x539/0xfff -m comment --comment meshnode -j MESHNODE_SOURCE
COMMIT
*nat
:MESHNODE_CALLERS - [0:0]
:MESHNODE_DECLARED - [0:0]
:MESHNODE_LOCAL - [0:0]
:MESHNODE_OUTPUT - [0:0]
:MESHNODE_POSTROUTING - [0:0]
-A MESHNODE_CALLERS SYN -m cgroup --path "jobs.slice/night job" -m comment --comment "meshnode out shop/job" -j DNAT --to-destination 127.15.1.2:15001
-A MESHNODE_CALLERS SYN -m owner --uid-owner 1000 -m comment --comment "meshnode out shop/web" -j DNAT --to-destination 127.15.0.1:15001
-A MESHNODE_DECLARED -j MESHNODE_CALLERS
-A MESHNODE_DECLARED SYN -j REDIRECT --to-ports 15006
-A MESHNODE_LOCAL SYN -m multiport --dports 9080,9090 -m comment --comment "meshnode local shop/web" -g MESHNODE_DECLARED
-A MESHNODE_OUTPUT -m mark --mark 0x539/0xfff -j RETURN
-A MESHNODE_OUTPUT -m addrtype --dst-type LOCAL -g MESHNODE_LOCAL
-A MESHNODE_OUTPUT -j MESHNODE_CALLERS
-A MESHNODE_POSTROUTING -m mark --mark 0x539/0xfff -j ACCEPT
-A MESHNODE_POSTROUTING -p tcp -m tcp --dport 15001 -m conntrack --ctstate DNAT -j ACCEPT
-I OUTPUT 1 SYN -m comment --comment meshnode -j MESHNODE_OUTPUT
-I POSTROUTING 1 -o lo SYN -m comment --comment meshnode -j MESHNODE_POSTROUTING
COMMIT
*filter
:MESHNODE_INPUT - [0:0]
:MESHNODE_OUTPUT - [0:0]
-A MESHNODE_INPUT ! -i lo SYN -m multiport --dports 15001,15006 -m comment --comment "meshnode bypass own-port" -j REJECT --reject-with tcp-reset
-A MESHNODE_INPUT SYN -m multiport --dports 15001,15006 -m conntrack ! --ctstate DNAT -m comment --comment "meshnode bypass own-port" -j REJECT --reject-with tcp-reset
-A MESHNODE_INPUT -m mark --mark 0x539/0xfff -j RETURN
-A MESHNODE_INPUT ! -i lo -m mark --mark 0x53a/0xfff -m socket --transparent --nowildcard -j RETURN
-A MESHNODE_INPUT SYN -m multiport --dports 9080,9090 -m comment --comment "meshnode bypass inbound shop/web" -j REJECT --reject-with tcp-reset
-A MESHNODE_OUTPUT -m mark --mark 0x539/0xfff -j RETURN
-A MESHNODE_OUTPUT -m conntrack --ctstate DNAT -j RETURN
-A MESHNODE_OUTPUT -m addrtype --dst-type LOCAL -j RETURN
-A MESHNODE_OUTPUT SYN -m cgroup --path "jobs.slice/night job" -m comment --comment "meshnode bypass outbound shop/job" -j REJECT --reject-with tcp-reset
-A MESHNODE_OUTPUT SYN -m owner --uid-owner 1000 -m comment --comment "meshnode bypass outbound shop/web" -j REJECT --reject-with tcp-reset
-I INPUT 1 SYN -m comment --comment meshnode -j MESHNODE_INPUT
-I OUTPUT 1 SYN -m comment --comment meshnode -j MESHNODE_OUTPUT
COMMIT
)";

std::string replaced(std::string in, const std::string& what, const std::string& with_this) {
  for (auto at = in.find(what); at != in.npos; at = in.find(what, at + with_this.size())) {
    in.replace(at, what.size(), with_this);
  }
  return in;
}

std::string spelled(const std::string& golden) {
  return replaced(golden, " SYN ", " -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN ");
}

}  // namespace

TEST_CASE("the IPv4 rules of a small host, word for word") {
  CHECK(text(shop(), all_there(), Family::kV4) == spelled(kIpv4));
}

TEST_CASE("the IPv6 rules differ in the addresses, link-local destinations and our prefix only") {
  std::string golden = replaced(kIpv4, "127.15.1.2:", "[fd6d:6573:686e::102]:");
  golden = replaced(golden, "127.15.0.1:", "[fd6d:6573:686e::1]:");
  golden = replaced(golden, "--on-ip 0.0.0.0", "--on-ip ::");
  for (const char* local : {"-A MESHNODE_OUTPUT -m addrtype --dst-type LOCAL -g",
                            "-A MESHNODE_OUTPUT -m addrtype --dst-type LOCAL -j"}) {
    golden =
        replaced(golden, local, std::string("-A MESHNODE_OUTPUT -d fe80::/10 -j RETURN\n") + local);
  }
  golden = replaced(golden, "*filter\n:MESHNODE_INPUT - [0:0]\n:MESHNODE_OUTPUT - [0:0]\n",
                    "*filter\n:MESHNODE_INPUT - [0:0]\n:MESHNODE_OUTPUT - [0:0]\n"
                    ":MESHNODE_PREFIX - [0:0]\n");
  golden = replaced(golden, "-I INPUT 1 SYN",
                    "-A MESHNODE_PREFIX -j DROP\n"
                    "-I INPUT 1 -d fd6d:6573:686e::/64 ! -i lo -m comment --comment meshnode -j "
                    "MESHNODE_PREFIX\n-I INPUT 1 SYN");
  CHECK(text(shop(), all_there(), Family::kV6) == spelled(golden));
}

TEST_CASE("a workload whose cgroup is not there waits, with its ports guarded") {
  Spec spec = shop();
  spec.workloads[1].ports = {7000};
  const HostFacts gone{true, {{"jobs.slice/night job", 0}}};
  CHECK(waiting(spec, gone) == std::vector<std::string>{"shop/job"});
  CHECK(waiting(spec, all_there()).empty());
  const Ruleset all = rules(spec, gone, Family::kV4);
  CHECK(chain_of(all, "nat", "MESHNODE_CALLERS").rules.size() == 1);
  CHECK(chain_of(all, "filter", "MESHNODE_OUTPUT").rules.size() == 4);
  CHECK(chain_of(all, "filter", "MESHNODE_INPUT").rules.back().find("7000") != std::string::npos);
  CHECK(chain_of(all, "mangle", "MESHNODE_PREROUTING").rules.size() == 3);
}

TEST_CASE("the deepest cgroup names the caller, and any cgroup before the user") {
  Spec spec;
  spec.workloads = {{"a/user", 1, ByUser{1}, {}},
                    {"a/parent", 2, ByCgroup{"x"}, {}},
                    {"a/child", 3, ByCgroup{"x/y"}, {}}};
  const HostFacts facts{true, {{"x", 1}, {"x/y", 2}}};
  const Ruleset all = rules(spec, facts, Family::kV4);
  const auto& callers = chain_of(all, "nat", "MESHNODE_CALLERS").rules;
  REQUIRE(callers.size() == 3);
  CHECK(callers[0].find("a/child") != std::string::npos);
  CHECK(callers[1].find("a/parent") != std::string::npos);
  CHECK(callers[2].find("a/user") != std::string::npos);
}

TEST_CASE("an address workload is steered and guarded at its address, after all others") {
  Spec spec;
  spec.workloads = {{"a/address", 1, ByAddress{IpAddress::parse("10.0.0.5").value()}, {80}},
                    {"a/user", 2, ByUser{1}, {81}}};
  const Ruleset v4 = rules(spec, {true, {}}, Family::kV4);
  const auto& callers = chain_of(v4, "nat", "MESHNODE_CALLERS").rules;
  REQUIRE(callers.size() == 2);
  CHECK(callers[0].find("a/user") != std::string::npos);
  CHECK(callers[1].starts_with("-s 10.0.0.5/32 ! -d 10.0.0.5/32 -p tcp"));
  const auto& out = chain_of(v4, "filter", "MESHNODE_OUTPUT").rules;
  CHECK(out.back().starts_with("-s 10.0.0.5/32 ! -d 10.0.0.5/32 -p tcp"));
  for (const auto& [table, chain] : {std::pair("mangle", "MESHNODE_PREROUTING"),
                                     std::pair("nat", "MESHNODE_LOCAL"),
                                     std::pair("filter", "MESHNODE_INPUT")}) {
    const auto& all = chain_of(v4, table, chain).rules;
    CAPTURE(chain);
    const auto own = std::count_if(all.begin(), all.end(), [](const std::string& rule) {
      return rule.starts_with("-d 10.0.0.5/32 -p tcp") && rule.find("dports 80 ") != rule.npos;
    });
    CHECK(own == 1);
  }
  const std::string v6 = text(spec, {true, {}}, Family::kV6);
  CHECK(v6.find("a/user") != std::string::npos);
  CHECK(v6.find("a/address") == std::string::npos);
}

TEST_CASE("in a namespace of its own every SYN is the workload's, and only ours keep the mark") {
  Spec spec;
  spec.workloads = {{"a/box", 7, ByNamespace{"/run/netns/box", 0}, {80}}};
  HostFacts facts;
  facts.own_cgroup = "system.slice/meshnode.service";
  const Ruleset all = rules(of_namespace(spec, spec.workloads[0]), facts, Family::kV4);
  const auto& callers = chain_of(all, "nat", "MESHNODE_CALLERS").rules;
  REQUIRE(callers.size() == 1);
  CHECK(callers[0].ends_with("SYN -m comment --comment \"meshnode out a/box\" -j DNAT "
                             "--to-destination 127.15.0.7:15001"));
  CHECK(chain_of(all, "mangle", "MESHNODE_FOREIGN").rules ==
        std::vector<std::string>{"-m cgroup ! --path \"system.slice/meshnode.service\" -m comment "
                                 "--comment \"meshnode not our mark\" -j MARK --set-xmark "
                                 "0x0/0xfff"});
  const OwnTable& mangle = table_of(all, "mangle");
  const auto first = std::find_if(mangle.jumps.begin(), mangle.jumps.end(),
                                  [](const Jump& jump) { return jump.chain == "OUTPUT"; });
  REQUIRE(first != mangle.jumps.end());
  CHECK(first->rule.ends_with("-j MESHNODE_FOREIGN"));
}

TEST_CASE("switched off, loopback capture and source preservation leave no rule") {
  Spec spec = shop();
  spec.capture_loopback = false;
  spec.preserve_source = false;
  const std::string all = text(spec, all_there(), Family::kV4);
  for (const char* absent :
       {"REDIRECT", "MESHNODE_LOCAL", "MESHNODE_DECLARED", "CONNMARK", "MESHNODE_REPLY", "0x111"}) {
    CAPTURE(absent);
    CHECK(all.find(absent) == std::string::npos);
  }
  const Ruleset in_tables = rules(spec, all_there(), Family::kV4);
  const auto& input = chain_of(in_tables, "filter", "MESHNODE_INPUT");
  CHECK(std::find(input.rules.begin(), input.rules.end(), "-i lo -j RETURN") != input.rules.end());
}

TEST_CASE("what is excluded leaves every chain before anything acts on it") {
  Spec spec = shop();
  for (std::uint16_t port = 22; port < 38; ++port) spec.exclude_ports.push_back(port);
  spec.exclude_cidrs = {IpPrefix::parse("10.0.0.0/8").value(), IpPrefix::parse("fd00::/8").value()};
  const auto family = GENERATE(Family::kV4, Family::kV6);
  const std::string block = family == Family::kV4 ? "10.0.0.0/8" : "fd00::/8";
  const std::string other = family == Family::kV4 ? "fd00::/8" : "10.0.0.0/8";
  const Ruleset all = rules(spec, all_there(), family);
  CHECK(restore_text({}, all).find(other) == std::string::npos);
  const std::string syn = "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN ";
  struct Row {
    const char* table;
    const char* chain;
    const char* side;
    const char* acts;
  };
  for (const Row& row : {Row{"mangle", "MESHNODE_PREROUTING", "-s ", "TPROXY"},
                         Row{"nat", "MESHNODE_OUTPUT", "-d ", "MESHNODE_CALLERS"},
                         Row{"nat", "MESHNODE_OUTPUT", "-d ", "MESHNODE_LOCAL"},
                         Row{"filter", "MESHNODE_INPUT", "-s ", "bypass inbound"},
                         Row{"filter", "MESHNODE_OUTPUT", "-d ", "bypass outbound"}}) {
    CAPTURE(row.table, row.chain);
    const auto& chain = chain_of(all, row.table, row.chain).rules;
    const auto at = [&](const std::string& rule) {
      return std::find(chain.begin(), chain.end(), rule);
    };
    const auto acts = std::find_if(chain.begin(), chain.end(), [&](const std::string& rule) {
      return rule.find(row.acts) != rule.npos;
    });
    REQUIRE(acts != chain.end());
    CHECK(at(row.side + block + " -j RETURN") < acts);
    CHECK(at(syn + "-m multiport --dports 22,23,24,25,26,27,28,29,30,31,32,33,34,35,36 -j RETURN") <
          acts);
    CHECK(at(syn + "-m multiport --dports 37 -j RETURN") < acts);
  }
  // Our own ports are no exception to be had: they refuse before anything is left out.
  const auto& input = chain_of(all, "filter", "MESHNODE_INPUT").rules;
  CHECK(input[0].find("bypass own-port") != std::string::npos);
  CHECK(input[1].find("bypass own-port") != std::string::npos);
}

TEST_CASE("nothing enrolled keeps the anchor and captures nothing") {
  const std::string all = text(Spec{}, {}, Family::kV4);
  CHECK(all.find("-m conntrack --ctstate DNAT -m comment --comment \"meshnode anchor\"") !=
        std::string::npos);
  CHECK(all.find("TPROXY") == std::string::npos);
  CHECK(all.find("DNAT --to") == std::string::npos);
}

TEST_CASE("paths are quoted as iptables-save quotes them") {
  Spec spec;
  spec.workloads = {{"a/b", 1, ByCgroup{R"(a\x2d"'.scope)"}, {}},
                    {"a/c", 2, ByCgroup{"plain-1"}, {}}};
  const HostFacts facts{true, {{R"(a\x2d"'.scope)", 1}, {"plain-1", 1}}};
  const std::string all = text(spec, facts, Family::kV4);
  CHECK(all.find(R"(--path "a\\x2d\"\'.scope" )") != std::string::npos);
  CHECK(all.find("--path plain-1 ") != std::string::npos);
}

namespace {

Spec any_spec() {
  Spec spec;
  spec.capture_loopback = *rc::gen::arbitrary<bool>();
  spec.preserve_source = *rc::gen::arbitrary<bool>();
  const auto excluded = *rc::gen::inRange<std::uint16_t>(0, 65);
  for (std::uint16_t i = 1; i <= excluded; ++i) {
    spec.exclude_ports.push_back(i);
    spec.exclude_cidrs.push_back(IpPrefix::parse("10.0." + std::to_string(i) + ".0/24").value());
  }
  const int count = *rc::gen::inRange(0, 12);
  for (int i = 1; i <= count; ++i) {
    Enrolled workload{"ns/w" + std::to_string(i), static_cast<std::uint16_t>(i * 5000), {}, {}};
    if (*rc::gen::arbitrary<bool>()) {
      workload.owner = ByUser{static_cast<std::uint32_t>(i)};
    } else {
      workload.owner = ByCgroup{"c/" + std::to_string(i)};
    }
    const auto ports = *rc::gen::inRange<std::uint16_t>(0, 65);
    for (std::uint16_t port = 0; port < ports; ++port) {
      workload.ports.push_back(static_cast<std::uint16_t>(20000 + i * 64 + port));
    }
    spec.workloads.push_back(workload);
  }
  return spec;
}

HostFacts any_facts(const Spec& spec) {
  HostFacts facts;
  for (const Enrolled& workload : spec.workloads) {
    if (const auto* cgroup = std::get_if<ByCgroup>(&workload.owner)) {
      facts.cgroups.push_back({cgroup->path, *rc::gen::element<std::uint64_t>(0, 9)});
    }
  }
  return facts;
}

bool acts_on_a_connection(const std::string& rule) {
  for (const char* target : {"-j DNAT", "-j REDIRECT", "-j TPROXY", "-j REJECT", "-j CONNMARK"}) {
    if (rule.find(target) != rule.npos) return true;
  }
  return false;
}

std::size_t mentions(const OwnChain& chain, const std::string& what) {
  return static_cast<std::size_t>(
      std::count_if(chain.rules.begin(), chain.rules.end(),
                    [&](const std::string& rule) { return rule.find(what) != rule.npos; }));
}

}  // namespace

TEST_CASE("for any spec the rules keep their promises") {
  REQUIRE(rc::check("promises", [] {
    const Spec spec = any_spec();
    RC_ASSERT(check(spec).has_value());
    const HostFacts facts = any_facts(spec);
    const auto family = *rc::gen::element(Family::kV4, Family::kV6);
    const Ruleset all = rules(spec, facts, family);
    const auto late = waiting(spec, facts);
    for (const Enrolled& workload : spec.workloads) {
      const bool waits = std::find(late.begin(), late.end(), workload.name) != late.end();
      const std::size_t once = waits ? 0 : 1;
      const std::string end = " " + workload.name + "\"";
      RC_ASSERT(mentions(chain_of(all, "nat", "MESHNODE_CALLERS"), end) == once);
      RC_ASSERT(mentions(chain_of(all, "filter", "MESHNODE_OUTPUT"), end) == once);
      const std::size_t chunks = (workload.ports.size() + 14) / 15;
      RC_ASSERT(mentions(chain_of(all, "mangle", "MESHNODE_PREROUTING"), end) == chunks);
      RC_ASSERT(mentions(chain_of(all, "filter", "MESHNODE_INPUT"), end) == chunks);
    }
    for (const OwnTable& table : all) {
      for (const OwnChain& chain : table.chains) {
        RC_ASSERT(is_ours(chain.name));
        RC_ASSERT(chain.name.size() <= 28U);
        for (const std::string& rule : chain.rules) {
          RC_ASSERT(rule.size() < 1024U);
          RC_ASSERT(!acts_on_a_connection(rule) ||
                    rule.find("--tcp-flags FIN,SYN,RST,ACK SYN") != rule.npos);
        }
      }
    }
    const std::string own = "-m mark --mark 0x539/0xfff -j RETURN";
    RC_ASSERT(chain_of(all, "nat", "MESHNODE_OUTPUT").rules.front() == own);
    RC_ASSERT(chain_of(all, "filter", "MESHNODE_OUTPUT").rules.front() == own);
  }));
}

TEST_CASE("rules written are rules read back: nothing differs and nothing is left to write") {
  REQUIRE(rc::check("idempotent", [] {
    const Spec spec = any_spec();
    const Ruleset all = rules(spec, any_facts(spec), Family::kV4);
    // Insertions come out in front, in order, as the kernel would have them.
    std::string printed;
    for (const OwnTable& table : all) {
      printed += "*" + table.name +
                 "\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n"
                 ":OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n";
      for (const OwnChain& chain : table.chains) printed += ":" + chain.name + " - [0:0]\n";
      for (const Jump& jump : table.jumps) printed += "-A " + jump.chain + " " + jump.rule + "\n";
      for (const OwnChain& chain : table.chains) {
        for (const std::string& rule : chain.rules)
          printed += "-A " + chain.name + " " + rule + "\n";
      }
      printed += "COMMIT\n";
    }
    const Saved saved = parse_save(printed).value();
    RC_ASSERT(differences(saved, all).empty());
    RC_ASSERT(restore_text(saved, all).empty());
    RC_ASSERT(!restore_text(saved, all, true).empty());
    RC_ASSERT(restore_text(saved, own_part(saved)).empty());
    RC_ASSERT(adopt(saved, all).value() == all);
  }));
}

TEST_CASE("what two specs have in common is in both") {
  Spec before = shop();
  Spec after = shop();
  after.workloads[0].ports = {9090, 9100};
  after.workloads[1].owner = ByUser{5};
  const Spec both = common(before, after);
  REQUIRE(both.workloads.size() == 1);
  CHECK(both.workloads[0].ports == std::vector<std::uint16_t>{9090});
  CHECK(common(before, before) == before);
  before.exclude_ports = {22};
  after.exclude_ports = {22, 25};
  CHECK(common(before, after).exclude_ports == after.exclude_ports);
  after.capture_loopback = false;
  CHECK_FALSE(common(before, after).capture_loopback);
}

TEST_CASE("a backstop is known by its comment") {
  CHECK(backstop_of("meshnode bypass inbound a/b").reason == "inbound");
  CHECK(backstop_of("meshnode bypass inbound a/b").workload == "a/b");
  CHECK(backstop_of("meshnode bypass own-port").reason == "own-port");
  CHECK(backstop_of("meshnode out a/b").reason.empty());
}

TEST_CASE("both families listen at every steered port, only 15006 transparently") {
  const auto all = listeners();
  REQUIRE(all.size() == 6);
  for (const Listener& listener : all) {
    CHECK(listener.address.is_unspecified());
    CHECK(listener.address.family() == listener.family);
    CHECK(listener.transparent == (listener.port == kInboundPort));
  }
}
