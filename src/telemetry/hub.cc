#include "telemetry/hub.h"

#include <algorithm>
#include <utility>

#include "base/escape.h"

namespace meshnode::telemetry {
namespace {

constexpr std::size_t kTypicalLine = 768;

void add(std::atomic<std::uint64_t>& counter, std::uint64_t by) {
  counter.fetch_add(by, std::memory_order_relaxed);
}

void append_number(std::string& out, std::string_view name, std::string_view help,
                   std::string_view type, std::string_view labels, std::uint64_t value) {
  for (std::string_view part : {std::string_view("# HELP "), name, std::string_view(" "), help,
                                std::string_view("\n# TYPE "), name, std::string_view(" "), type,
                                std::string_view("\n"), name, labels, std::string_view(" ")}) {
    out += part;
  }
  out += std::to_string(value);
  out += '\n';
}

}  // namespace

class Hub::Record final : public ConnectionRecord {
 public:
  Record(Hub& hub, Series& series, const Labels& labels, const Addresses& addresses, Instant now)
      : hub_(hub), series_(series), addresses_(addresses), opened_(now) {
    // The label set has all the names a line needs, unless it is the one that stands for many.
    if (series.labels.source.workload != labels.source.workload) {
      own_labels_ = std::make_unique<Labels>(labels);
    }
  }
  ~Record() override { close(Flag::kNone, {}); }

  void add_sent(std::uint64_t bytes) override {
    to_callee_ += bytes;
    add(series_.to_callee, bytes);
  }
  void add_received(std::uint64_t bytes) override {
    to_caller_ += bytes;
    add(series_.to_caller, bytes);
  }
  void close(Flag flag, const std::string& error) override {
    if (std::exchange(closed_, true)) return;
    add(series_.closed[static_cast<std::size_t>(flag)], 1);
    hub_.closed_.add();
    AccessFormat format = hub_.format_.load(std::memory_order_relaxed);
    if (format == AccessFormat::kOff) return;
    AccessEntry entry;
    entry.at = hub_.time_.wall_now();
    entry.message = "connection complete";
    entry.level = error.empty() ? log::Level::kInfo : log::Level::kError;
    entry.labels = own_labels_ ? own_labels_.get() : &series_.labels;
    entry.addresses = &addresses_;
    entry.to_callee = to_callee_;
    entry.to_caller = to_caller_;
    entry.duration = std::max(Duration::zero(), hub_.time_.now() - opened_);
    entry.error = error;
    std::string line;
    line.reserve(kTypicalLine);
    append_access_line(line, format, entry);
    hub_.sink_->line(line);
  }

 private:
  Hub& hub_;
  Series& series_;
  std::unique_ptr<Labels> own_labels_;
  const Addresses addresses_;
  const Instant opened_;
  std::uint64_t to_callee_ = 0;
  std::uint64_t to_caller_ = 0;
  bool closed_ = false;
};

Hub::Hub(HubOptions options, TimeSource time, AccessSink* sink)
    : options_(std::move(options)),
      time_(std::move(time)),
      sink_(sink),
      format_(options_.access_log),
      traffic_(options_.max_label_sets) {}

std::unique_ptr<ConnectionRecord> Hub::open(const Labels& labels, const Addresses& addresses,
                                            Instant now) {
  Series& series = traffic_.series(labels);
  add(series.opened, 1);
  opened_.add();
  return std::make_unique<Record>(*this, series, labels, addresses, now);
}

void Hub::refused(const Labels& labels, const Addresses& addresses, Flag flag,
                  const std::string& error) {
  add(traffic_.series(labels).failed[static_cast<std::size_t>(flag)], 1);
  refused_.add();
  AccessFormat format = format_.load(std::memory_order_relaxed);
  if (format == AccessFormat::kOff) return;
  AccessEntry entry;
  entry.at = time_.wall_now();
  entry.message = "connection failed";
  entry.level = log::Level::kWarn;
  entry.labels = &labels;
  entry.addresses = &addresses;
  entry.error = error;
  std::string line;
  append_access_line(line, format, entry);
  sink_->line(line);
}

ConnectionTotals Hub::totals() const {
  std::uint64_t closed = closed_.value();
  std::uint64_t opened = opened_.value();
  return {opened > closed ? opened - closed : 0, opened, refused_.value()};
}

std::string Hub::expose() const {
  std::string out;
  std::string build = "{component=\"meshnode\",tag=";
  append_json(build, options_.version);
  append_number(out, "istio_build", "The version of this program", "gauge", build + "}", 1);
  traffic_.append(out);
  out += agent_.expose();
  append_number(out, "meshnode_access_log_dropped_total",
                "Access log lines lost because their reader was too slow", "counter", "",
                sink_->dropped());
  append_number(out, "meshnode_label_sets_overflowed_total",
                "Connections counted under overflow because of too many label sets", "counter", "",
                traffic_.overflowed());
  return out;
}

}  // namespace meshnode::telemetry
