#include "agent/capture_request.h"

#include <catch2/catch.hpp>
#include <string>

using namespace meshnode;
using namespace meshnode::agent;

namespace {

constexpr const char* kPasswd =
    "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\ntoor:x:0:0::/:/\n";

model::CatalogWorkload workload(const std::string& name, model::Match match) {
  model::CatalogWorkload made;
  made.id = {"shop", name};
  made.match = std::move(match);
  made.ports = {8080};
  return made;
}

CaptureRequest request_for(const std::vector<model::CatalogWorkload>& workloads) {
  model::Catalog catalog;
  catalog.workloads = workloads;
  snapshot::SlotTable slots;
  std::vector<WorkloadId> ids;
  for (const auto& each : workloads) {
    ids.push_back(each.id);
  }
  REQUIRE(slots.assign(ids));
  return make_capture_request(catalog, slots, kPasswd);
}

}  // namespace

TEST_CASE("users become numbers, cgroups stay paths, slots and ports come along") {
  const auto request = request_for(
      {workload("a", model::MatchUser{"web"}), workload("b", model::MatchCgroup{"app.slice/b"})});
  REQUIRE(request.spec.workloads.size() == 2);
  CHECK(request.problems.empty());
  CHECK(std::get<capture::ByUser>(request.spec.workloads[0].owner).uid == 33);
  CHECK(std::get<capture::ByCgroup>(request.spec.workloads[1].owner).path == "app.slice/b");
  CHECK(request.spec.workloads[0].slot != request.spec.workloads[1].slot);
  CHECK(request.spec.workloads[0].ports == std::vector<std::uint16_t>{8080});
  CHECK(capture::check(request.spec));
}

TEST_CASE("a workload that cannot be captured is named and the others are") {
  model::CatalogWorkload own_port = workload("own-port", model::MatchUser{"5002"});
  own_port.ports = {15008};
  own_port.force = true;
  const auto request = request_for({workload("a", model::MatchUser{"nobody-here"}), own_port,
                                    workload("ok", model::MatchUser{"web"}),
                                    workload("twice", model::MatchUser{"33"}),
                                    workload("z-root", model::MatchUser{"toor"})});
  REQUIRE(request.spec.workloads.size() == 1);
  CHECK(request.spec.workloads[0].name == "shop/ok");
  REQUIRE(request.problems.size() == 4);
  CHECK(request.problems[0].first == "shop/a");
  CHECK(request.problems[1].second.find("15008") != std::string::npos);
  CHECK(request.problems[2].second.find("shop/ok") != std::string::npos);
  CHECK(request.problems[3].second.find("force") != std::string::npos);
}

TEST_CASE("root is captured when the document insists") {
  model::CatalogWorkload root = workload("r", model::MatchUser{"root"});
  root.force = true;
  CHECK(request_for({root}).spec.workloads.size() == 1);
}

TEST_CASE("one workload more than a node captures is refused by name") {
  std::vector<model::CatalogWorkload> many;
  for (std::size_t i = 0; i <= capture::kMaxWorkloads; ++i) {
    many.push_back(workload("w" + std::to_string(i), model::MatchUser{std::to_string(1000 + i)}));
  }
  const auto request = request_for(many);
  CHECK(request.spec.workloads.size() == capture::kMaxWorkloads);
  CHECK(request.problems.size() == 1);
}
