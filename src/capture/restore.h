#pragma once
/// From what is there (iptables-save) to what is wanted: the text for iptables-restore --noflush
/// and the list of differences. Pure. Only chains named MESHNODE_* and jumps into them are ever
/// touched; every other rule keeps its text and its order.

#include <string>
#include <string_view>
#include <vector>

#include "capture/save.h"

namespace meshnode::capture {

struct OwnChain {
  std::string name;
  std::vector<std::string> rules;  ///< without "-A NAME "
  bool operator==(const OwnChain&) const = default;
};

/// A rule in a chain that is not ours which leads into one that is.
struct Jump {
  std::string chain;
  std::string rule;
  /// Before every foreign rule, in the order of the Jumps; else anywhere, appended when missing.
  bool first = true;
  bool operator==(const Jump&) const = default;
};

struct OwnTable {
  std::string name;
  std::vector<OwnChain> chains;
  std::vector<Jump> jumps;
  bool operator==(const OwnTable&) const = default;
};

/// In the order in which the tables are to be written.
using Ruleset = std::vector<OwnTable>;

/// The text that turns `current` into `wanted`, table by table: each table changes in one commit,
/// our chains are emptied and refilled within it and jumps move only when they are not where they
/// belong, so there is no moment without rules. Empty when nothing differs, unless `again`: then
/// our chains are refilled all the same, which binds cgroup paths anew. Tables of ours that
/// `wanted` does not have are emptied first.
std::string restore_text(const Saved& current, const Ruleset& wanted, bool again = false);

/// What differs, a line each, for people; empty when `current` is as `wanted`.
std::vector<std::string> differences(const Saved& current, const Ruleset& wanted);

/// Our part of `saved`; restoring it later undoes everything since.
Ruleset own_part(const Saved& saved);

/// `wanted` in the words of `saved`, which was read right after restoring it: versions of iptables
/// may print a rule otherwise than we write it. kInternal when `saved` does not have the same
/// chains with the same number of rules and the same jumps.
Result<Ruleset> adopt(const Saved& saved, const Ruleset& wanted);

}  // namespace meshnode::capture
