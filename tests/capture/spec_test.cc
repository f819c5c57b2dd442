#include "capture/spec.h"

#include <rapidcheck.h>

#include <catch2/catch.hpp>

using namespace meshnode;
using namespace meshnode::capture;

namespace {

Enrolled web() { return {"shop/web", 1, ByUser{1000}, {8080}}; }

Spec with(const Enrolled& workload) {
  Spec spec;
  spec.workloads = {workload};
  return spec;
}

Enrolled in_cgroup(const std::string& path) {
  Enrolled workload = web();
  workload.owner = ByCgroup{path};
  return workload;
}

Spec many(std::size_t count) {
  Spec spec;
  for (std::size_t i = 1; i <= count; ++i) {
    spec.workloads.push_back({"shop/w" + std::to_string(i),
                              static_cast<std::uint16_t>(i),
                              ByUser{static_cast<std::uint32_t>(i)},
                              {}});
  }
  return spec;
}

}  // namespace

TEST_CASE("a capture address names its slot and no other address does") {
  CHECK(capture_address(Family::kV4, 258).text() == "127.15.1.2");
  CHECK(capture_address(Family::kV6, 258).text() == "fd6d:6573:686e::102");
  for (const char* text : {"127.15.0.0", "127.15.253.233", "127.16.0.1", "126.15.0.1", "10.0.0.1",
                           "fd6d:6573:686e::", "fd6d:6573:686e:1::1", "fd6d:6573:686e::1:0:1",
                           "fd6d:6573:686f::1", "::1"}) {
    CAPTURE(text);
    CHECK_FALSE(slot_of(IpAddress::parse(text).value()));
  }
  REQUIRE(rc::check("slots survive the journey", [] {
    const auto slot = *rc::gen::inRange<std::uint16_t>(1, 65001);
    const auto family = *rc::gen::element(Family::kV4, Family::kV6);
    RC_ASSERT(slot_of(capture_address(family, slot)).value() == slot);
  }));
}

TEST_CASE("a spec within its bounds is accepted and one beyond is named") {
  CHECK(check(Spec{}));
  CHECK(check(with(web())));
  CHECK(check(many(1024)));
  CHECK_FALSE(check(many(1025)));

  Enrolled ports = web();
  ports.ports.clear();
  for (std::uint16_t port = 20000; port < 20064; ++port) ports.ports.push_back(port);
  CHECK(check(with(ports)));
  ports.ports.push_back(1);
  CHECK_FALSE(check(with(ports)));

  for (const int slot : {1, 65000}) {
    Enrolled workload = web();
    workload.slot = static_cast<std::uint16_t>(slot);
    CHECK(check(with(workload)));
  }
  for (const int slot : {0, 65001}) {
    Enrolled workload = web();
    workload.slot = static_cast<std::uint16_t>(slot);
    CHECK_FALSE(check(with(workload)));
  }
  const std::string label(63, 'a');
  Enrolled named = web();
  named.name = label + "/" + label;
  CHECK(check(with(named)));
  for (const std::string& name :
       {std::string("web"), std::string("shop/"), std::string("/web"), std::string("shop/a\"b"),
        std::string("shop/a\nb"), label + "a/" + label, std::string("a/b/c")}) {
    named.name = name;
    CAPTURE(name);
    CHECK_FALSE(check(with(named)));
  }
}

TEST_CASE("ports of ours, port 0 and a port twice are refused") {
  for (const int port : {0, 7946, 15000, 15001, 15006, 15008, 15012, 15020, 15021, 15053}) {
    Enrolled workload = web();
    workload.ports = {static_cast<std::uint16_t>(port)};
    CAPTURE(port);
    CHECK_FALSE(check(with(workload)));
  }
  Enrolled twice = web();
  twice.ports = {80, 81, 80};
  CHECK_FALSE(check(with(twice)));
}

TEST_CASE("a cgroup path stays below its mount and in one line") {
  for (const std::string& path :
       {std::string("a"), std::string("system.slice/web.service"), std::string("a b/..c"),
        std::string(R"(dev-disk-by\x2dlabel.swap)"), std::string(511, 'a')}) {
    CAPTURE(path);
    CHECK(check(with(in_cgroup(path))));
  }
  for (const std::string& path :
       {std::string(), std::string("/a"), std::string("a/"), std::string("a//b"), std::string("."),
        std::string("a/../b"), std::string("a\nb"), std::string("a\x7f"), std::string("a\0b", 3),
        std::string("\xc3\xa4"), std::string(512, 'a')}) {
    CAPTURE(path);
    CHECK_FALSE(check(with(in_cgroup(path))));
  }
}

