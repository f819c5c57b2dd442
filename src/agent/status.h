#pragma once
/// The answer to `meshnode status -o json` (contract), from values. Pure.

#include <meshnode/time.h>
#include <cstdint>
#include <string>
#include <vector>

#include "model/config_set.h"
#include "snapshot/snapshot.h"
#include "supervisor/message.h"
#include "telemetry/hub.h"
#include "telemetry/problems.h"

namespace meshnode::agent {

struct StatusInput {
  std::string node_name;
  std::string address;
  std::int64_t pid = 0;
  Duration uptime{};
  const snapshot::Snapshot* snapshot = nullptr;
  const std::vector<std::pair<WorkloadId, std::string>>* matches = nullptr;  ///< "user web"
  const capture::Spec* wanted = nullptr;               ///< what the supervisor was asked for
  const supervisor::CaptureReport* capture = nullptr;  ///< null before the first report
  bool degraded = false;
  std::vector<telemetry::Problem> problems;
  telemetry::ConnectionTotals connections;
  std::int64_t tunnels_inbound = 0;
  std::int64_t tunnels_outbound = 0;
  std::size_t resources_accepted = 0;
  const std::vector<model::Rejection>* rejected = nullptr;
};

/// JSON text.
std::string status_json(const StatusInput& input);

}  // namespace meshnode::agent
