#include "agent/configuration.h"

#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <vector>

#include "support/fake_storage.h"

using namespace meshnode;
using namespace meshnode::agent;

namespace {

std::string entry(const std::string& name, const std::string& ip) {
  return "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: " + name +
         "}\nspec: {address: " + ip + "}\n";
}

std::vector<std::string> names(Configuration& configuration) {
  std::vector<std::string> out;
  for (const auto& resource : configuration.set().accepted()) {
    out.push_back(resource->metadata.name);
  }
  return out;
}

const Error kGone{ErrorCode::kNotFound, "cannot read directory /c"};

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

TEST_CASE("more files than the limit leave in force what was") {
  test::FakeStorage storage;
  for (std::size_t i = 0; i < Configuration::kMaxFiles; ++i) {
    storage.put("/c/" + std::to_string(i) + ".yaml", "");
  }
  storage.put("/c/0.yaml", entry("a", "10.0.0.1"));
  Configuration configuration(storage, "/c", "/s");
  CHECK(configuration.refresh());
  CHECK(configuration.problem().empty());
  CHECK(configuration.set().accepted().size() == 1);
  storage.put("/c/more.yaml", entry("b", "10.0.0.2"));
  storage.put("/c/0.yaml", entry("a", "10.0.0.3"));
  configuration.refresh();
  CHECK_FALSE(configuration.problem().empty());
  CHECK(names(configuration) == std::vector<std::string>{"a"});
}

TEST_CASE("a directory that cannot be read at a start leaves what was last good in force") {
  test::FakeStorage storage;
  storage.put("/c/a.yaml", entry("a", "10.0.0.1"));
  storage.put("/c/b.yaml", entry("b", "10.0.0.2"));
  {
    Configuration before(storage, "/c", "/s");
    CHECK_FALSE(before.known());
    before.refresh();
    CHECK(before.known());
    storage.fail_lists(kGone);
    CHECK(before.refresh());
    CHECK(before.set().accepted().size() == 2);
    CHECK(before.known());
  }
  Configuration restarted(storage, "/c", "/s");
  CHECK(restarted.refresh());
  CHECK(restarted.known());
  CHECK(restarted.problem() == kGone.message);
  CHECK(restarted.set().accepted().size() == 2);
  CHECK_FALSE(restarted.refresh());

  // Back again: one file less, one that is broken, one that is new.
  storage.put("/c/a.yaml", "kind: [");
  REQUIRE(storage.remove("/c/b.yaml"));
  storage.put("/c/c.yaml", entry("c", "10.0.0.3"));
  storage.fail_lists(std::nullopt);
  CHECK(restarted.refresh());
  CHECK(restarted.problem().empty());
  CHECK(names(restarted) == std::vector<std::string>{"a", "c"});
  CHECK(restarted.set().rejected().size() == 1);
  Configuration again(storage, "/c", "/s");
  again.refresh();
  CHECK(names(again) == std::vector<std::string>{"a", "c"});
}

TEST_CASE("nothing is known while neither the directory nor a last good version can be read") {
  for (const char* saved : {"", "{", "{\"version\":1,\"files\":[]}"}) {
    CAPTURE(saved);
    test::FakeStorage storage;
    if (*saved != '\0') storage.put("/s/last-good", saved);
    storage.put("/c/a.yaml", entry("a", "10.0.0.1"));
    storage.fail_lists(kGone);
    Configuration configuration(storage, "/c", "/s");
    CHECK(configuration.refresh());
    CHECK_FALSE(configuration.known());
    CHECK_FALSE(configuration.refresh());
    storage.fail_lists(std::nullopt);
    CHECK(configuration.refresh());
    CHECK(configuration.known());
    CHECK(names(configuration) == std::vector<std::string>{"a"});
  }
}

TEST_CASE("a last good version that cannot be read for a moment is taken later") {
  test::FakeStorage storage;
  storage.put("/c/a.yaml", entry("a", "10.0.0.1"));
  Configuration(storage, "/c", "/s").refresh();
  const std::string saved = *storage.read("/s/last-good", 1'000'000);
  storage.fail_reads("/s/last-good", {ErrorCode::kUnavailable, "too many open files"});
  SECTION("while the directory cannot be read either") {
    storage.fail_lists(kGone);
    Configuration restarted(storage, "/c", "/s");
    restarted.refresh();
    CHECK_FALSE(restarted.known());
    CHECK(restarted.save_problem() == "too many open files");
    storage.put("/s/last-good", saved);
    CHECK(restarted.refresh());
    CHECK(restarted.known());
    CHECK(names(restarted) == std::vector<std::string>{"a"});
  }
  SECTION("while a file is broken that it has a version of") {
    storage.put("/c/a.yaml", "kind: [");
    storage.put("/c/b.yaml", entry("b", "10.0.0.2"));
    Configuration restarted(storage, "/c", "/s");
    restarted.refresh();
    CHECK_FALSE(restarted.known());
    CHECK_FALSE(restarted.save_problem().empty());
    storage.put("/s/last-good", saved);
    CHECK(restarted.refresh());
    CHECK(restarted.known());
    CHECK(restarted.save_problem().empty());
    CHECK(names(restarted) == std::vector<std::string>{"a", "b"});
  }
  SECTION("and is not needed when every file is good") {
    Configuration restarted(storage, "/c", "/s");
    restarted.refresh();
    CHECK(restarted.known());
    CHECK(restarted.save_problem().empty());
    CHECK(*storage.read("/s/last-good", 1'000'000) == saved);
  }
}

TEST_CASE("a file that could not be read is tried again, without a change each time") {
  test::FakeStorage storage;
  storage.put("/c/a.yaml", entry("a", "10.0.0.1"));
  Configuration configuration(storage, "/c", "/s");
  configuration.refresh();
  storage.fail_reads("/c/a.yaml", {ErrorCode::kUnavailable, "too many open files"});
  storage.chmod("/c/a.yaml", 0600);
  CHECK(configuration.refresh());
  CHECK(configuration.set().accepted().size() == 1);
  CHECK(configuration.set().rejected().size() == 1);
  CHECK_FALSE(configuration.refresh());
  storage.fail_reads("/c/a.yaml", {ErrorCode::kPermission, "permission denied"});
  CHECK(configuration.refresh());
  storage.mend_reads("/c/a.yaml");
  CHECK(configuration.refresh());
  CHECK(configuration.set().rejected().empty());
  const int reads = storage.reads();
  CHECK_FALSE(configuration.refresh());
  CHECK(storage.reads() == reads);
}
