#include "cli/arguments.h"

#include <catch2/catch.hpp>

using namespace meshnode;
using namespace meshnode::cli;

namespace {

Invocation understood(std::vector<std::string> arguments) {
  const auto parsed = parse_arguments(std::move(arguments));
  INFO(parsed.err);
  REQUIRE(parsed.invocation);
  return *parsed.invocation;
}

std::string refused(std::vector<std::string> arguments) {
  const auto parsed = parse_arguments(std::move(arguments));
  REQUIRE_FALSE(parsed.invocation);
  CHECK(parsed.exit_code == 2);
  CHECK(parsed.out.empty());
  CHECK(parsed.err.starts_with("meshnode: usage: "));
  CHECK(parsed.err.ends_with("\n"));
  return parsed.err;
}

std::string help(std::vector<std::string> arguments) {
  const auto parsed = parse_arguments(std::move(arguments));
  CHECK_FALSE(parsed.invocation);
  CHECK(parsed.exit_code == 0);
  CHECK(parsed.err.empty());
  return parsed.out;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("directories have the contract's defaults and can be named for every command") {
  const auto plain = understood({"agent"});
  CHECK(plain.command == Command::kAgent);
  CHECK(plain.config_dir == "/etc/meshnode");
  CHECK(plain.state_dir == "/var/lib/meshnode");
  CHECK(plain.run_dir == "/run/meshnode");
  const std::vector<std::vector<std::string>> all = {
      {"agent"},
      {"worker"},
      {"status"},
      {"validate", "x.yaml"},
      {"capture", "show"},
      {"capture", "remove"},
      {"ca", "init", "d", "--trust-domain", "t"},
      {"ca", "issue", "d", "--namespace", "n", "--service-account", "s", "--out", "o"},
      {"version"}};
  for (auto arguments : all) {
    for (const char* more : {"--config-dir", "/c", "--state-dir=/s", "--run-dir", "/r"}) {
      arguments.emplace_back(more);
    }
    const auto asked = understood(arguments);
    CHECK(asked.config_dir == "/c");
    CHECK(asked.state_dir == "/s");
    CHECK(asked.run_dir == "/r");
  }
}

TEST_CASE("status prints text unless json is asked for") {
  CHECK(understood({"status"}).output == Output::kText);
  CHECK(understood({"status", "-o", "json"}).output == Output::kJson);
  CHECK(understood({"status", "-o", "text"}).output == Output::kText);
  CHECK(has(refused({"status", "-o", "yaml"}), "\"yaml\" is not text or json"));
}

TEST_CASE("validate takes any number of files and at least one") {
  CHECK(understood({"validate", "a.yaml", "b.yaml"}).files ==
        std::vector<std::string>{"a.yaml", "b.yaml"});
  CHECK(has(refused({"validate"}), "FILE is required; see `meshnode validate --help`"));
}

TEST_CASE("lifetimes have defaults, units and bounds") {
  using std::chrono::hours;
  const std::vector<std::string> init = {"ca", "init", "d", "--trust-domain", "t"};
  CHECK(understood(init).lifetime == hours(87'600));
  CHECK(understood(init).ca_dir == "d");
  const std::vector<std::string> issue = {
      "ca", "issue", "d", "--namespace", "n", "--service-account", "s", "--out", "o"};
  CHECK(understood(issue).lifetime == hours(24));
  auto longer = issue;
  longer.insert(longer.end(), {"--ttl", "48h"});
  CHECK(understood(longer).lifetime == hours(48));
  for (const char* bad : {"59s", "876001h", "soon", "-1h", ""}) {
    auto with = issue;
    with.insert(with.end(), {"--ttl", bad});
    CHECK(has(refused(with), "see `meshnode ca issue --help`"));
  }
  for (const char* at_bound : {"1m", "876000h"}) {
    auto with = issue;
    with.insert(with.end(), {"--ttl", at_bound});
    CHECK(understood(with).command == Command::kCaIssue);
  }
}

TEST_CASE("what cannot be understood is named, with the help that explains it") {
  CHECK(refused({}) == "meshnode: usage: a command is missing; see `meshnode --help`\n");
  CHECK(refused({"sing"}) == "meshnode: usage: \"sing\" is not a command; see `meshnode --help`\n");
  CHECK(has(refused({"capture", "sing"}), "see `meshnode capture --help`"));
  CHECK(has(refused({"status", "--loud"}), "--loud"));
  CHECK(has(refused({"ca", "init", "d"}), "--trust-domain is required"));
  CHECK(has(refused({"sing\x1b[31m\n"}), "\\x1b"));
}

TEST_CASE("help names every public command and not the worker") {
  const auto text = help({"--help"});
  for (const char* command : {"agent", "status", "validate", "capture", "ca", "version"}) {
    CHECK(has(text, std::string("\n  ") + command));
  }
  CHECK_FALSE(has(text, "worker"));
  CHECK(has(help({"ca", "issue", "--help"}), "Usage: meshnode ca issue "));
  CHECK(has(help({"status", "-h"}), "Exits 1 when the node is degraded"));
  CHECK(has(help({"agent", "--help"}), "SIGTERM"));
}
