#include "capture/restore.h"

#include <catch2/catch.hpp>

using namespace meshnode;
using namespace meshnode::capture;

namespace {

const Ruleset kWanted = {{"filter",
                          {{"MESHNODE_INPUT", {"-j RETURN"}}, {"MESHNODE_B", {"-j DROP"}}},
                          {{"INPUT", "-j MESHNODE_INPUT", true},
                           {"INPUT", "-j MESHNODE_B", true},
                           {"FORWARD", "-j MESHNODE_B", false}}}};

Saved there(const std::string& chains_and_rules) {
  auto parsed = parse_save("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n" +
                           chains_and_rules + "COMMIT\n");
  REQUIRE(parsed);
  return *parsed;
}

const std::string kChains = ":MESHNODE_INPUT - [0:0]\n:MESHNODE_B - [0:0]\n";
const std::string kJumps =
    "-A INPUT -j MESHNODE_INPUT\n-A INPUT -j MESHNODE_B\n-A FORWARD -j MESHNODE_B\n";
const std::string kRules = "-A MESHNODE_INPUT -j RETURN\n-A MESHNODE_B -j DROP\n";

}  // namespace

TEST_CASE("where nothing is, chains come before the jumps to them") {
  CHECK(restore_text(there("-A INPUT -i lo -j ACCEPT\n"), kWanted) ==
        "*filter\n:MESHNODE_INPUT - [0:0]\n:MESHNODE_B - [0:0]\n"
        "-A MESHNODE_INPUT -j RETURN\n-A MESHNODE_B -j DROP\n"
        "-I INPUT 1 -j MESHNODE_B\n-I INPUT 1 -j MESHNODE_INPUT\n"
        "-A FORWARD -j MESHNODE_B\nCOMMIT\n");
}

TEST_CASE("what is as wanted is not written") {
  const Saved all = there(kChains + kJumps + "-A INPUT -i lo -j ACCEPT\n" + kRules);
  CHECK(restore_text(all, kWanted).empty());
  CHECK(differences(all, kWanted).empty());
  CHECK(restore_text(all, kWanted, true) ==
        "*filter\n:MESHNODE_INPUT - [0:0]\n:MESHNODE_B - [0:0]\n" + kRules + "COMMIT\n");
}

TEST_CASE("only the chain that differs is refilled") {
  const Saved one = there(kChains + kJumps + "-A MESHNODE_INPUT -j RETURN\n");
  CHECK(differences(one, kWanted) == std::vector<std::string>{"filter MESHNODE_B: rules differ"});
  CHECK(restore_text(one, kWanted) ==
        "*filter\n:MESHNODE_B - [0:0]\n-A MESHNODE_B -j DROP\nCOMMIT\n");
}

TEST_CASE("jumps that are behind, doubled or in another chain are put right, and no other rule") {
  const Saved behind = there(kChains +
                             "-A INPUT -i lo -j ACCEPT\n-A INPUT -j MESHNODE_INPUT\n"
                             "-A INPUT -j MESHNODE_B\n-A FORWARD -j MESHNODE_B\n" +
                             kRules);
  CHECK(restore_text(behind, kWanted) ==
        "*filter\n-D INPUT -j MESHNODE_INPUT\n-D INPUT -j MESHNODE_B\n"
        "-I INPUT 1 -j MESHNODE_B\n-I INPUT 1 -j MESHNODE_INPUT\nCOMMIT\n");
  const Saved doubled = there(kChains + kJumps + "-A FORWARD -p tcp -g MESHNODE_B\n" + kRules);
  CHECK(restore_text(doubled, kWanted) ==
        "*filter\n-D FORWARD -j MESHNODE_B\n-D FORWARD -p tcp -g MESHNODE_B\n"
        "-A FORWARD -j MESHNODE_B\nCOMMIT\n");
  const Saved stray =
      there(":OTHER - [0:0]\n" + kChains + kJumps + "-A OTHER -j MESHNODE_B\n" + kRules);
  CHECK(restore_text(stray, kWanted) == "*filter\n-D OTHER -j MESHNODE_B\nCOMMIT\n");
}

TEST_CASE("a jump that may be anywhere stays where it is") {
  const Saved last = there(kChains + "-A INPUT -j MESHNODE_INPUT\n-A INPUT -j MESHNODE_B\n" +
                           "-A FORWARD -j ACCEPT\n-A FORWARD -j MESHNODE_B\n" + kRules);
  CHECK(restore_text(last, kWanted).empty());
}

TEST_CASE("chains of ours that are not wanted go, after everything that leads to them") {
  const Saved old = there(kChains + ":MESHNODE_OLD - [0:0]\n" + kJumps +
                          "-A MESHNODE_OLD -j MESHNODE_B\n" + kRules);
  CHECK(restore_text(old, kWanted) == "*filter\n:MESHNODE_OLD - [0:0]\n-X MESHNODE_OLD\nCOMMIT\n");
  CHECK(restore_text(old, {}) ==
        "*filter\n:MESHNODE_INPUT - [0:0]\n:MESHNODE_B - [0:0]\n:MESHNODE_OLD - [0:0]\n"
        "-D INPUT -j MESHNODE_INPUT\n-D INPUT -j MESHNODE_B\n-D FORWARD -j MESHNODE_B\n"
        "-X MESHNODE_INPUT\n-X MESHNODE_B\n-X MESHNODE_OLD\nCOMMIT\n");
}

TEST_CASE("when everything goes, the backstops go before the steering") {
  auto saved =
      parse_save("*nat\n:MESHNODE_A - [0:0]\nCOMMIT\n*filter\n:MESHNODE_A - [0:0]\nCOMMIT\n");
  REQUIRE(saved);
  const std::string text = restore_text(*saved, {});
  CHECK(text.find("*filter") < text.find("*nat"));
  CHECK(differences(*saved, {}).size() == 2);
}

TEST_CASE("rules printed in other words are adopted, missing ones are not") {
  const Saved other = there(kChains +
                            "-A INPUT -p all -j MESHNODE_INPUT\n-A INPUT -j MESHNODE_B\n"
                            "-A FORWARD -j MESHNODE_B\n"
                            "-A MESHNODE_INPUT -m x -j RETURN\n-A MESHNODE_B -j DROP\n");
  auto adopted = adopt(other, kWanted);
  REQUIRE(adopted);
  CHECK(differences(other, *adopted).empty());
  CHECK_FALSE(adopt(there(kChains + kJumps + "-A MESHNODE_B -j DROP\n"), kWanted));
  CHECK_FALSE(adopt(there(kChains + kRules), kWanted));
  CHECK_FALSE(adopt(there(""), kWanted));
  const Saved behind = there(kChains + "-A INPUT -i lo -j ACCEPT\n" + kJumps + kRules);
  CHECK_FALSE(adopt(behind, kWanted));
}
