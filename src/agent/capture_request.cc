#include "agent/capture_request.h"

#include <fmt/format.h>

#include <map>
#include <string>
#include <utility>
#include <variant>

#include "base/passwd.h"

namespace meshnode::agent {
namespace {

Result<capture::Enrolled> enrol(const model::CatalogWorkload& workload, std::uint16_t slot,
                                std::string_view passwd,
                                const std::vector<IpAddress>& addresses) {
  capture::Enrolled enrolled;
  enrolled.name = workload.id.text();
  enrolled.slot = slot;
  enrolled.ports = workload.ports;
  if (const auto* user = std::get_if<model::MatchUser>(&workload.match)) {
    const auto uid = user_id(passwd, user->user);
    if (!uid) {
      return fail(uid.error());
    }
    if (*uid == 0 && !workload.force) {
      return fail(ErrorCode::kInvalid,
                  fmt::format("user {} is root under another name; say force: true if you mean it",
                              user->user));
    }
    enrolled.owner = capture::ByUser{*uid};
  } else if (const auto* cgroup = std::get_if<model::MatchCgroup>(&workload.match)) {
    enrolled.owner = capture::ByCgroup{cgroup->path};
  } else if (const auto* at = std::get_if<model::MatchAddress>(&workload.match)) {
    if (!workload.force && !addresses.empty() && at->address == addresses.front()) {
      return fail(ErrorCode::kInvalid,
                  fmt::format("{} is the host's main address: whatever leaves the host from it "
                              "would be this workload; say force: true if you mean it",
                              at->address.text()));
    }
    enrolled.owner = capture::ByAddress{at->address};
  } else {
    const auto& netns = std::get<model::MatchNetns>(workload.match);
    enrolled.owner = capture::ByNamespace{netns.path, netns.pid};
  }
  capture::Spec alone;
  alone.workloads.push_back(enrolled);
  if (auto checked = capture::check(alone); !checked) {
    return fail(checked.error());
  }
  return enrolled;
}

}  // namespace

CaptureRequest make_capture_request(const model::Catalog& catalog, const snapshot::SlotTable& slots,
                                    std::string_view passwd) {
  CaptureRequest request;
  request.spec.capture_loopback = catalog.node.capture_loopback;
  request.spec.preserve_source = catalog.node.preserve_source_address;
  request.spec.exclude_ports = catalog.node.exclude_ports;
  request.spec.exclude_cidrs = catalog.node.exclude_cidrs;
  std::map<std::string, std::string> owners;
  for (const model::CatalogWorkload& workload : catalog.workloads) {
    const std::string name = workload.id.text();
    auto enrolled = enrol(workload, slots.slot(workload.id), passwd, catalog.addresses);
    if (!enrolled) {
      request.problems.emplace_back(name, enrolled.error().message);
      continue;
    }
    const std::string key = capture::text_of(enrolled->owner);
    const auto [owner, fresh] = owners.emplace(key, name);
    if (!fresh) {
      request.problems.emplace_back(
          name, fmt::format("{} is {}'s already: its callers would have two names; give each "
                            "workload one of its own",
                            key, owner->second));
    } else if (request.spec.workloads.size() >= capture::kMaxWorkloads) {
      request.problems.emplace_back(
          name, fmt::format("a node captures at most {} workloads", capture::kMaxWorkloads));
    } else {
      request.spec.workloads.push_back(std::move(*enrolled));
    }
  }
  return request;
}

}  // namespace meshnode::agent
