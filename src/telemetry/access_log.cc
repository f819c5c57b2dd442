#include "telemetry/access_log.h"

#include <vector>

namespace meshnode::telemetry {
namespace {

constexpr std::string_view kScope = "access";
constexpr std::size_t kMaxFields = 20;
constexpr std::size_t kMaxError = 512;

log::Format log_format(AccessFormat format) {
  return format == AccessFormat::kJson ? log::Format::kJson : log::Format::kText;
}

class FieldList {
 public:
  FieldList() { fields_.reserve(kMaxFields); }
  void add(std::string_view key, log::Value value) { fields_.emplace_back(key, value); }
  void add_known(std::string_view key, const std::string& value) {
    if (!value.empty()) add(key, value);
  }
  std::span<const log::Field> all() const { return fields_; }

 private:
  std::vector<log::Field> fields_;
};

}  // namespace

void append_access_line(std::string& out, AccessFormat format, const AccessEntry& entry) {
  if (format == AccessFormat::kOff) return;
  const Labels& labels = *entry.labels;
  bool source = labels.reporter == Reporter::kSource;
  const Addresses& addresses = *entry.addresses;
  std::string from = addresses.source.text();
  // ztunnel calls the far end of the socket dst.addr and the address inside the tunnel hbone_addr.
  std::string to = addresses.hbone.value_or(addresses.destination).text();
  std::string inner = addresses.hbone ? addresses.destination.text() : std::string();
  auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(entry.duration).count();
  std::string duration = std::to_string(millis) + "ms";

  FieldList fields;
  fields.add("src.addr", log::Value::bare(from));
  fields.add_known("src.workload", labels.source.workload);
  fields.add_known("src.namespace", labels.source.ns);
  fields.add_known("src.identity", labels.source.principal);
  fields.add_known("src.cluster", labels.source.cluster);
  fields.add("dst.addr", log::Value::bare(to));
  if (addresses.hbone) fields.add("dst.hbone_addr", log::Value::bare(inner));
  fields.add_known("dst.service", labels.service);
  fields.add_known("dst.workload", labels.destination.workload);
  fields.add_known("dst.namespace", labels.destination.ns);
  fields.add_known("dst.identity", labels.destination.principal);
  fields.add_known("dst.cluster", labels.destination.cluster);
  fields.add("direction", source ? "outbound" : "inbound");
  fields.add("bytes_sent", source ? entry.to_callee : entry.to_caller);
  fields.add("bytes_recv", source ? entry.to_caller : entry.to_callee);
  fields.add("duration", duration);
  if (!entry.error.empty()) fields.add("error", entry.error.substr(0, kMaxError));
  log::append_line(out, log_format(format), entry.at, entry.level, kScope, entry.message,
                   fields.all());
}

}  // namespace meshnode::telemetry
