#pragma once
/// What is recorded of each proxied connection: metrics with Istio's names and labels
/// (reference: Istio standard metrics, ztunnel) and one access-log line. Thread: `Telemetry` is
/// shared by all loops; a ConnectionRecord belongs to one.

#include <meshnode/address.h>
#include <meshnode/time.h>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace meshnode::telemetry {

enum class Reporter { kSource, kDestination };
enum class Security { kMutualTls, kNone };
/// Istio's response_flags. kNone prints "-".
enum class Flag { kNone, kDeny, kConnect, kTlsFailure, kH2HandshakeFailure, kOverload };

/// One end, as text; empty prints "unknown".
struct End {
  std::string workload, ns, app, version, canonical_service, canonical_revision, cluster, region,
      zone, principal;
};

/// The label set of a connection; equal values share one set of counters.
struct Labels {
  Reporter reporter = Reporter::kSource;
  End source;
  End destination;
  std::string service, service_name, service_ns;
  Security security = Security::kNone;
};

/// Further fields of the access-log line.
struct Addresses {
  SocketAddress source;
  SocketAddress destination;           ///< the workload's address and port
  std::optional<SocketAddress> hbone;  ///< the tunnel's far end
};

/// From opening to closing of one connection. Destroying it without close() closes it cleanly.
class ConnectionRecord {
 public:
  virtual ~ConnectionRecord() = default;
  /// Bytes from the caller to the callee, and back; cheap, called per chunk.
  virtual void add_sent(std::uint64_t bytes) = 0;
  virtual void add_received(std::uint64_t bytes) = 0;
  /// Counts it closed and writes the access-log line; `error` is empty for a clean end.
  virtual void close(Flag flag, const std::string& error) = 0;
};

class Telemetry {
 public:
  virtual ~Telemetry() = default;
  virtual std::unique_ptr<ConnectionRecord> open(const Labels& labels, const Addresses& addresses,
                                                 Instant now) = 0;
  /// A connection that never got as far as open(): counted failed, one warning line.
  virtual void refused(const Labels& labels, const Addresses& addresses, Flag flag,
                       const std::string& error) = 0;
};

}  // namespace meshnode::telemetry
