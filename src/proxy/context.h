#pragma once
/// What everything on one proxy loop shares. Thread: the loop's, but for telemetry,
/// metrics and reports, which all loops share and are thread-safe.

#include <meshnode/clock.h>
#include <meshnode/executor.h>
#include <meshnode/transport.h>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "proxy/goodbyes.h"
#include "proxy/load.h"
#include "snapshot/snapshot.h"
#include "telemetry/agent_metrics.h"
#include "telemetry/connection.h"
#include "telemetry/observed.h"

namespace meshnode::proxy {

/// Unfinished TLS handshakes of callers on one loop, 5 s each at the longest. Beyond it the oldest
/// give way: an honest one takes milliseconds, and a flood must not keep it out.
inline constexpr std::size_t kMaxHandshakes = 1'024;

/// Where the loops tell what an operator should know. Implementations are thread-safe.
class ProxyReports {
 public:
  virtual ~ProxyReports() = default;
  /// A stranger's or peer's attempt that was turned away: contract code peer-refused.
  virtual void peer_refused(const IpAddress& peer, telemetry::Flag flag,
                            const std::string& reason) = 0;
  /// A peer ran into a limit of the contract and was stopped: limit-reached.
  virtual void limit_reached(const IpAddress& peer, const std::string& limit) = 0;
  /// This host ran into one on the way to `peer`: limit-reached too, with other advice.
  virtual void own_limit_reached(const IpAddress& peer, const std::string& limit) = 0;
  /// Accepting pauses, or a CONNECT was refused: 80 % of the process's descriptors are in use.
  virtual void descriptors_used_up() = 0;
  /// Unfinished handshakes are as many as may be: the oldest give way to new ones.
  virtual void handshakes_used_up() = 0;
  /// A tunnel of ours could not be opened.
  virtual void tunnel_failed(const SocketAddress& to, const std::string& reason) = 0;
};

/// Big buffers that no connection owns: valid within one event.
struct LoopBuffers {
  LoopBuffers();
  MutableBytes plaintext();

  std::vector<std::uint8_t> ciphertext;  ///< gathers TLS records for one write
  class Tunnel* ciphertext_owner = nullptr;

 private:
  std::unique_ptr<std::uint8_t[]> plaintext_;
};

struct ProxyContext {
  Clock& clock;
  Executor& executor;
  Network& network;
  Random& random;
  telemetry::Telemetry& telemetry;
  ProxyReports& reports;
  telemetry::AgentMetrics& metrics;
  Load& load;
  Goodbyes& goodbyes;
  telemetry::Observed& observed;
  /// Which workload's capture address this is (capture/spec.h).
  std::function<std::optional<std::uint16_t>(const IpAddress&)> slot_of;
  /// Swapped by the control loop through post(); connections keep what they were planned with.
  std::shared_ptr<const snapshot::Snapshot> snapshot;
  LoopBuffers buffers;
  /// The snapshot's, or the defaults before there is one.
  model::ProxyLimits limits{};
};

/// Counts and tells of a dial that failed for a limit, and says how it is flagged.
telemetry::Flag dial_failed(ProxyContext& context, const SocketAddress& to, const Error& error);

telemetry::End end_of(const snapshot::Party& party);

}  // namespace meshnode::proxy
