#pragma once
/// What the loops of a node share about its load: whether new work is refused, and how many tunnels
/// each peer has. Thread-safe.

#include <meshnode/address.h>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <unordered_map>

#include "telemetry/agent_metrics.h"

namespace meshnode::proxy {

/// What new work is refused now. The control loop decides it (agent/overload.h).
enum class Shed : std::uint8_t {
  kNothing,
  kConntrack,  ///< what would take a further entry of the kernel's connection table
  kMemory,     ///< every new connection, tunnel and request
};

class Load {
 public:
  void set_shed(Shed what) { shed_.store(what, std::memory_order_relaxed); }
  /// Why new work is refused, and counted as such; empty when it is welcome. `needs_entry`: it
  /// would take a further entry of the kernel's connection table.
  std::string_view refusal(telemetry::AgentMetrics& metrics, bool needs_entry) const {
    const Shed now = shed_.load(std::memory_order_relaxed);
    return now == Shed::kNothing ? std::string_view() : refusal(now, metrics, needs_entry);
  }

  /// Counts one more tunnel from `peer`, unless it has `most` already. IPv6 by the whole address
  /// too: a /64 is a whole LAN of hosts.
  bool add_tunnel(const IpAddress& peer, std::uint32_t most);
  void remove_tunnel(const IpAddress& peer);

 private:
  static std::string_view refusal(Shed now, telemetry::AgentMetrics& metrics, bool needs_entry);

  std::atomic<Shed> shed_{Shed::kNothing};
  std::mutex mutex_;
  std::unordered_map<IpAddress, std::uint32_t> tunnels_;  // guarded by mutex_; none with 0
};

}  // namespace meshnode::proxy
