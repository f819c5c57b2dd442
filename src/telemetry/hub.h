#pragma once
/// The product's Telemetry: metrics and access log of all proxy loops. Thread: everything is
/// thread-safe; it outlives every ConnectionRecord it gave out.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "telemetry/access_log.h"
#include "telemetry/agent_metrics.h"
#include "telemetry/connection.h"
#include "telemetry/traffic_metrics.h"

namespace meshnode::telemetry {

/// Time for all threads; `now` is the clock that open() gets its Instant from.
struct TimeSource {
  std::function<Instant()> now;
  std::function<WallTime()> wall_now;
};

struct HubOptions {
  std::string version;  ///< for istio_build
  AccessFormat access_log = AccessFormat::kText;
  std::size_t max_label_sets = TrafficMetrics::kMaxLabelSets;
};

/// Of this process, for `status`.
struct ConnectionTotals {
  std::uint64_t active = 0;
  std::uint64_t total = 0;
  std::uint64_t refused = 0;
};

class Hub final : public Telemetry {
 public:
  /// `sink` is borrowed.
  Hub(HubOptions options, TimeSource time, AccessSink* sink);

  std::unique_ptr<ConnectionRecord> open(const Labels& labels, const Addresses& addresses,
                                         Instant now) override;
  void refused(const Labels& labels, const Addresses& addresses, Flag flag,
               const std::string& error) override;

  /// Takes effect for connections that end from now on.
  void set_access_log(AccessFormat format) { format_.store(format, std::memory_order_relaxed); }
  AgentMetrics& agent() { return agent_; }
  ConnectionTotals totals() const;
  /// Everything in the Prometheus text format 0.0.4.
  std::string expose() const;

 private:
  class Record;

  const HubOptions options_;
  const TimeSource time_;
  AccessSink* const sink_;
  std::atomic<AccessFormat> format_;
  TrafficMetrics traffic_;
  AgentMetrics agent_;
  Counter opened_;
  Counter closed_;
  Counter refused_;
};

}  // namespace meshnode::telemetry