TEST_CASE("what is excluded is bounded, in order and never everything") {
  Spec spec;
  for (std::uint16_t port = 1; port <= kMaxExcludes; ++port) {
    spec.exclude_ports.push_back(port);
    spec.exclude_cidrs.push_back(IpPrefix::parse("10.0." + std::to_string(port) + ".0/24").value());
  }
  CHECK(check(spec));
  Spec bad = spec;
  bad.exclude_ports.push_back(99);
  CHECK_FALSE(check(bad));
  bad = spec;
  bad.exclude_cidrs.push_back(IpPrefix::parse("fd00::/8").value());
  CHECK_FALSE(check(bad));
  bad = spec;
  bad.exclude_ports[0] = 0;
  CHECK_FALSE(check(bad));
  bad.exclude_ports[0] = 2;
  CHECK_FALSE(check(bad));
  bad = spec;
  bad.exclude_cidrs[0] = IpPrefix::parse("0.0.0.0/6").value();
  CHECK_FALSE(check(bad));
  bad.exclude_cidrs[0] = IpPrefix::parse("0.0.0.0/7").value();
  CHECK(check(bad));
  bad.exclude_cidrs[0] = spec.exclude_cidrs[1];
  CHECK_FALSE(check(bad));
}

TEST_CASE("two workloads never share a name, a slot, a user or a cgroup") {
  const auto pair = [](const Enrolled& second) {
    Spec spec;
    spec.workloads = {web(), second};
    return spec;
  };
  const Enrolled fine{"shop/db", 2, ByUser{1001}, {8080}};
  CHECK(check(pair(fine)));
  Enrolled bad = fine;
  bad.name = "shop/web";
  CHECK_FALSE(check(pair(bad)));
  bad = fine;
  bad.slot = 1;
  CHECK_FALSE(check(pair(bad)));
  bad = fine;
  bad.owner = ByUser{1000};
  CHECK_FALSE(check(pair(bad)));
  Spec cgroups;
  cgroups.workloads = {in_cgroup("a"), in_cgroup("a")};
  cgroups.workloads[1].name = "shop/db";
  cgroups.workloads[1].slot = 2;
  CHECK_FALSE(check(cgroups));
  bad = fine;
  bad.owner = ByUser{0xffffffff};
  CHECK_FALSE(check(pair(bad)));
}

TEST_CASE("an address and a network namespace are such as a workload can be told by") {
  const auto owned = [](Owner owner) {
    Enrolled workload = web();
    workload.owner = std::move(owner);
    return with(workload);
  };
  for (const char* address : {"10.0.0.5", "fd00::5"}) {
    CHECK(check(owned(ByAddress{IpAddress::parse(address).value()})));
  }
  for (const char* address : {"0.0.0.0", "::", "127.0.0.2", "::1", "224.0.0.1", "fe80::1"}) {
    CAPTURE(address);
    CHECK_FALSE(check(owned(ByAddress{IpAddress::parse(address).value()})));
  }
  CHECK(check(owned(ByNamespace{"/run/netns/web", 0})));
  CHECK(check(owned(ByNamespace{"/var/run/docker/netns/8", 0})));
  CHECK(check(owned(ByNamespace{"/proc/1234/ns/net", 0})));
  CHECK(check(owned(ByNamespace{{}, 1})));
  CHECK(check(owned(ByNamespace{{}, 4'194'304})));
  for (const ByNamespace& place :
       {ByNamespace{}, ByNamespace{"/run/netns/web", 1}, ByNamespace{"run/netns/web", 0},
        ByNamespace{"/mnt/far/web", 0}, ByNamespace{"/proc/7/root/mnt/ns/net", 0},
        ByNamespace{"/proc/ns/net", 0}, ByNamespace{"/proc//ns/net", 0}, ByNamespace{"/", 0},
        ByNamespace{"/run/../web", 0}, ByNamespace{"/run\n", 0},
        ByNamespace{"/" + std::string(512, 'a'), 0}, ByNamespace{{}, 4'194'305}}) {
    CAPTURE(place.path, place.pid);
    CHECK_FALSE(check(owned(place)));
  }
  Spec both;
  both.workloads = {{"a/a", 1, ByNamespace{"/run/netns/web", 0}, {}},
                    {"a/b", 2, ByNamespace{{}, 7}, {}},
                    {"a/c", 3, ByAddress{IpAddress::parse("10.0.0.5").value()}, {}}};
  CHECK(check(both));
  CHECK(decode(encode(both)).value() == both);
  both.workloads[1].owner = both.workloads[0].owner;
  CHECK_FALSE(check(both));
}

