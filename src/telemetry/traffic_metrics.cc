#include "telemetry/traffic_metrics.h"

#include <algorithm>
#include <mutex>

#include "base/escape.h"

namespace meshnode::telemetry {
namespace {

constexpr std::string_view kUnknown = "unknown";
constexpr std::size_t kTypicalLabels = 1024;
constexpr std::array<std::string_view, kFlags> kFlagNames = {
    "-", "DENY", "CONNECT", "TLS_FAILURE", "H2_HANDSHAKE_FAILURE", "OVERLOAD"};

bool is_plain(std::string_view value) {
  return std::all_of(value.begin(), value.end(),
                     [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; });
}

// The text format knows \\, \" and \n only, and a scrape with bytes that are not UTF-8 is lost as
// a whole: what is not plain is escaped as in the log first.
void append_label_value(std::string& out, std::string_view value) {
  if (value.empty()) value = kUnknown;
  value = value.substr(0, TrafficMetrics::kMaxValue);
  if (is_plain(value)) {
    out += value;
    return;
  }
  std::string escaped;
  append_escaped(escaped, value);
  for (char c : escaped) {
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
}

void append_label(std::string& out, std::string_view name, std::string_view value) {
  out += name;
  out += "=\"";
  append_label_value(out, value);
  out += "\",";
}

void append_end(std::string& out, std::string_view prefix, const End& end) {
  auto add = [&](std::string_view name, const std::string& value) {
    out += prefix;
    append_label(out, name, value);
  };
  add("_workload", end.workload);
  add("_canonical_service", end.canonical_service);
  add("_canonical_revision", end.canonical_revision);
  add("_workload_namespace", end.ns);
  add("_principal", end.principal);
  add("_app", end.app);
  add("_version", end.version);
  add("_cluster", end.cluster);
  add("_region", end.region);
  add("_zone", end.zone);
}

// Only the callee's side knows that plaintext was all there was: the caller's may be tunnelled
// further on its way, so there it is unknown (Istio's standard metrics).
std::string_view security_name(const Labels& labels) {
  if (labels.security == Security::kMutualTls) return "mutual_tls";
  return labels.reporter == Reporter::kDestination ? "none" : kUnknown;
}

std::string label_text(const Labels& labels) {
  std::string out;
  out.reserve(kTypicalLabels);
  append_label(out, "reporter", labels.reporter == Reporter::kSource ? "source" : "destination");
  append_end(out, "source", labels.source);
  append_end(out, "destination", labels.destination);
  append_label(out, "destination_service", labels.service);
  append_label(out, "destination_service_name", labels.service_name);
  append_label(out, "destination_service_namespace", labels.service_ns);
  append_label(out, "request_protocol", "tcp");
  append_label(out, "connection_security_policy", security_name(labels));
  out.pop_back();
  return out;
}

Labels overflow_labels(const Labels& labels) {
  const std::string word = "overflow";
  End end{word, word, word, word, word, word, word, word, word, word};
  return {labels.reporter, end, end, word, word, word, labels.security};
}

std::uint64_t load(const std::atomic<std::uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

void append_head(std::string& out, std::string_view name, std::string_view help,
                 std::string_view type) {
  out += "# HELP ";
  out += name;
  out += ' ';
  out += help;
  out += "\n# TYPE ";
  out += name;
  out += ' ';
  out += type;
  out += '\n';
}

void append_sample(std::string& out, std::string_view name, const std::string& labels, Flag flag,
                   std::uint64_t value) {
  out += name;
  out += '{';
  out += labels;
  out += ",response_flags=\"";
  out += flag_name(flag);
  out += "\"} ";
  out += std::to_string(value);
  out += '\n';
}

std::uint64_t sum(const std::array<std::atomic<std::uint64_t>, kFlags>& counters) {
  std::uint64_t total = 0;
  for (const auto& counter : counters) total += load(counter);
  return total;
}

}  // namespace

std::string_view flag_name(Flag flag) { return kFlagNames[static_cast<std::size_t>(flag)]; }

TrafficMetrics::TrafficMetrics(std::size_t max_label_sets) : max_label_sets_(max_label_sets) {}

Series& TrafficMetrics::series(const Labels& labels) {
  std::string text = label_text(labels);
  {
    std::shared_lock lock(mutex_);
    if (auto found = sets_.find(text); found != sets_.end()) return *found->second;
  }
  std::unique_lock lock(mutex_);
  const Labels* chosen = &labels;
  Labels overflow;
  if (sets_.size() >= max_label_sets_ && !sets_.contains(text)) {
    overflowed_.fetch_add(1, std::memory_order_relaxed);
    overflow = overflow_labels(labels);
    chosen = &overflow;
    text = label_text(overflow);
  }
  auto [place, inserted] = sets_.try_emplace(std::move(text));
  if (inserted) {
    place->second = std::make_unique<Series>();
    place->second->labels = *chosen;
  }
  return *place->second;
}

std::size_t TrafficMetrics::label_sets() const {
  std::shared_lock lock(mutex_);
  return sets_.size();
}

std::vector<TrafficMetrics::Named> TrafficMetrics::all() const {
  // Sets are never removed, so the lock need not be held while the text is written.
  std::shared_lock lock(mutex_);
  std::vector<Named> out;
  out.reserve(sets_.size());
  for (const auto& [text, series] : sets_) out.push_back({&text, series.get()});
  return out;
}

void TrafficMetrics::append(std::string& out) const {
  const std::vector<Named> sets = all();
  auto counter = [&](std::string_view name, std::string_view help, auto value) {
    append_head(out, name, help, "counter");
    for (const Named& set : sets) {
      if (load(set.series->opened) == 0) continue;
      append_sample(out, name, *set.text, Flag::kNone, value(*set.series));
    }
  };
  auto by_flag = [&](std::string_view name, std::string_view help, auto counters) {
    append_head(out, name, help, "counter");
    for (const Named& set : sets) {
      const auto& values = counters(*set.series);
      for (std::size_t flag = 0; flag < kFlags; ++flag) {
        std::uint64_t value = load(values[flag]);
        if (value != 0) append_sample(out, name, *set.text, static_cast<Flag>(flag), value);
      }
    }
  };
  counter("istio_tcp_connections_opened_total", "TCP connections opened",
          [](const Series& s) { return load(s.opened); });
  by_flag(
      "istio_tcp_connections_closed_total", "TCP connections closed",
      [](const Series& s) -> const auto& { return s.closed; });
  by_flag(
      "istio_tcp_connections_failed_total", "TCP connections that were never opened",
      [](const Series& s) -> const auto& { return s.failed; });
  counter("istio_tcp_sent_bytes_total", "Bytes sent in answer, callee to caller",
          [](const Series& s) { return load(s.to_caller); });
  counter("istio_tcp_received_bytes_total", "Bytes received in request, caller to callee",
          [](const Series& s) { return load(s.to_callee); });
  append_head(out, "istio_tcp_sockets_open", "TCP connections open now", "gauge");
  for (const Named& set : sets) {
    std::uint64_t closed = sum(set.series->closed);
    std::uint64_t opened = load(set.series->opened);
    if (opened == 0) continue;
    append_sample(out, "istio_tcp_sockets_open", *set.text, Flag::kNone,
                  opened > closed ? opened - closed : 0);
  }
}

}  // namespace meshnode::telemetry
