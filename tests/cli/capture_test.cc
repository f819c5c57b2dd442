#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <map>

#include "capture/applier.h"
#include "capture/fake_kernel.h"
#include "cli/commands.h"

using namespace meshnode;
using namespace meshnode::cli;

TEST_CASE("capture commands go into the namespaces of this agent's workloads, and no other's") {
  using capture::test::FakeKernel;
  FakeKernel here;
  std::map<std::string, FakeKernel> others;
  for (const char* agent : {"", "41", "42"}) {
    capture::Spec spec;
    spec.workloads.push_back({"shop/web", 1, capture::ByUser{1000}, {8080}});
    REQUIRE(capture::Applier(others[agent], agent).apply(spec));
  }
  FakeKernel broken;
  broken.denied = {"iptables-save"};
  const auto each = [&](const CapturePlaces::Visit& visit) {
    visit("/run/netns/broken", broken);
    visit("/run/netns/own-agent", others[""]);
    visit("/run/netns/a", others["41"]);
    visit("/run/netns/b", others["42"]);
  };
  const CapturePlaces places{here, each, "42"};
  const auto shown = capture_show(places, Output::kText);
  CHECK(shown.out.find("# network namespace /run/netns/b\n") == 0);
  CHECK(shown.out.find("netns/a") == std::string::npos);
  CHECK(shown.out.find("meshnode in shop/web") != std::string::npos);
  CHECK(shown.err.find("capture show: /run/netns/broken: ") != std::string::npos);
  CHECK(shown.exit_code == 2);

  const auto json = nlohmann::json::parse(capture_show(places, Output::kJson).out);
  REQUIRE(json["places"].size() == 2);
  CHECK(json["places"][0] == nlohmann::json{{"namespace", ""}, {"rules", nlohmann::json::array()}});
  CHECK(json["places"][1]["namespace"] == "/run/netns/b");
  CHECK(json["places"][1]["rules"].dump().find("meshnode in shop/web") != std::string::npos);

  const auto removed = capture_remove(places);
  CHECK(removed.out.find("removed /run/netns/b: iptables") == 0);
  CHECK(removed.err.find("capture remove: /run/netns/broken: ") != std::string::npos);
  CHECK(capture::show(others["42"]) == "");
  CHECK(capture::show(others["41"]) != "");
  CHECK(capture::show(others[""]) != "");
}

TEST_CASE("a removal that fails on the host goes on in the namespaces, and all is reported") {
  using capture::test::FakeKernel;
  FakeKernel here;
  here.denied = {"iptables-save"};
  FakeKernel other;
  capture::Spec spec;
  spec.workloads.push_back({"shop/web", 1, capture::ByUser{1000}, {8080}});
  REQUIRE(capture::Applier(other, "42").apply(spec));
  const auto removed = capture_remove(
      {here, [&](const CapturePlaces::Visit& visit) { visit("/run/netns/b", other); }, "42"});
  CHECK(removed.exit_code == 2);
  CHECK(removed.err.find("meshnode: capture remove: ") == 0);
  CHECK(removed.out.find("removed /run/netns/b: iptables") == 0);
  CHECK(capture::show(other) == "");
}
