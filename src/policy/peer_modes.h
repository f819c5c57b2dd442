#pragma once
/// PeerAuthentication for one workload: port over workload over namespace over mesh; what says
/// UNSET inherits, and in the end it is PERMISSIVE (Istio's PeerAuthentication). Several at one
/// level: the strictest holds, so that no order of files decides and none that is added weakens
/// (docs/decisions/0018). Thread: values, pure.

#include <cstdint>
#include <map>
#include <vector>
#include "policy/policies.h"

namespace meshnode::policy {

/// One PeerAuthentication that binds a workload.
struct BoundMode {
  const model::Resource* resource = nullptr;
  const model::PeerAuthenticationSpec* spec = nullptr;
};

class PeerModes {
 public:
  /// From the most specific level: those that select the workload, its namespace's, the mesh's.
  explicit PeerModes(const std::vector<std::vector<BoundMode>>& levels);
  const EffectiveMode& mode(std::uint16_t port) const;

 private:
  EffectiveMode all_;
  std::map<std::uint16_t, EffectiveMode> by_port_;  // those that any names
};

}  // namespace meshnode::policy
