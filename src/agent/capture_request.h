#pragma once
/// From the catalog to what the supervisor is asked to capture. Pure.

#include <string>
#include <string_view>
#include <vector>

#include "capture/spec.h"
#include "model/catalog.h"
#include "snapshot/slots.h"

namespace meshnode::agent {

struct CaptureRequest {
  capture::Spec spec;
  /// Workloads that cannot be captured: "namespace/name" and why.
  std::vector<std::pair<std::string, std::string>> problems;
};

/// A workload that cannot be captured never keeps the others from it. `passwd` is the text of
/// /etc/passwd.
CaptureRequest make_capture_request(const model::Catalog& catalog, const snapshot::SlotTable& slots,
                                    std::string_view passwd);

}  // namespace meshnode::agent
