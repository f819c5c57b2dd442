#pragma once
/// Callers that have left the configuration. Who is known changes at once, the rules some tenths of
/// a second later: what they lead here meanwhile goes on as the caller it was, or an ordinary
/// reload would reset connections. (A network namespace that is let go is closed at once.)
/// Thread: the worker's main.

#include <meshnode/time.h>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include "snapshot/snapshot.h"

namespace meshnode::agent {

/// Rules that could not be changed for longer lead to a refusal.
inline constexpr Duration kDeparting = std::chrono::seconds(5);

class Departing {
 public:
  /// `after` is about to follow `before`.
  void compare(const snapshot::Snapshot& before, const snapshot::Snapshot& after, Instant now) {
    for (const auto& workload : before.workloads) {
      const auto found = after.by_slot.find(workload->slot);
      const bool stays = found != after.by_slot.end() && found->second->id == workload->id &&
                         found->second->space == workload->space;
      if (workload->slot != 0 && !stays) {
        all_.insert_or_assign({workload->slot, workload->space}, Left{workload, now + kDeparting});
      }
    }
  }
  /// Whether any has been long gone, and is forgotten: the snapshot still has it.
  bool forget(Instant now) {
    return std::erase_if(all_, [&](const auto& entry) { return entry.second.until <= now; }) > 0;
  }
  /// For Snapshot::departed.
  snapshot::Departed all() const {
    snapshot::Departed found;
    for (const auto& [place, left] : all_) {
      found.emplace(place, left.workload);
    }
    return found;
  }

 private:
  struct Left {
    std::shared_ptr<const snapshot::LocalWorkload> workload;
    Instant until;
  };
  std::map<snapshot::Departed::key_type, Left> all_;
};

}  // namespace meshnode::agent
