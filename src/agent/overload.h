#pragma once
/// When a node has too much to do: from what is used of memory and of the kernel's connection table
/// to what is refused, cut and said. Pure.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "agent/reports.h"
#include "proxy/load.h"

namespace meshnode::agent {

/// A limit of 0 is not known, and never reached.
struct LoadReading {
  std::uint64_t memory_used = 0;  ///< octets of this process that nothing else shares
  std::uint64_t memory_limit = 0;
  std::uint64_t conntrack_used = 0;  ///< entries
  std::uint64_t conntrack_limit = 0;
  bool operator==(const LoadReading&) const = default;
};

/// Per cent of the limit. Between the two of a pair it stays as it was, so that what is shed makes
/// room before more comes in.
struct Hysteresis {
  unsigned begins;
  unsigned ends;
};
inline constexpr Hysteresis kShedMemory{90, 75};
inline constexpr Hysteresis kTellConntrack{90, 85};
inline constexpr Hysteresis kShedConntrack{95, 90};
/// At the limit itself connections are cut that keep much, until this much is used.
inline constexpr unsigned kCutMemoryTo = 85;
/// So many looks in a row at memory that is shed, and connections are cut until it would no longer
/// be: who keeps a little less than the limit must not have everybody refused for ever.
inline constexpr unsigned kPatience = 50;

/// What the connections of each loop keep in memory, of those that keep much.
using Holdings = std::vector<std::vector<std::size_t>>;

std::uint64_t total_of(const Holdings& holdings);

/// How much each loop is to free, so that in all those go that keep the most, whosever loop they
/// are on.
std::vector<std::size_t> share_out(const Holdings& holdings, std::uint64_t octets);

class Overload {
 public:
  struct Verdict {
    proxy::Shed shed = proxy::Shed::kNothing;
    std::uint64_t cut = 0;  ///< octets to free by cutting connections
    bool changed = false;   ///< the conditions have begun or ended
  };
  /// Memory that only looks used, as it was not given back, is not to be shown.
  Verdict look(const LoadReading& now);
  /// Whether memory would be shed at the next look().
  bool short_of_memory(const LoadReading& now) const;
  /// What holds since the last look: of code limit-reached.
  const std::vector<Reports::Condition>& conditions() const { return conditions_; }

 private:
  bool memory_ = false;
  unsigned looks_ = 0;  // since memory is shed, or was cut for having been so long
  bool conntrack_told_ = false;
  bool conntrack_ = false;
  std::vector<Reports::Condition> conditions_;
};

}  // namespace meshnode::agent
