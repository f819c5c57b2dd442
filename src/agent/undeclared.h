#pragma once
/// Ports of the agent's own network namespace that a workload's programs listen at and no Workload
/// declares: what comes in there is neither captured nor encrypted (contract: undeclared-listener).
/// Of the others the supervisor tells (supervisor/spaces.h).

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "capture/spec.h"
#include "io/listening.h"

namespace meshnode::agent {

/// Which cgroups lie within those that a spec enrolls. Kept, because a tree is dear to walk and
/// only a cgroup not seen before can change the answer.
class CgroupOwners {
 public:
  using Trees = std::map<std::string, std::set<std::uint64_t>>;  ///< inodes by enrolled path
  CgroupOwners() = default;
  explicit CgroupOwners(Trees trees) : trees_(std::move(trees)) {}

  /// Walks the enrolled trees when `spec` enrolls others, or a socket lies in a cgroup not seen
  /// since.
  void refresh(const capture::Spec& spec, const std::vector<io::ListeningSocket>& sockets);
  bool contains(const std::string& path, std::uint64_t cgroup) const;

 private:
  Trees trees_;
  std::set<std::uint64_t> seen_;
};

/// Of each workload that has such listeners the addresses, for people (capture/undeclared.h).
std::map<std::string, std::string> undeclared_listeners(
    const capture::Spec& spec, const std::vector<io::ListeningSocket>& sockets,
    const CgroupOwners& cgroups);

}  // namespace meshnode::agent
