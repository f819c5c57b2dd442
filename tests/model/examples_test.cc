#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "model/catalog.h"
#include "model/config_set.h"

using namespace meshnode;         // NOLINT: test
using namespace meshnode::model;  // NOLINT: test

namespace {

std::string config() { return std::string(MESHNODE_SOURCE_DIR) + "/config"; }

std::string content(const std::string& path) {
  std::ifstream in(path);
  REQUIRE(in);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("the example files load together without a complaint") {
  ConfigSet set;
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(config() + "/examples")) {
    set.update(entry.path().string(), content(entry.path().string()));
    ++files;
  }
  CHECK(files >= 4);
  for (const Rejection& rejection : set.rejected()) UNSCOPED_INFO(rejection.text());
  CHECK(set.rejected().empty());
  CHECK(set.accepted().size() == 7);

  const Catalog catalog =
      make_catalog(set.accepted(), {"unnamed", {IpAddress::v4({10, 77, 0, 1})}});
  for (const CatalogProblem& problem : catalog.problems) UNSCOPED_INFO(problem.message);
  CHECK(catalog.problems.empty());
  CHECK(catalog.node_name == "web-1");
  CHECK(catalog.workloads.size() == 2);
  // Two ports of virtual addresses, four mesh addresses, two loopbacks.
  CHECK(catalog.routes.size() == 8);
}

TEST_CASE("the commented default says nothing, and uncommented it is a valid Node") {
  const std::string text = content(config() + "/node.yaml");
  ConfigSet as_shipped;
  as_shipped.update("node.yaml", text);
  CHECK(as_shipped.accepted().empty());
  CHECK(as_shipped.rejected().empty());

  std::string uncommented;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    // Prose begins with "# " and a capital or a word of prose; fields are "#name" or "#  name".
    const bool field = line.size() > 1 && line[0] == '#' && (line[1] != ' ' || line[2] == ' ');
    uncommented += field ? line.substr(1) + "\n" : "\n";
  }
  ConfigSet set;
  set.update("node.yaml", uncommented);
  for (const Rejection& rejection : set.rejected()) UNSCOPED_INFO(rejection.text());
  CHECK(set.rejected().empty());
  REQUIRE(set.accepted().size() == 1);
  CHECK(std::get<NodeSpec>(set.accepted()[0]->spec).identity_source ==
        NodeSpec::IdentitySource::kFiles);
}
