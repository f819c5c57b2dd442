#include <catch2/catch.hpp>
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
  const CapturePlaces places{here,
                             {{"/run/netns/broken", broken},
                              {"/run/netns/own-agent", others[""]},
                              {"/run/netns/a", others["41"]},
                              {"/run/netns/b", others["42"]}},
                             "42"};
  const auto shown = capture_show(places);
  CHECK(shown.out.find("# network namespace /run/netns/b\n") == 0);
  CHECK(shown.out.find("netns/a") == std::string::npos);
  CHECK(shown.out.find("meshnode in shop/web") != std::string::npos);
  CHECK(shown.err.find("capture show: /run/netns/broken: ") != std::string::npos);
  CHECK(shown.exit_code == 2);

  const auto removed = capture_remove(places);
  CHECK(removed.out.find("removed /run/netns/b: iptables") == 0);
  CHECK(removed.err.find("capture remove: /run/netns/broken: ") != std::string::npos);
  CHECK(capture::show(others["42"]) == "");
  CHECK(capture::show(others["41"]) != "");
  CHECK(capture::show(others[""]) != "");
}
