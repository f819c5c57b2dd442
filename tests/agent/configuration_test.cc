#include "agent/configuration.h"

#include <catch2/catch.hpp>
#include <string>

#include "support/fake_storage.h"

using namespace meshnode;
using namespace meshnode::agent;

namespace {

std::string entry(const std::string& name, const std::string& ip) {
  return "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: " + name +
         "}\nspec: {address: " + ip + "}\n";
}

}  // namespace

TEST_CASE("files that change are read, files that do not are left alone") {
  test::FakeStorage storage;
  storage.put("/c/a.yaml", entry("a", "10.0.0.1"));
  Configuration configuration(storage, "/c", "/s");
  CHECK(configuration.refresh());
  CHECK(configuration.set().accepted().size() == 1);
  CHECK_FALSE(configuration.refresh());
  storage.put("/c/b.yaml", entry("b", "10.0.0.2"));
  CHECK(configuration.refresh());
  CHECK(configuration.set().accepted().size() == 2);
  REQUIRE(storage.remove("/c/a.yaml"));
  CHECK(configuration.refresh());
  CHECK(configuration.set().accepted().size() == 1);
}

TEST_CASE("a bad file keeps its last good version, also across a restart") {
  test::FakeStorage storage;
  storage.put("/c/a.yaml", entry("a", "10.0.0.1"));
  {
    Configuration configuration(storage, "/c", "/s");
    configuration.refresh();
    storage.put("/c/a.yaml", "kind: [");
    CHECK(configuration.refresh());
    CHECK(configuration.set().accepted().size() == 1);
    CHECK(configuration.set().rejected().size() == 1);
  }
  Configuration restarted(storage, "/c", "/s");
  restarted.refresh();
  CHECK(restarted.set().accepted().size() == 1);
  CHECK(restarted.set().rejected().size() == 1);
}

TEST_CASE("a file of exactly the limit is read, a byte more is refused by name") {
  test::FakeStorage storage;
  std::string text = entry("a", "10.0.0.1");
  text += "#" + std::string(Configuration::kMaxFile - text.size() - 1, 'x');
  storage.put("/c/a.yaml", text);
  Configuration configuration(storage, "/c", "/s");
  configuration.refresh();
  CHECK(configuration.set().accepted().size() == 1);
  CHECK(configuration.set().rejected().empty());
  storage.put("/c/a.yaml", text + "x");
  configuration.refresh();
  CHECK(configuration.set().accepted().size() == 1);
  REQUIRE(configuration.set().rejected().size() == 1);
  CHECK(configuration.set().rejected()[0].origin.file == "/c/a.yaml");
}
