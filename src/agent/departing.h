#pragma once
/// Callers that have left the configuration. Who is known changes at once, the rules some tenths of
/// a second later: what they lead here meanwhile goes on as the caller it was, or an ordinary
/// reload would reset connections. Thread: the worker's main.

#include <meshnode/time.h>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include "snapshot/build.h"
#include "snapshot/slots.h"
#include "snapshot/snapshot.h"

namespace meshnode::agent {

/// Rules that could not be changed for longer lead to a refusal.
inline constexpr Duration kDeparting = std::chrono::seconds(5);

class Departing {
 public:
  /// `before` is about to be followed by a snapshot with `slots`.
  void compare(const snapshot::Snapshot& before, const snapshot::SlotTable& slots, Instant now) {
    for (const auto& workload : before.workloads) {
      if (workload->slot != 0 && slots.slot(workload->id) != workload->slot) {
        all_.try_emplace(workload->slot, Left{workload, now + kDeparting});
      }
    }
  }
  /// Whether any has been long gone, and is forgotten: the snapshot still has it.
  bool forget(Instant now) {
    return std::erase_if(all_, [&](const auto& entry) { return entry.second.until <= now; }) > 0;
  }
  snapshot::Departed all() const {
    snapshot::Departed found;
    for (const auto& [slot, left] : all_) {
      found.push_back(left.workload);
    }
    return found;
  }

 private:
  struct Left {
    std::shared_ptr<const snapshot::LocalWorkload> workload;
    Instant until;
  };
  std::map<std::uint16_t, Left> all_;
};

}  // namespace meshnode::agent
