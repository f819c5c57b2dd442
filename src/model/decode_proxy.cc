#include "model/decode_kinds.h"

namespace meshnode::model {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr std::int64_t kMostThreads = 256;
// A far agent answers its caller within this and a little: longer, and a dead host holds a program
// for minutes.
constexpr Duration kLongestConnect = minutes(1);
constexpr Duration kLongestHalfClosed = hours(24);
constexpr Duration kLongestIdle = hours(24);
// The supervisor takes no more either (supervisor/message.h).
constexpr Duration kLongestDrain = minutes(10);
constexpr std::int64_t kMostTunnels = 1'000'000;
constexpr std::uint64_t kLeastMemory = std::uint64_t{64} << 20U;
constexpr std::uint64_t kMostMemory = std::uint64_t{64} << 40U;

}  // namespace

void decode_proxy(NodeSpec& node, Fields& spec, Diagnostics& out) {
  const Value* value = spec.map("proxy");
  if (value == nullptr) return;
  Fields proxy(*value, "spec.proxy", out);
  ProxyLimits& limits = node.proxy_limits;
  node.proxy_threads = static_cast<unsigned>(proxy.integer("threads", 0, kMostThreads).value_or(0));
  const auto take = [&proxy](const char* key, Duration& into, Duration low, Duration high) {
    into = proxy.duration(key, low, high).value_or(into);
  };
  take("connectTimeout", limits.connect_timeout, milliseconds(100), kLongestConnect);
  take("halfClosedTimeout", limits.half_closed_timeout, seconds(1), kLongestHalfClosed);
  take("idleTunnelTimeout", limits.idle_tunnel_timeout, seconds(1), kLongestIdle);
  take("drainTimeout", limits.drain_timeout, Duration::zero(), kLongestDrain);
  limits.max_tunnels_per_peer = static_cast<std::uint32_t>(
      proxy.integer("maxTunnelsPerPeer", 1, kMostTunnels).value_or(limits.max_tunnels_per_peer));
  limits.max_memory =
      proxy.octets("maxMemory", kLeastMemory, kMostMemory).value_or(limits.max_memory);
  proxy.finish();
}

}  // namespace meshnode::model