TEST_CASE("a workload in a namespace of its own is no concern of the host's rules") {
  Spec spec = with(web());
  spec.preserve_source = false;
  spec.capture_loopback = false;
  spec.exclude_ports = {22};
  spec.exclude_cidrs = {IpPrefix::parse("10.0.0.0/8").value()};
  spec.workloads.push_back({"shop/db", 2, ByNamespace{"/run/netns/db", 0}, {5432}});
  const Spec host = of_host(spec);
  CHECK(host.workloads == with(web()).workloads);
  const Spec inside = of_namespace(spec, spec.workloads[1]);
  REQUIRE(inside.workloads.size() == 1);
  CHECK(inside.workloads[0].name == "shop/db");
  for (const Spec& part : {host, inside}) {
    CHECK_FALSE(part.preserve_source);
    CHECK_FALSE(part.capture_loopback);
    CHECK(part.exclude_ports == spec.exclude_ports);
    CHECK(part.exclude_cidrs == spec.exclude_cidrs);
  }
}

TEST_CASE("a spec survives the channel") {
  REQUIRE(rc::check("decode undoes encode", [] {
    Spec spec;
    spec.capture_loopback = *rc::gen::arbitrary<bool>();
    spec.preserve_source = *rc::gen::arbitrary<bool>();
    if (*rc::gen::arbitrary<bool>()) {
      spec.exclude_ports = {22, 9100};
      spec.exclude_cidrs = {IpPrefix::parse("10.0.0.0/8").value(),
                            IpPrefix::parse("fd00::/8").value()};
    }
    const int count = *rc::gen::inRange(0, 20);
    for (int i = 1; i <= count; ++i) {
      Enrolled workload{"ns/w" + std::to_string(i), static_cast<std::uint16_t>(i * 3), {}, {}};
      const auto number = static_cast<std::uint32_t>(i);
      if (*rc::gen::arbitrary<bool>()) {
        workload.owner = ByUser{number};
      } else {
        workload.owner = ByCgroup{R"(a\x2d"' /)" + std::to_string(i)};
      }
      for (int port = 0; port < i; ++port) {
        workload.ports.push_back(static_cast<std::uint16_t>(port + 1));
      }
      spec.workloads.push_back(workload);
    }
    RC_ASSERT(decode(encode(spec)).value() == spec);
  }));
}

TEST_CASE("whatever is not exactly a spec does not decode") {
  const std::string good = R"({"captureLoopback":true,"preserveSource":true,)"
                           R"("excludePorts":[22],"excludeCidrs":["10.0.0.0/8"],"workloads":[)"
                           R"({"name":"shop/web","slot":1,"user":1000,"ports":[8080]}]})";
  REQUIRE(decode(good));
  const auto replaced = [&](const std::string& what, const std::string& with_this) {
    std::string text = good;
    text.replace(text.find(what), what.size(), with_this);
    return text;
  };
  for (const std::string& text : {std::string(),
                                  std::string("null"),
                                  std::string("[]"),
                                  std::string("{}"),
                                  good + "x",
                                  replaced("true", "1"),
                                  replaced("1000", "-1"),
                                  replaced("1000", "4294967296"),
                                  replaced("1000", "1e3"),
                                  replaced("\"slot\":1", "\"slot\":65537"),
                                  replaced("\"slot\":1", "\"slot\":1.5"),
                                  replaced("8080", "\"8080\""),
                                  replaced("8080", "65536"),
                                  replaced("[8080]", "8080"),
                                  replaced("8080", "15006"),
                                  replaced("\"user\":1000", "\"user\":1,\"cgroup\":\"a\""),
                                  replaced("\"user\":1000,", ""),
                                  replaced("\"user\":1000", "\"cgroup\":7"),
                                  replaced("\"name\"", "\"nom\""),
                                  replaced("shop/web", "shop"),
                                  replaced("shop/web", "shop\\u0000/web"),
                                  std::string(5, '[') + std::string(5, ']'),
                                  std::string(1000000, '[')}) {
    CAPTURE(text.substr(0, 200));
    CHECK_FALSE(decode(text));
  }
  CHECK(decode(std::string(3U << 20, ' ')).error().code == ErrorCode::kLimit);
}
