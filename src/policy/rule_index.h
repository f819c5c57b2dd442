#pragma once
/// Many rules, of which few can match: each is filed under the rarest of what it demands (an
/// identity, a namespace, a block of addresses, a port, ...), and only those filed under what a
/// connection has are looked at. A rule that demands nothing positive is always looked at.
/// Immutable. Thread: pure.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>
#include "policy/rule.h"

namespace meshnode::policy {

/// What one rule demands: alternatives, at least one of which a match has. As hashes: two that
/// collide only cost a look.
using Demand = std::vector<std::uint64_t>;

class RuleIndex {
 public:
  /// In the order in which they decide.
  explicit RuleIndex(std::vector<CompiledRule> rules);

  bool empty() const { return rules_.empty(); }
  /// The first that matches.
  const CompiledRule* first(const Facts& facts) const;
  /// The first of each policy that matches, in order.
  std::vector<const CompiledRule*> first_of_each(const Facts& facts) const;

 private:
  /// Which texts are filed: all of them, or beginnings and ends of these lengths.
  struct Lengths {
    bool exact = false;
    bool present = false;
    std::vector<std::size_t> prefixes;
    std::vector<std::size_t> suffixes;
  };
  static constexpr std::size_t kTexts = 5;
  static constexpr std::size_t kBlocks = 3;
  struct Filing;

  void file(std::size_t rule, const Demand& demand);
  template <class Each>
  void candidates(const Facts& facts, const Each& each) const;
  template <class Each>
  void text_keys(std::size_t dimension, std::string_view text, const Each& each) const;

  std::vector<CompiledRule> rules_;
  std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> filed_;  // ascending
  std::vector<std::uint32_t> always_;
  std::array<Lengths, kTexts> texts_;
  std::array<std::vector<std::pair<Family, unsigned>>, kBlocks> blocks_;
  bool ports_ = false;
};

}  // namespace meshnode::policy
