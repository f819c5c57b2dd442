#pragma once
/// What iptables-save prints, as values, and which part of it is ours: chains named MESHNODE_* and
/// the rules of other chains that jump into them. Pure; every value is free to move between
/// threads. Format: iptables-save(8), the same from the nft and the legacy programs.

#include <meshnode/result.h>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace meshnode::capture {

inline constexpr std::string_view kChainPrefix = "MESHNODE_";
inline constexpr std::size_t kMaxSaveBytes = std::size_t{16} << 20;
inline constexpr std::size_t kMaxSaveLine = 16384;
inline constexpr std::size_t kMaxSaveRules = 262'144;
inline constexpr std::size_t kMaxSaveChains = 65'536;

struct Rule {
  std::string text;           ///< everything after "-A CHAIN ", as printed
  std::uint64_t packets = 0;  ///< only with iptables-save -c
  bool operator==(const Rule&) const = default;
};

struct Chain {
  std::string name;
  std::vector<Rule> rules;
  bool operator==(const Chain&) const = default;
};

struct Table {
  std::string name;
  std::vector<Chain> chains;  ///< in the order printed
  const Chain* find(std::string_view chain) const;
  bool operator==(const Table&) const = default;
};

struct Saved {
  std::vector<Table> tables;
  /// The other iptables backend (legacy beside nft, or the reverse) holds tables too.
  bool other_backend = false;
  const Table* find(std::string_view table) const;
  bool operator==(const Saved&) const = default;
};

/// kInvalid with the line number for anything that iptables-save does not print; kLimit beyond the
/// bounds above.
Result<Saved> parse_save(std::string_view text);

/// Target of -j or -g; empty for a rule that only counts. Quoted text is skipped.
std::string target_of(std::string_view rule);
/// The first --comment, unescaped; empty without one.
std::string comment_of(std::string_view rule);
inline bool is_ours(std::string_view chain) { return chain.starts_with(kChainPrefix); }
/// Whether -j or -g of the rule names a chain of ours.
bool jumps_to_ours(std::string_view rule);

/// A workload that a rule of ours steers, and the slot that it steers it to.
struct Steered {
  std::string workload;  ///< "namespace/name"
  std::uint16_t slot = 0;
  bool operator==(const Steered&) const = default;
};
/// Whom our rules in `saved` steer where, in the order printed, at most kMaxWorkloads.
std::vector<Steered> steered(const Saved& saved);

/// HostFacts::agent of the rules in `saved`; empty for those of an agent's own network namespace.
std::string agent_of(const Saved& saved);

/// Our part of `saved`, in iptables-save's own form, for people.
std::string show_ours(const Saved& saved);

}  // namespace meshnode::capture
