#include "cli/status_text.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/escape.h"

namespace meshnode::cli {
namespace {

using nlohmann::json;

std::string escaped(std::string_view text) {
  std::string out;
  append_escaped(out, text);
  return out;
}

/// The member as one line of safe text; empty when it is missing or no scalar.
std::string text_of(const json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end()) return {};
  if (at->is_string()) return escaped(at->get_ref<const std::string&>());
  if (at->is_number() || at->is_boolean()) return at->dump();
  return {};
}

const json& member(const json& object, const char* name) {
  static const json nothing = json::object();
  const auto at = object.find(name);
  return at == object.end() || at->is_null() ? nothing : *at;
}

const json& list(const json& object, const char* name) {
  static const json nothing = json::array();
  const auto at = object.find(name);
  return at == object.end() || !at->is_array() ? nothing : *at;
}

std::string number(const json& object, const char* name) {
  const std::string text = text_of(object, name);
  return text.empty() ? "0" : text;
}

/// Columns padded to their widest cell, two spaces apart, indented by two.
class Table {
 public:
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const {
    std::vector<std::size_t> widths;
    for (const auto& row : rows_) {
      widths.resize(std::max(widths.size(), row.size()));
      for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string text;
    for (const auto& row : rows_) {
      std::string line = " ";
      for (std::size_t i = 0; i < row.size(); ++i) {
        line += " " + row[i] + std::string(widths[i] - row[i].size() + 1, ' ');
      }
      line.erase(line.find_last_not_of(' ') + 1);
      text += line + "\n";
    }
    return text;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string ago(const json& object, const char* name, WallTime now) {
  const auto at = object.find(name);
  if (at == object.end() || !at->is_string()) return {};
  const auto when = parse_rfc3339(at->get_ref<const std::string&>());
  if (!when) return {};
  return *when > now ? "now" : rough(now - *when) + " ago";
}

std::string heading(const json& status) {
  const json& node = member(status, "node");
  std::string line = text_of(node, "name");
  const std::string address = text_of(node, "address");
  if (!address.empty()) line += (line.empty() ? "" : "  ") + address;
  line += (line.empty() ? "meshnode " : "  meshnode ") + text_of(node, "version");
  const auto uptime = node.find("uptimeSeconds");
  if (uptime != node.end() && uptime->is_number_unsigned()) {
    const auto seconds = std::min<std::uint64_t>(uptime->get<std::uint64_t>(), 1'000'000'000);
    line += ", up " + rough(std::chrono::seconds(seconds));
  }
  const std::string pid = text_of(node, "pid");
  if (!pid.empty()) line += ", process " + pid;
  return line + "\nhealth: " + text_of(status, "health") + "\n";
}

std::string problems(const json& status, WallTime now) {
  std::string text;
  for (const auto& problem : list(status, "problems")) {
    if (!problem.is_object()) continue;
    if (text.empty()) text = "\nPROBLEMS\n";
    text += "  " + text_of(problem, "code") + "  " + text_of(problem, "object");
    const std::string count = text_of(problem, "count");
    const std::string last = ago(problem, "lastSeen", now);
    std::string seen = count.empty() || count == "1" ? "" : count + " times";
    if (!last.empty()) seen += (seen.empty() ? "" : ", last ") + last;
    if (!seen.empty()) text += "  (" + seen + ")";
    text += "\n    " + text_of(problem, "message") + "\n";
    const std::string hint = text_of(problem, "hint");
    if (!hint.empty()) text += "    next: " + hint + "\n";
  }
  return text;
}

std::string certificate(const json& workload, WallTime now) {
  const json& held = member(workload, "certificate");
  const std::string source = text_of(held, "source");
  const std::string end = text_of(held, "notAfter");
  const auto when = parse_rfc3339(end);
  if (!when) return "none";
  std::string text =
      *when <= now ? "EXPIRED " + rough(now - *when) + " ago" : rough(*when - now) + " left";
  return source.empty() ? text : text + " (" + source + ")";
}

std::string match(const json& workload) {
  const json& how = member(workload, "match");
  if (how.is_string()) return escaped(how.get_ref<const std::string&>());
  if (!how.is_object() || how.empty()) return "-";
  const std::string key = how.begin().key();
  return escaped(key) + " " + text_of(how, key.c_str());
}

std::string captured(const json& workload) {
  const std::string text = text_of(workload, "captured");
  if (text == "true") return "yes";
  return text == "false" ? "NO" : text;
}

std::string workloads(const json& status, WallTime now) {
  const json& all = list(status, "workloads");
  if (all.empty()) return "\nno workload is enrolled\n";
  Table table;
  table.add({"WORKLOAD", "IDENTITY", "MATCH", "CAPTURED", "CERTIFICATE"});
  for (const auto& one : all) {
    if (!one.is_object()) continue;
    const std::string identity = text_of(one, "identity");
    table.add({text_of(one, "namespace") + "/" + text_of(one, "name"),
               identity.empty() ? "none" : identity, match(one), captured(one),
               certificate(one, now)});
  }
  return "\nWORKLOADS\n" + table.text();
}

std::string bypass(const json& status) {
  std::string text;
  for (const auto& [reason, count] : member(status, "captureBypass").items()) {
    if (!count.is_number() || count == 0) continue;
    text += (text.empty() ? "" : ", ") + count.dump() + " " + escaped(reason);
  }
  return text.empty() ? "none" : text + " (rejected packets)";
}

std::string traffic(const json& status) {
  const json& connections = member(status, "connections");
  const json& tunnels = member(status, "tunnels");
  const json& resources = member(status, "resources");
  Table table;
  table.add({"connections", number(connections, "active") + " active, " +
                                number(connections, "total") + " in all, " +
                                number(connections, "refused") + " refused"});
  table.add({"tunnels", number(tunnels, "inbound") + " inbound, " + number(tunnels, "outbound") +
                            " outbound"});
  table.add({"capture bypass", bypass(status)});
  table.add({"resources", number(resources, "accepted") + " accepted, " +
                              std::to_string(list(resources, "rejected").size()) + " rejected"});
  return "\n" + table.text();
}

std::string rejected(const json& status) {
  std::string text;
  for (const auto& one : list(member(status, "resources"), "rejected")) {
    if (!one.is_object()) continue;
    if (text.empty()) text = "\nREJECTED\n";
    text += "  " + text_of(one, "file");
    const std::string line = text_of(one, "line");
    if (!line.empty() && line != "0") text += ":" + line;
    const std::string kind = text_of(one, "kind");
    const std::string ns = text_of(one, "namespace");
    const std::string name = text_of(one, "name");
    if (!kind.empty()) text += "  " + kind;
    if (!name.empty()) text.append("  ").append(ns).append(ns.empty() ? "" : "/").append(name);
    text += "\n    " + text_of(one, "message") + "\n";
  }
  return text;
}

std::string cluster(const json& status) {
  const auto at = status.find("cluster");
  if (at == status.end() || !at->is_object()) return {};
  return "cluster: trust domain " + text_of(*at, "trustDomain") + ", leader " +
         text_of(*at, "leader") + "\n";
}

bool digits(std::string_view text, int& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && text.front() != '-';
}

}  // namespace

std::optional<WallTime> parse_rfc3339(std::string_view text) {
  if (text.size() != 20 || text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' ||
      text[16] != ':' || text[19] != 'Z') {
    return std::nullopt;
  }
  int year = 0;
  int month = 0;
  int day = 0;
  int hour = 0;
  int minute = 0;
  int second = 0;
  if (!digits(text.substr(0, 4), year) || !digits(text.substr(5, 2), month) ||
      !digits(text.substr(8, 2), day) || !digits(text.substr(11, 2), hour) ||
      !digits(text.substr(14, 2), minute) || !digits(text.substr(17, 2), second)) {
    return std::nullopt;
  }
  const auto date = std::chrono::year(year) / month / day;
  // A nanosecond clock of 64 bits ends in 2262.
  if (!date.ok() || year < 1970 || year > 2261 || hour > 23 || minute > 59 || second > 60) {
    return std::nullopt;
  }
  return WallTime(std::chrono::sys_days(date)) + std::chrono::hours(hour) +
         std::chrono::minutes(minute) + std::chrono::seconds(second);
}

std::string rough(Duration duration) {
  const auto seconds = std::max<std::int64_t>(duration / std::chrono::seconds(1), 0);
  if (seconds < 60) return std::to_string(seconds) + " s";
  const auto minutes = seconds / 60;
  if (minutes < 60) return std::to_string(minutes) + " min";
  const auto two = [](std::int64_t many, const char* big, std::int64_t few, const char* small) {
    std::string text = std::to_string(many) + big;
    return few == 0 ? text : text + " " + std::to_string(few) + small;
  };
  if (minutes < 48 * 60) return two(minutes / 60, " h", minutes % 60, " min");
  const auto hours = minutes / 60;
  return two(hours / 24, " d", hours % 24, " h");
}

Result<StatusPage> status_page(std::string_view text, WallTime now) {
  const json status = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!status.is_object() || text_of(status, "health").empty()) {
    return fail(ErrorCode::kInvalid, "the agent's answer is no status");
  }
  StatusPage page;
  page.healthy = text_of(status, "health") == "ok";
  page.text = heading(status) + cluster(status) + problems(status, now) + workloads(status, now) +
              traffic(status) + rejected(status);
  return page;
}

}  // namespace meshnode::cli
