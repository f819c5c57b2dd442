#include "agent/status.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace meshnode::agent {
namespace {

using Json = nlohmann::ordered_json;

Json problems_json(const std::vector<telemetry::Problem>& problems) {
  Json list = Json::array();
  for (const telemetry::Problem& problem : problems) {
    list.push_back({{"code", problem.code},
                    {"object", problem.object},
                    {"message", problem.message},
                    {"hint", problem.hint},
                    {"count", problem.count},
                    {"firstSeen", rfc3339(problem.first_seen)},
                    {"lastSeen", rfc3339(problem.last_seen)},
                    {"active", problem.active}});
  }
  return list;
}

bool is_captured(const StatusInput& input, const std::string& name) {
  if (input.capture == nullptr || !input.capture->ok || input.wanted == nullptr) {
    return false;
  }
  const auto& waiting = input.capture->waiting;
  const auto& wanted = input.wanted->workloads;
  return std::find(waiting.begin(), waiting.end(), name) == waiting.end() &&
         !input.capture->failed.contains(name) &&
         std::any_of(wanted.begin(), wanted.end(),
                     [&](const capture::Enrolled& enrolled) { return enrolled.name == name; });
}

Json workloads_json(const StatusInput& input) {
  Json list = Json::array();
  if (input.snapshot == nullptr) {
    return list;
  }
  for (const auto& workload : input.snapshot->workloads) {
    Json certificate = nullptr;
    if (workload->credential) {
      certificate = {{"notAfter", rfc3339(workload->credential->not_after())}, {"source", "files"}};
    }
    std::string match;
    for (const auto& [id, text] : *input.matches) {
      if (id == workload->id) {
        match = text;
      }
    }
    const bool captured = is_captured(input, workload->id.text());
    list.push_back({{"name", workload->id.name},
                    {"namespace", workload->id.ns},
                    {"identity", workload->identity.uri()},
                    {"match", match},
                    {"captured", captured},
                    {"certificate", certificate}});
  }
  return list;
}

Json rejected_json(const std::vector<model::Rejection>& rejected) {
  Json list = Json::array();
  for (const model::Rejection& rejection : rejected) {
    list.push_back({{"file", rejection.origin.file},
                    {"line", rejection.origin.line},
                    {"kind", rejection.kind},
                    {"namespace", rejection.ns},
                    {"name", rejection.name},
                    {"message", rejection.message}});
  }
  return list;
}

}  // namespace

std::string status_json(const StatusInput& input) {
  Json bypass = Json::object();
  if (input.capture != nullptr) {
    for (const auto& [reason, count] : input.capture->bypass) {
      bypass[reason] = count;
    }
  }
  const Json status = {
      {"node",
       {{"name", input.node_name},
        {"address", input.address},
        {"version", MESHNODE_VERSION},
        {"pid", input.pid},
        {"uptimeSeconds", std::chrono::duration_cast<std::chrono::seconds>(input.uptime).count()}}},
      {"health", input.degraded ? "degraded" : "ok"},
      {"problems", problems_json(input.problems)},
      {"cluster", nullptr},
      {"workloads", workloads_json(input)},
      {"tunnels", {{"inbound", input.tunnels_inbound}, {"outbound", input.tunnels_outbound}}},
      {"connections",
       {{"active", input.connections.active},
        {"total", input.connections.total},
        {"refused", input.connections.refused}}},
      {"captureBypass", bypass},
      {"resources",
       {{"accepted", input.resources_accepted}, {"rejected", rejected_json(*input.rejected)}}}};
  // Text from peers and files may hold anything; JSON must come out whatever it is.
  return status.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace meshnode::agent
