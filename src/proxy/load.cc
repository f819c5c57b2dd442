#include "proxy/load.h"

namespace meshnode::proxy {

std::string_view Load::refusal(Shed now, telemetry::AgentMetrics& metrics, bool needs_entry) {
  if (now == Shed::kMemory) {
    metrics.hit(telemetry::Limit::kMemory).add();
    return "the agent's memory is nearly used up; see proxy.maxMemory";
  }
  if (!needs_entry) {
    return {};
  }
  metrics.hit(telemetry::Limit::kConntrack).add();
  return "the kernel's connection table is nearly full; see net.netfilter.nf_conntrack_max";
}

bool Load::add_tunnel(const IpAddress& peer, std::uint32_t most) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::uint32_t& count = tunnels_[peer];
  if (count >= most) {
    return false;  // never 0: then it would have been below
  }
  ++count;
  return true;
}

void Load::remove_tunnel(const IpAddress& peer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = tunnels_.find(peer);
  if (--found->second == 0) {
    tunnels_.erase(found);
  }
}

}  // namespace meshnode::proxy
