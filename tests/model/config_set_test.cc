#include "model/config_set.h"

#include <rapidcheck.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <string>
#include <vector>

using namespace meshnode;         // NOLINT: test
using namespace meshnode::model;  // NOLINT: test

namespace {

std::string service(const std::string& name, const std::string& spec) {
  return "---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {" + spec +
         "}\n";
}
std::string node(const std::string& name) {
  return "---\napiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: " + name + "}\n";
}
std::string on(const std::string& ip) { return "clusterIP: " + ip; }

/// "name=first address" of each accepted Service, in order.
std::vector<std::string> in_force(ConfigSet& set) {
  std::vector<std::string> out;
  for (const auto& resource : set.accepted()) {
    const auto* spec = std::get_if<ServiceSpec>(&resource->spec);
    out.push_back(resource->metadata.name + "=" +
                  (spec == nullptr || spec->addresses.empty() ? std::string("-")
                                                              : spec->addresses[0].text()));
  }
  return out;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("a syntax error keeps the whole file's last good version") {
  ConfigSet set;
  set.update("a.yaml", service("x", on("10.9.0.1")) + service("y", on("10.9.0.2")));
  for (const std::string broken :
       {"a: 1\na: 2\n", "a: &a [x]\nb: [*a, *a]\n", "a: {half", "%YAML 1.2\n---\na: 1\n"}) {
    set.update("a.yaml", broken);
    CHECK(in_force(set) == Names{"x=10.9.0.1", "y=10.9.0.2"});
    REQUIRE(set.rejected().size() == 1);
    CHECK(set.rejected()[0].origin.file == "a.yaml");
    CHECK(set.rejected()[0].origin.line >= 1);
    CHECK_THAT(set.rejected()[0].message, Catch::Contains("last good version stays in force"));
  }
  set.update("a.yaml", service("y", on("10.9.0.3")));
  CHECK(in_force(set) == Names{"y=10.9.0.3"});
  CHECK(set.rejected().empty());
}

TEST_CASE("a syntax error in a new file takes nothing and says so") {
  ConfigSet set;
  set.update("a.yaml", service("x", on("10.9.0.1")));
  set.update("b.yaml", "a: [");
  CHECK(in_force(set) == Names{"x=10.9.0.1"});
  REQUIRE(set.rejected().size() == 1);
  CHECK_THAT(set.rejected()[0].message, !Catch::Contains("last good"));
}

TEST_CASE("a schema error keeps that resource's last good version and applies the others") {
  ConfigSet set;
  set.update("a.yaml", service("x", on("10.9.0.1")) + service("y", on("10.9.0.2")) +
                           service("z", on("10.9.0.3")));
  set.update("a.yaml", service("x", "surprise: 1") + service("y", on("10.9.0.4")) +
                           service("new", "surprise: 1"));
  CHECK(in_force(set) == Names{"x=10.9.0.1", "y=10.9.0.4"});
  REQUIRE(set.rejected().size() == 2);
  CHECK(set.rejected()[0].kind == "Service");
  CHECK(set.rejected()[0].ns == "default");
  CHECK(set.rejected()[0].name == "x");
  CHECK(set.rejected()[0].text() ==
        "a.yaml:5:8: spec.surprise: unknown field; the last good version stays in force");
  CHECK(set.rejected()[1].name == "new");
  CHECK_THAT(set.rejected()[1].message, !Catch::Contains("last good"));

  // Still the last good one after a second bad version.
  set.update("a.yaml", service("x", "clusterIP: 1"));
  CHECK(in_force(set) == Names{"x=10.9.0.1"});
  // A document that is gone is gone.
  set.update("a.yaml", "");
  CHECK(in_force(set).empty());
}

TEST_CASE("a document whose name cannot be read takes no other away") {
  ConfigSet set;
  set.update("a.yaml", service("x", on("10.9.0.1")) + service("y", on("10.9.0.2")));
  set.update("a.yaml", "kind: Service\nmetadata: {nme: x}\n" + service("y", on("10.9.0.3")));
  CHECK(in_force(set) == Names{"x=10.9.0.1", "y=10.9.0.3"});
}

TEST_CASE("an unreadable or too large file keeps its last good version") {
  ConfigSet set;
  set.update("a.yaml", service("x", on("10.9.0.1")));
  set.update_failed("a.yaml", "a.yaml is larger than the 1048576 bytes allowed");
  CHECK(in_force(set) == Names{"x=10.9.0.1"});
  REQUIRE(set.rejected().size() == 1);
  CHECK(set.rejected()[0].origin.line == 0);
  CHECK_THAT(set.rejected()[0].text(), Catch::StartsWith("a.yaml: a.yaml is larger"));
}

TEST_CASE("a removed file takes its resources and its last good versions with it") {
  ConfigSet set;
  set.update("a.yaml", service("x", on("10.9.0.1")));
  set.remove("a.yaml");
  CHECK(in_force(set).empty());
  set.update("a.yaml", service("x", "surprise: 1"));
  CHECK(in_force(set).empty());
  set.remove("never.yaml");
}

TEST_CASE("of two files that differ on a resource the first path wins") {
  ConfigSet set;
  set.update("b.yaml", service("x", on("10.9.0.2")));
  set.update("a.yaml", service("x", on("10.9.0.1")));
  CHECK(in_force(set) == Names{"x=10.9.0.1"});
  REQUIRE(set.rejected().size() == 1);
  CHECK(set.rejected()[0].origin.text() == "b.yaml:2:1");
  CHECK_THAT(set.rejected()[0].message, Catch::Contains("differently at a.yaml:2:1"));
  set.remove("a.yaml");
  CHECK(in_force(set) == Names{"x=10.9.0.2"});
  CHECK(set.rejected().empty());
}

TEST_CASE("the same content twice is one resource") {
  ConfigSet set;
  set.update("a.yaml", service("x", on("10.9.0.1")) + service("x", on("10.9.0.1")));
  set.update("b.yaml", "\n\n" + service("x", "ports: [], " + on("10.9.0.1")));
  CHECK(in_force(set) == Names{"x=10.9.0.1"});
  CHECK(set.rejected().empty());
}

TEST_CASE("the same name twice in one file with different content is refused") {
  ConfigSet set;
  set.update("a.yaml", service("x", on("10.9.0.1")) + service("x", on("10.9.0.2")));
  CHECK(in_force(set) == Names{"x=10.9.0.1"});
  REQUIRE(set.rejected().size() == 1);
  CHECK(set.rejected()[0].origin.line == 7);
}

TEST_CASE("a host has one Node") {
  ConfigSet set;
  set.update("a.yaml", node("a"));
  set.update("b.yaml", node("a"));
  CHECK(set.rejected().empty());
  set.update("b.yaml", node("b"));
  CHECK(in_force(set) == Names{"a=-"});
  REQUIRE(set.rejected().size() == 1);
  CHECK_THAT(set.rejected()[0].message, Catch::Contains("a Node already, at a.yaml:2:1"));
}

TEST_CASE("the last good versions survive a restart, of files that still exist") {
  ConfigSet before;
  before.update("a.yaml", service("x", on("10.9.0.1")) + service("y", on("10.9.0.2")));
  before.update("b.yaml", service("z", on("10.9.0.3")));
  before.update("c.yaml", service("w", on("10.9.0.4")));
  before.update("a.yaml", service("x", "surprise: 1") + service("y", on("10.9.0.5")));

  ConfigSet after;
  REQUIRE(after.restore(before.save()));
  CHECK(in_force(after).empty());
  after.update("a.yaml", service("x", "surprise: 1") + service("y", on("10.9.0.5")));
  after.update("b.yaml", "a: [");
  after.end_restore();
  CHECK(in_force(after) == Names{"x=10.9.0.1", "y=10.9.0.5", "z=10.9.0.3"});
  CHECK(after.rejected().size() == 2);
  after.update("c.yaml", "a: [");
  CHECK(in_force(after) == Names{"x=10.9.0.1", "y=10.9.0.5", "z=10.9.0.3"});

  // And once more, with what stands in no file any more.
  ConfigSet again;
  REQUIRE(again.restore(after.save()));
  again.update_failed("a.yaml", "permission denied");
  CHECK(in_force(again) == Names{"x=10.9.0.1", "y=10.9.0.5"});
  CHECK(again.accepted()[0]->origin.text() == "a.yaml:2:1");
}

TEST_CASE("what was last good can be adopted while no file can be seen") {
  ConfigSet before;
  before.update("a.yaml", service("x", on("10.9.0.1")));
  before.update("b.yaml", service("z", on("10.9.0.3")));
  before.update("c.yaml", service("w", on("10.9.0.4")));

  ConfigSet after;
  REQUIRE(after.restore(before.save()));
  after.update("c.yaml", service("w", on("10.9.0.5")));
  CHECK(after.adopt_saved() == Names{"a.yaml", "b.yaml"});
  CHECK(in_force(after) == Names{"w=10.9.0.5", "x=10.9.0.1", "z=10.9.0.3"});
  CHECK(after.rejected().empty());
  CHECK(after.adopt_saved().empty());
  // From here on they are files like any others.
  after.update("a.yaml", "a: [");
  after.remove("b.yaml");
  after.end_restore();
  CHECK(in_force(after) == Names{"w=10.9.0.5", "x=10.9.0.1"});
  CHECK(after.rejected().size() == 1);
}

TEST_CASE("a damaged save is refused whole") {
  ConfigSet full;
  full.update("a.yaml", service("x", on("10.9.0.1")));
  const std::string saved = full.save();
  for (std::size_t size = 0; size < saved.size(); ++size) {
    ConfigSet set;
    CHECK_FALSE(set.restore(saved.substr(0, size)));
    set.update_failed("a.yaml", "x");
    CHECK(set.accepted().empty());
  }
  for (const char* text : {"{}", "[]", "null", "{\"version\":2,\"files\":[]}",
                           "{\"version\":1,\"files\":[1]}", "{\"version\":1,\"files\":{\"a\":1}}",
                           "{\"version\":1,\"files\":[{\"path\":1,\"documents\":[]}]}",
                           "{\"version\":\"1\",\"files\":[]}"}) {
    CAPTURE(text);
    ConfigSet set;
    CHECK_FALSE(set.restore(text));
  }
}

TEST_CASE("100,000 resources are taken, one more is left out by name") {
  std::vector<std::string> files;
  for (std::size_t file = 0; file < 10; ++file) {
    std::string text;
    for (std::size_t i = 0; i < 10'000; ++i) {
      text += "--- {apiVersion: v1, kind: Service, metadata: {name: s" +
              std::to_string(file * 10'000 + i) + "}}\n";
    }
    files.push_back(std::move(text));
  }
  ConfigSet set;
  for (std::size_t i = 0; i < files.size(); ++i) set.update("f" + std::to_string(i), files[i]);
  CHECK(set.accepted().size() == ConfigSet::kMaxResources);
  CHECK(set.rejected().empty());
  set.update("g", service("one-more", ""));
  CHECK(set.accepted().size() == ConfigSet::kMaxResources);
  REQUIRE(set.rejected().size() == 1);
  CHECK_THAT(set.rejected()[0].message, Catch::Contains("more than 100000 resources"));
}

TEST_CASE("a file's rejections are bounded") {
  std::string text;
  for (int i = 0; i < 10'000; ++i) text += "--- {}\n";
  ConfigSet set;
  set.update("a.yaml", text);
  CHECK(set.rejected().size() == ConfigSet::kMaxRejectionsPerFile);
}

TEST_CASE("in any order of updates, what is in force depends on the files alone") {
  REQUIRE(rc::check([](const std::vector<std::pair<int, int>>& steps) {
    ConfigSet stepwise;
    std::map<std::string, std::string> present;
    for (const auto& step : steps) {
      const std::string path = "f" + std::to_string(std::abs(step.first % 4));
      const int version = std::abs(step.second % 5);
      if (version == 0) {
        present.erase(path);
        stepwise.remove(path);
      } else {
        present[path] = service("s" + std::to_string(std::abs(step.second % 3)),
                                on("10.9.0." + std::to_string(version)));
        stepwise.update(path, present[path]);
      }
    }
    ConfigSet fresh;
    for (const auto& file : present) fresh.update(file.first, file.second);
    RC_ASSERT(in_force(stepwise) == in_force(fresh));
    RC_ASSERT(stepwise.rejected().size() == fresh.rejected().size());
  }));
}
