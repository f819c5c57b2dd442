#pragma once
/// The agent's own counters, named meshnode_*: one struct of atomics, incremented where things
/// happen, written out with prometheus-cpp at a scrape. Thread: everything is thread-safe.

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

namespace meshnode::telemetry {

class Counter {
 public:
  void add(std::uint64_t by = 1) { value_.fetch_add(by, std::memory_order_relaxed); }
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

class Gauge {
 public:
  void add(std::int64_t by) { value_.fetch_add(by, std::memory_order_relaxed); }
  void set(std::int64_t value) { value_.store(value, std::memory_order_relaxed); }
  std::int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> value_{0};
};

/// Why a peer was turned away, for meshnode_peer_refused_total{reason}.
enum class Refusal : std::uint8_t {
  kTls,          ///< handshake or certificate: "tls"
  kProtocol,     ///< HTTP/2 or a malformed CONNECT: "protocol"
  kAuthority,    ///< no endpoint of the session's workload: "authority"
  kPolicy,       ///< "policy"
  kUnavailable,  ///< the workload cannot be reached: "unavailable"
  kLimit,        ///< a limit of the contract: "limit"
};
inline constexpr std::size_t kRefusals = 6;
std::string_view refusal_name(Refusal reason);

/// Limits and timers of the contract, for meshnode_limit_hits_total{limit}: what was hit, by name
/// (docs/limits.md has a row each).
enum class Limit : std::uint8_t {
  kHandshakeTimeout,       ///< "handshake-timeout"
  kHandshakes,             ///< "handshakes": an unfinished one gave way to a new one
  kConnectTimeout,         ///< "connect-timeout"
  kAnswerTimeout,          ///< "answer-timeout": of the far agent
  kHalfClosed,             ///< "half-closed"
  kPingTimeout,            ///< "ping-timeout"
  kIdleTunnel,             ///< "idle-tunnel"
  kCertificateEnd,         ///< "certificate-end": the tunnel's peer's has ended
  kStreams,                ///< "streams"
  kHeaderList,             ///< "header-list"
  kResets,                 ///< "resets"
  kFrame,                  ///< "frame"
  kWindow,                 ///< "window"
  kFlood,                  ///< "flood": frames without content, or too many CONTINUATION frames
  kSlowHeaders,            ///< "slow-headers"
  kTunnelsPerPeer,         ///< "tunnels-per-peer"
  kTunnelsPerDestination,  ///< "tunnels-per-destination"
  kDescriptors,            ///< "descriptors": accepting paused, or a CONNECT was refused
  kSockets,                ///< "sockets": no source port or descriptor is left to dial with
  kMemory,                 ///< "memory": a connection was refused or cut
  kConntrack,              ///< "conntrack": a connection was refused
  kProblems,               ///< "problems": one was not listed
};
inline constexpr std::size_t kLimits = 22;
std::string_view limit_name(Limit limit);

enum class Direction : std::uint8_t { kInbound, kOutbound };

class AgentMetrics {
 public:
  static constexpr std::size_t kMaxReasons = 32;

  std::array<Counter, kRefusals> peer_refused;
  std::array<Gauge, 2> tunnels;           ///< open now, by Direction
  std::array<Counter, 2> tunnels_opened;  ///< by Direction
  Counter capture_repaired;
  Counter plaintext_inbound;  ///< connections to a declared port that came without a tunnel
  Counter direct_outbound;    ///< captured connections that went direct
  Counter worker_restarts;
  Counter reloads;
  Gauge resources_accepted;
  Gauge resources_rejected;
  Gauge problems;  ///< that degrade health
  Gauge snapshot_revision;

  std::array<Counter, kLimits> limit_hits;

  Counter& hit(Limit limit) { return limit_hits[static_cast<std::size_t>(limit)]; }
  Counter& refused(Refusal reason) { return peer_refused[static_cast<std::size_t>(reason)]; }
  Gauge& tunnels_open(Direction direction) { return tunnels[static_cast<std::size_t>(direction)]; }
  Counter& tunnels_total(Direction direction) {
    return tunnels_opened[static_cast<std::size_t>(direction)];
  }
  /// What a packet filter rule of ours has counted since it was inserted, by reason; at most
  /// kMaxReasons reasons, further ones are ignored.
  void set_capture_bypassed(const std::string& reason, std::uint64_t count);
  std::map<std::string, std::uint64_t> capture_bypassed() const;

  /// All of it in the Prometheus text format 0.0.4.
  std::string expose() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::uint64_t> bypassed_;
};

}  // namespace meshnode::telemetry
