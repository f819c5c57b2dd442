#include "telemetry/agent_metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <vector>

namespace meshnode::telemetry {
namespace {

constexpr std::array<std::string_view, kRefusals> kRefusalNames = {
    "tls", "protocol", "authority", "policy", "unavailable", "limit"};
constexpr std::array<std::string_view, kLimits> kLimitNames = {"handshake-timeout",
                                                               "handshakes",
                                                               "connect-timeout",
                                                               "answer-timeout",
                                                               "half-closed",
                                                               "ping-timeout",
                                                               "idle-tunnel",
                                                               "certificate-end",
                                                               "streams",
                                                               "header-list",
                                                               "resets",
                                                               "frame",
                                                               "window",
                                                               "flood",
                                                               "slow-headers",
                                                               "tunnels-per-peer",
                                                               "tunnels-per-destination",
                                                               "descriptors",
                                                               "sockets",
                                                               "memory",
                                                               "conntrack",
                                                               "problems"};
constexpr std::array<const char*, 2> kDirectionNames = {"inbound", "outbound"};

class Families {
 public:
  void begin(const char* name, const char* help, prometheus::MetricType type) {
    families_.push_back({name, help, type, {}});
  }
  void counter(const char* name, const char* help, const Counter& value) {
    begin(name, help, prometheus::MetricType::Counter);
    sample("", "", static_cast<double>(value.value()));
  }
  void gauge(const char* name, const char* help, const Gauge& value) {
    begin(name, help, prometheus::MetricType::Gauge);
    sample("", "", static_cast<double>(value.value()));
  }
  void sample(std::string label, std::string value_of_label, double value) {
    prometheus::ClientMetric metric;
    if (!label.empty()) metric.label.push_back({std::move(label), std::move(value_of_label)});
    if (families_.back().type == prometheus::MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    families_.back().metric.push_back(std::move(metric));
  }
  std::string text() const { return prometheus::TextSerializer().Serialize(families_); }

 private:
  std::vector<prometheus::MetricFamily> families_;
};

}  // namespace

std::string_view refusal_name(Refusal reason) {
  return kRefusalNames[static_cast<std::size_t>(reason)];
}

std::string_view limit_name(Limit limit) { return kLimitNames[static_cast<std::size_t>(limit)]; }

void AgentMetrics::set_capture_bypassed(const std::string& reason, std::uint64_t count) {
  std::lock_guard lock(mutex_);
  if (bypassed_.size() < kMaxReasons || bypassed_.contains(reason)) bypassed_[reason] = count;
}

std::map<std::string, std::uint64_t> AgentMetrics::capture_bypassed() const {
  std::lock_guard lock(mutex_);
  return bypassed_;
}

std::string AgentMetrics::expose() const {
  using prometheus::MetricType;
  Families all;
  all.begin("meshnode_peer_refused_total", "Peers and requests turned away", MetricType::Counter);
  for (std::size_t i = 0; i < kRefusals; ++i) {
    all.sample("reason", std::string(kRefusalNames[i]),
               static_cast<double>(peer_refused[i].value()));
  }
  all.begin("meshnode_limit_hits_total", "Times a limit or timer was hit", MetricType::Counter);
  for (std::size_t i = 0; i < kLimits; ++i) {
    all.sample("limit", std::string(kLimitNames[i]), static_cast<double>(limit_hits[i].value()));
  }
  all.begin("meshnode_tunnels", "Tunnels open now", MetricType::Gauge);
  for (std::size_t i = 0; i < 2; ++i) {
    all.sample("direction", kDirectionNames[i], static_cast<double>(tunnels[i].value()));
  }
  all.begin("meshnode_tunnels_opened_total", "Tunnels opened", MetricType::Counter);
  for (std::size_t i = 0; i < 2; ++i) {
    all.sample("direction", kDirectionNames[i], static_cast<double>(tunnels_opened[i].value()));
  }
  all.counter("meshnode_capture_repaired_total", "Times our packet filter rules were put back",
              capture_repaired);
  all.begin("meshnode_capture_bypassed_total", "Packets a backstop rule met, by reason",
            MetricType::Counter);
  for (const auto& [reason, count] : capture_bypassed()) {
    all.sample("reason", reason, static_cast<double>(count));
  }
  all.counter("meshnode_plaintext_inbound_total",
              "Connections to a declared port that came without a tunnel", plaintext_inbound);
  all.counter("meshnode_direct_outbound_total", "Captured connections that went direct",
              direct_outbound);
  all.counter("meshnode_worker_restarts_total", "Times a dead worker was replaced",
              worker_restarts);
  all.counter("meshnode_reloads_total", "Times the configuration was read again", reloads);
  all.begin("meshnode_resources", "Configuration resources by state", MetricType::Gauge);
  all.sample("state", "accepted", static_cast<double>(resources_accepted.value()));
  all.sample("state", "rejected", static_cast<double>(resources_rejected.value()));
  all.gauge("meshnode_problems", "Problems that degrade health now", problems);
  all.gauge("meshnode_snapshot_revision", "Revision of the snapshot in force", snapshot_revision);
  return all.text();
}

}  // namespace meshnode::telemetry
