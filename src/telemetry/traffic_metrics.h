#pragma once
/// The TCP metrics of Istio's standard set, per label set: connections opened, closed and failed,
/// bytes, open sockets. Written in the text exposition format directly from one copy of each label
/// set, because a scrape that builds an object a label costs more than the traffic does.
/// Thread: everything is thread-safe; counters are relaxed atomics.

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "telemetry/connection.h"

namespace meshnode::telemetry {

inline constexpr std::size_t kFlags = 6;

/// response_flags of the metrics: "-", "DENY", "CONNECT", ...
std::string_view flag_name(Flag flag);

/// The counters of one label set; lives as long as its TrafficMetrics. Directions are the
/// connection's: Istio's sent_bytes are the answer's, at either reporter.
struct Series {
  Labels labels;
  std::atomic<std::uint64_t> opened{0};
  std::atomic<std::uint64_t> to_callee{0};
  std::atomic<std::uint64_t> to_caller{0};
  std::array<std::atomic<std::uint64_t>, kFlags> closed{};
  std::array<std::atomic<std::uint64_t>, kFlags> failed{};
};

class TrafficMetrics {
 public:
  static constexpr std::size_t kMaxLabelSets = 10'000;
  static constexpr std::size_t kMaxValue = 320;  ///< octets of a label value; the rest is cut

  explicit TrafficMetrics(std::size_t max_label_sets = kMaxLabelSets);

  /// The counters of `labels`. Beyond the bound new label sets share one per reporter and
  /// security whose other labels all read "overflow"; overflowed() counts those asked for.
  Series& series(const Labels& labels);
  std::uint64_t overflowed() const { return overflowed_.load(std::memory_order_relaxed); }
  std::size_t label_sets() const;

  /// Appends all families in the Prometheus text format 0.0.4.
  void append(std::string& out) const;

 private:
  struct Named {
    const std::string* text = nullptr;  // reporter="source",... without response_flags and braces
    const Series* series = nullptr;
  };
  std::vector<Named> all() const;

  const std::size_t max_label_sets_;
  mutable std::shared_mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<Series>> sets_;
  std::atomic<std::uint64_t> overflowed_{0};
};

}  // namespace meshnode::telemetry
