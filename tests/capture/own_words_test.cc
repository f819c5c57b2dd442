#include "capture/own_words.h"

#include <catch2/catch.hpp>
#include <string>

#include "capture/applier.h"
#include "capture/fake_kernel.h"
#include "capture/rules.h"

using namespace meshnode;
using namespace meshnode::capture;

namespace {

Spec boxed() {
  Spec spec;
  spec.workloads = {{"shop/box", 7, ByNamespace{"/run/netns/box", 0}, {80, 81}}};
  spec.exclude_ports = {9100};
  spec.exclude_cidrs = {IpPrefix::parse("10.0.0.0/8").value(),
                        IpPrefix::parse("fd00::/8").value()};
  return spec;
}

HostFacts facts() {
  HostFacts made;
  made.ipv6 = true;
  made.own_cgroup = R"(system.slice/a\x2d "b".service)";
  return made;
}

}  // namespace

TEST_CASE("whatever we write is in our own words") {
  for (const Family family : {Family::kV4, Family::kV6}) {
    for (const bool preserve : {false, true}) {
      for (const bool loopback : {false, true}) {
        Spec spec = boxed();
        spec.preserve_source = preserve;
        spec.capture_loopback = loopback;
        const std::string text = restore_text({}, rules(spec, facts(), family));
        CAPTURE(text);
        CHECK(in_own_words(text));
      }
    }
  }
  CHECK(in_own_words("*nat\n:MESHNODE_X - [0:0]\n-D OUTPUT -j MESHNODE_X\n-X MESHNODE_X\n"
                     "COMMIT\n"));
}

TEST_CASE("what names a module, a program or another table is not") {
  for (const std::string line :
       {"-D INPUT -M /proc/7/root/evil -m quota -j MESHNODE_X", "-D INPUT -m quota -j MESHNODE_X",
        "-D INPUT -m ../../tmp/evil -j MESHNODE_X", "-D INPUT -j ../../tmp/evil",
        "-A OUTPUT -m comment --comment \"x", "-A OUTPUT --modp /evil -j MESHNODE_X",
        "-A OUTPUT -t nat -j MESHNODE_X", "-A OUTPUT -j MESHNODE_X -c 1 1", "-F OUTPUT",
        "-A -M /evil", ":INPUT ACCEPT [0:0]", "-X FOREIGN", "*nat -M", "COMMIT x", "", " ",
        "-A OUTPUT -m comment --comment \"a\"b -j MESHNODE_X", "-A OUTPUT -j MESHNODE_\xff",
        "-A OUTPUT -m comment --comment \"a\tb\" -j MESHNODE_X", "-A OUT'PUT -j MESHNODE_X",
        "-A OUTPUT \"--modprobe=/evil\" -j MESHNODE_X", "-A OUTPUT \"-M\" /evil -j MESHNODE_X",
        R"(-A OUTPUT "\-M" /evil -j MESHNODE_X)", "-A OUTPUT -j MESHNODE_/../../evil"}) {
    CAPTURE(line);
    CHECK_FALSE(in_own_words("*filter\n" + line + "\nCOMMIT\n"));
  }
}

TEST_CASE("in a namespace of others, rules that only look like ours are not written again") {
  test::FakeKernel kernel;
  kernel.others = true;
  Applier applier(kernel);
  REQUIRE(applier.apply(boxed()));
  kernel.chain("iptables", "filter", "INPUT")
      .insert(kernel.chain("iptables", "filter", "INPUT").begin(),
              {"-m quota --quota 1 -j MESHNODE_INPUT", 0});
  const auto committed = kernel.committed.size();
  const auto repaired = applier.verify_and_repair();
  REQUIRE_FALSE(repaired);
  CHECK_THAT(repaired.error().message, Catch::Contains("made by somebody inside"));
  CHECK_FALSE(remove(kernel));
  CHECK(kernel.committed.size() == committed);
  kernel.others = false;
  CHECK(applier.verify_and_repair());
}
