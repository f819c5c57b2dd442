#include "agent/capture_request.h"

#include <variant>

#include "base/passwd.h"

namespace meshnode::agent {

CaptureRequest make_capture_request(const model::Catalog& catalog, const snapshot::SlotTable& slots,
                                    std::string_view passwd) {
  CaptureRequest request;
  request.spec.capture_loopback = catalog.node.capture_loopback;
  request.spec.preserve_source = catalog.node.preserve_source_address;
  for (const model::CatalogWorkload& workload : catalog.workloads) {
    capture::Enrolled enrolled;
    enrolled.name = workload.id.text();
    enrolled.slot = slots.slot(workload.id);
    enrolled.ports = workload.ports;
    if (const auto* user = std::get_if<model::MatchUser>(&workload.match)) {
      const auto uid = user_id(passwd, user->user);
      if (!uid) {
        request.problems.emplace_back(enrolled.name, uid.error().message);
        continue;
      }
      enrolled.owner = capture::ByUser{*uid};
    } else {
      enrolled.owner = capture::ByCgroup{std::get<model::MatchCgroup>(workload.match).path};
    }
    request.spec.workloads.push_back(std::move(enrolled));
  }
  return request;
}

}  // namespace meshnode::agent
