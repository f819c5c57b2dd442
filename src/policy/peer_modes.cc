#include "policy/peer_modes.h"

#include <optional>
#include <set>

namespace meshnode::policy {
namespace {

using model::PeerMode;

EffectiveMode effective(const BoundMode& bound, PeerMode mode, bool port_level) {
  const model::Resource& resource = *bound.resource;
  return {mode,
          {resource.metadata.ns, resource.metadata.name, resource.origin.file,
           resource.origin.line, port_level}};
}

/// What one says; nothing when it leaves it to the level above.
std::optional<EffectiveMode> said(const BoundMode& bound, std::optional<std::uint16_t> port) {
  const auto own = port ? bound.spec->by_port.find(*port) : bound.spec->by_port.end();
  if (own != bound.spec->by_port.end() && own->second != PeerMode::kUnset) {
    return effective(bound, own->second, true);
  }
  if (bound.spec->mode == PeerMode::kUnset) return {};
  return effective(bound, bound.spec->mode, false);
}

EffectiveMode find(const std::vector<std::vector<BoundMode>>& levels,
                   std::optional<std::uint16_t> port) {
  for (const std::vector<BoundMode>& level : levels) {
    std::optional<EffectiveMode> best;
    for (const BoundMode& bound : level) {
      auto one = said(bound, port);
      if (one && (!best || (best->mode != PeerMode::kStrict && one->mode == PeerMode::kStrict))) {
        best = std::move(one);
      }
    }
    if (best) return *best;
  }
  return {};
}

}  // namespace

PeerModes::PeerModes(const std::vector<std::vector<BoundMode>>& levels)
    : all_(find(levels, std::nullopt)) {
  for (const std::vector<BoundMode>& level : levels) {
    for (const BoundMode& bound : level) {
      for (const auto& [port, mode] : bound.spec->by_port) {
        if (!by_port_.contains(port)) by_port_.emplace(port, find(levels, port));
      }
    }
  }
}

const EffectiveMode& PeerModes::mode(std::uint16_t port) const {
  const auto found = by_port_.find(port);
  return found == by_port_.end() ? all_ : found->second;
}

}  // namespace meshnode::policy
