#include "agent/undeclared.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "capture/undeclared.h"

namespace meshnode::agent {
namespace {

bool owns(const capture::Enrolled& workload, const io::ListeningSocket& socket,
          const CgroupOwners& cgroups) {
  if (const auto* user = std::get_if<capture::ByUser>(&workload.owner)) {
    return user->uid == socket.uid;
  }
  if (const auto* at = std::get_if<capture::ByAddress>(&workload.owner)) {
    return at->address == socket.address.ip;
  }
  const auto* cgroup = std::get_if<capture::ByCgroup>(&workload.owner);
  return cgroup != nullptr && cgroups.contains(cgroup->path, socket.cgroup);
}

/// As the rules have it (capture/rules.h).
std::size_t specificity(const capture::Enrolled& workload) {
  if (std::holds_alternative<capture::ByAddress>(workload.owner)) return 1;
  const auto* cgroup = std::get_if<capture::ByCgroup>(&workload.owner);
  return cgroup == nullptr ? 2 : 3 + cgroup->path.size();
}

const capture::Enrolled* owner_of(const capture::Spec& spec, const io::ListeningSocket& socket,
                                  const CgroupOwners& cgroups) {
  const capture::Enrolled* best = nullptr;
  std::size_t longest = 0;
  for (const capture::Enrolled& workload : spec.workloads) {
    const std::size_t length = specificity(workload);
    if (length > longest && owns(workload, socket, cgroups)) {
      best = &workload;
      longest = length;
    }
  }
  return best;
}

}  // namespace

void CgroupOwners::refresh(const capture::Spec& spec,
                           const std::vector<io::ListeningSocket>& sockets) {
  std::set<std::string> paths;
  for (const capture::Enrolled& workload : spec.workloads) {
    if (const auto* cgroup = std::get_if<capture::ByCgroup>(&workload.owner)) {
      paths.insert(cgroup->path);
    }
  }
  std::set<std::uint64_t> present;
  for (const io::ListeningSocket& socket : sockets) {
    present.insert(socket.cgroup);
  }
  const bool same_paths =
      std::equal(paths.begin(), paths.end(), trees_.begin(), trees_.end(),
                 [](const auto& path, const auto& tree) { return path == tree.first; });
  if (same_paths && std::includes(seen_.begin(), seen_.end(), present.begin(), present.end())) {
    return;
  }
  seen_ = std::move(present);
  trees_.clear();
  for (const std::string& path : paths) {
    trees_[path] = io::cgroup_tree(path);
  }
}

bool CgroupOwners::contains(const std::string& path, std::uint64_t cgroup) const {
  const auto tree = trees_.find(path);
  return tree != trees_.end() && tree->second.contains(cgroup);
}

std::map<std::string, std::string> undeclared_listeners(
    const capture::Spec& spec, const std::vector<io::ListeningSocket>& sockets,
    const CgroupOwners& cgroups) {
  const capture::KnownPorts known(spec);
  std::map<std::string, std::set<SocketAddress>> found;
  for (const io::ListeningSocket& socket : sockets) {
    if (known.leave_out(socket.address)) {
      continue;
    }
    if (const capture::Enrolled* owner = owner_of(spec, socket, cgroups)) {
      found[owner->name].insert(socket.address);
    }
  }
  std::map<std::string, std::string> texts;
  for (const auto& [workload, addresses] : found) {
    texts[workload] = capture::in_words(addresses);
  }
  return texts;
}

}  // namespace meshnode::agent
