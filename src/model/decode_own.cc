#include <fmt/format.h>
#include <meshnode/ids.h>
#include <algorithm>
#include <array>
#include "base/namespace_path.h"
#include "model/decode_kinds.h"

namespace meshnode::model {
namespace {

/// The supervisor takes at most this many ports a workload (capture/spec.h).
constexpr std::size_t kMaxWorkloadPorts = 64;
constexpr std::size_t kMaxExcludes = 64;
constexpr unsigned kWidestExclude = 7;
constexpr std::size_t kMaxPathBytes = 1024;
constexpr std::size_t kMaxNetnsBytes = 512;
constexpr std::int64_t kMaxPid = 4'194'304;  // PID_MAX_LIMIT of 64-bit kernels

bool is_plain_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7F; });
}

void decode_identity(NodeSpec& node, Fields& spec, Diagnostics& out) {
  const auto trust_domain = spec.text("trustDomain");
  if (const Value* value = spec.map("identity")) {
    Fields identity(*value, "spec.identity", out);
    if (identity.one_of("source", {"cluster", "files"}) == "files") {
      node.identity_source = NodeSpec::IdentitySource::kFiles;
    }
    if (const auto directory = identity.text("directory")) {
      if (directory->empty() || directory->front() != '/' || directory->size() > kMaxPathBytes) {
        identity.error("directory", "is not an absolute path");
      } else if (node.identity_source != NodeSpec::IdentitySource::kFiles) {
        identity.error("directory", "is only for identity.source: files");
      }
      node.identity_directory = *directory;
    }
    identity.finish();
  }
  const bool files = node.identity_source == NodeSpec::IdentitySource::kFiles;
  if (trust_domain && !files) {
    spec.error("trustDomain",
               "is only for identity.source: files; a cluster brings its own trust domain");
  } else if (trust_domain && !is_dns_name(*trust_domain)) {
    spec.error("trustDomain", "is not a DNS name in lower case");
  } else if (files && spec.get("trustDomain") == nullptr) {
    spec.error("trustDomain", "is required with identity.source: files");
  }
  node.trust_domain = trust_domain.value_or("");
}

template <class T>
void drop_repeated(std::vector<T>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

void decode_excludes(NodeSpec& node, Fields& capture, Diagnostics& out) {
  for (const Value& item : capture.list("excludePorts", kMaxExcludes)) {
    const bool port = item.kind == Value::Kind::kInteger && item.integer >= 1 &&
                      item.integer <= 65535;
    if (!port) {
      out.add(item.at, "spec.capture.excludePorts: every entry is a port from 1 to 65535");
      continue;
    }
    node.exclude_ports.push_back(static_cast<std::uint16_t>(item.integer));
  }
  for (const Fields::Item& item : capture.texts("excludeCidrs", kMaxExcludes)) {
    auto prefix = IpPrefix::parse(item.text);
    if (!prefix) {
      capture.error_at(item.at, "excludeCidrs", prefix.error().message);
    } else if (prefix->length() < kWidestExclude) {
      capture.error_at(item.at, "excludeCidrs",
                       fmt::format("{} is wider than /{}: name the networks that you mean, or "
                                   "remove the Workloads",
                                   prefix->text(), kWidestExclude));
    } else {
      node.exclude_cidrs.push_back(*prefix);
    }
  }
  drop_repeated(node.exclude_ports);
  drop_repeated(node.exclude_cidrs);
}

void decode_capture(NodeSpec& node, Fields& spec, Diagnostics& out) {
  const Value* value = spec.map("capture");
  if (value == nullptr) return;
  Fields capture(*value, "spec.capture", out);
  if (capture.one_of("onCrash", {"closed", "open"}) == "open") {
    capture.error("onCrash", "open is not supported by this version; use closed");
  }
  node.capture_loopback = capture.boolean("loopback").value_or(true);
  node.preserve_source_address = capture.boolean("preserveSourceAddress").value_or(true);
  decode_excludes(node, capture, out);
  capture.finish();
}

void decode_user(WorkloadSpec& workload, Fields& match) {
  const Value* value = match.get("user");
  std::string user;
  if (value->kind == Value::Kind::kInteger) {
    user = std::to_string(match.integer("user", 0, 4294967294).value_or(0));
  } else {
    user = match.text("user").value_or("");
    if (value->kind == Value::Kind::kString &&
        (user.empty() || user.size() > 256 || user.front() == '-' || !is_plain_printable(user) ||
         user.find(':') != std::string::npos)) {
      match.error("user", "is not a user name");
    }
  }
  const bool zero = !user.empty() && user.find_first_not_of('0') == std::string::npos;
  if ((zero || user == "root") && !workload.force) {
    match.error("user",
                "enrolling root captures the host's own services; say force: true if you mean it");
  }
  workload.match = MatchUser{std::move(user)};
}

void decode_cgroup(WorkloadSpec& workload, Fields& match) {
  std::string path = match.text("cgroup").value_or("");
  if (match.get("cgroup")->kind != Value::Kind::kString) return;
  path.erase(0, path.find_first_not_of('/'));
  while (!path.empty() && path.back() == '/') path.pop_back();
  const std::string inside = "/" + path + "/";
  if (path.empty()) {
    match.error("cgroup",
                "is the root cgroup, which holds every process of the host; name the "
                "workload's own");
  } else if (path.size() > kMaxPathBytes || !is_plain_printable(path) ||
             inside.find("/../") != std::string::npos || inside.find("/./") != std::string::npos ||
             inside.find("//") != std::string::npos) {
    match.error("cgroup", "is not a path below the cgroup2 mount without '.', '..' and blanks");
  }
  workload.match = MatchCgroup{std::move(path)};
}

void decode_match_address(WorkloadSpec& workload, Fields& match) {
  const auto address = match.address("address");
  if (!address) return;
  if (address->is_loopback() || address->is_unspecified() || address->is_multicast() ||
      address->is_link_local()) {
    match.error("address", "is no address that one workload could have to itself");
  }
  workload.match = MatchAddress{*address};
}

void decode_netns(WorkloadSpec& workload, Fields& match) {
  const Value* value = match.get("netns");
  MatchNetns netns;
  if (value->kind == Value::Kind::kInteger) {
    netns.pid = static_cast<std::uint32_t>(match.integer("netns", 1, kMaxPid).value_or(1));
  } else {
    netns.path = match.text("netns").value_or("/");
    const std::string inside = netns.path + "/";
    if (value->kind == Value::Kind::kString &&
        (!is_namespace_path(netns.path) || netns.path.size() > kMaxNetnsBytes ||
         !is_plain_printable(netns.path) || inside.find("/../") != std::string::npos ||
         inside.find("/./") != std::string::npos || inside.find("//") != std::string::npos)) {
      match.error("netns",
                  "is neither the id of a process nor an absolute path without '.', '..' and "
                  "blanks, such as /run/netns/NAME: " +
                      std::string(kNamespacePaths));
    }
  }
  workload.match = std::move(netns);
}

void decode_match(WorkloadSpec& workload, Fields& spec, Diagnostics& out) {
  static constexpr std::string_view kShape =
      "must have exactly one of systemdUnit, user, cgroup, netns, address";
  const Value* value = spec.map("match");
  if (value == nullptr) {
    if (spec.get("match") == nullptr)
      spec.error("match", "is required: exactly one of user, cgroup, netns, address");
    return;
  }
  Fields match(*value, "spec.match", out);
  static constexpr std::array<std::string_view, 5> kWays = {"systemdUnit", "user", "cgroup",
                                                            "netns", "address"};
  const auto given = std::count_if(kWays.begin(), kWays.end(),
                                   [&](std::string_view way) { return match.get(way) != nullptr; });
  match.finish();
  if (given != 1) {
    if (out.empty() || given > 1) spec.error("match", std::string(kShape));
    return;
  }
  match.refuse("systemdUnit", "is not supported by this version; use user or cgroup");
  if (match.get("user") != nullptr) decode_user(workload, match);
  if (match.get("cgroup") != nullptr) decode_cgroup(workload, match);
  if (match.get("address") != nullptr) decode_match_address(workload, match);
  if (match.get("netns") != nullptr) decode_netns(workload, match);
}

Protocol to_protocol(std::string_view name) {
  if (name == "HTTP") return Protocol::kHttp;
  if (name == "HTTP2") return Protocol::kHttp2;
  if (name == "GRPC") return Protocol::kGrpc;
  return Protocol::kTcp;
}

WorkloadPort decode_port(const Value& value, std::string path, bool force, Diagnostics& out) {
  WorkloadPort port;
  Fields fields(value, std::move(path), out);
  port.name = fields.text("name").value_or("");
  if (!port.name.empty() && !is_dns_label(port.name)) {
    fields.error("name", "is not a DNS label (at most 63 of a-z, 0-9 and '-')");
  }
  const auto number = fields.port("port");
  if (!number && fields.get("port") == nullptr) fields.error("port", "is required");
  port.port = number.value_or(0);
  if (number && is_reserved_port(*number) && !force) {
    fields.error("port", fmt::format("{} belongs to {}; say force: true if you mean it", *number,
                                     *number == 22 ? "SSH" : "meshnode itself"));
  }
  if (fields.get("protocol") != nullptr && fields.text("protocol") == "UDP") {
    fields.error("protocol", "UDP is not supported by this version");
  } else {
    port.protocol =
        to_protocol(fields.one_of("protocol", {"TCP", "HTTP", "HTTP2", "GRPC"}).value_or("TCP"));
  }
  fields.finish();
  return port;
}

void decode_ports(WorkloadSpec& workload, Fields& spec, Diagnostics& out) {
  const std::vector<Value>& items = spec.list("ports", kMaxWorkloadPorts);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::string path = fmt::format("spec.ports[{}]", i);
    WorkloadPort port = decode_port(items[i], path, workload.force, out);
    for (const WorkloadPort& other : workload.ports) {
      if (port.port != 0 && other.port == port.port) {
        out.add(items[i].at, fmt::format("{}.port: {} is declared twice", path, port.port));
      }
      if (!port.name.empty() && other.name == port.name) {
        out.add(items[i].at, fmt::format("{}.name: '{}' is used twice", path, port.name));
      }
    }
    workload.ports.push_back(std::move(port));
  }
}

}  // namespace

bool is_reserved_port(std::uint16_t port) {
  static constexpr std::array<std::uint16_t, 10> kReserved = {22,    7946,  15000, 15001, 15006,
                                                              15008, 15012, 15020, 15021, 15053};
  return std::find(kReserved.begin(), kReserved.end(), port) != kReserved.end();
}

std::string decode_locality(Fields& fields, std::string_view key) {
  std::string locality = fields.text(key).value_or("");
  if (locality.empty()) return locality;
  const std::string inside = "/" + locality + "/";
  if (locality.size() > 253 || !is_plain_printable(locality) ||
      std::count(locality.begin(), locality.end(), '/') > 2 ||
      inside.find("//") != std::string::npos) {
    fields.error(key, "is not region[/zone[/subzone]]");
  }
  return locality;
}

std::string decode_service_account(Fields& fields) {
  std::string account = fields.text("serviceAccount").value_or("default");
  if (!is_dns_label(account)) {
    fields.error("serviceAccount", "is not a DNS label (at most 63 of a-z, 0-9 and '-')");
  }
  return account;
}

NodeSpec decode_node(const Value& value, Diagnostics& out) {
  NodeSpec node;
  Fields spec(value, "spec", out);
  node.address = spec.address("address");
  if (node.address && (node.address->is_loopback() || node.address->is_unspecified() ||
                       node.address->is_multicast())) {
    spec.error("address", "other nodes cannot reach this address; use one of the host's own");
  }
  node.locality = decode_locality(spec, "locality");
  decode_identity(node, spec, out);
  decode_capture(node, spec, out);
  decode_proxy(node, spec, out);
  if (const Value* log_value = spec.map("accessLog")) {
    Fields log(*log_value, "spec.accessLog", out);
    const std::string format = log.one_of("format", {"text", "json", "off"}).value_or("text");
    node.access_log = format == "json"  ? NodeSpec::AccessLog::kJson
                      : format == "off" ? NodeSpec::AccessLog::kOff
                                        : NodeSpec::AccessLog::kText;
    log.finish();
  }
  spec.finish();
  return node;
}

WorkloadSpec decode_workload(const Value& value, Diagnostics& out) {
  WorkloadSpec workload;
  Fields spec(value, "spec", out);
  workload.force = spec.boolean("force").value_or(false);
  workload.is_default = spec.boolean("default").value_or(false);
  decode_match(workload, spec, out);
  workload.service_account = decode_service_account(spec);
  decode_ports(workload, spec, out);
  spec.refuse("probe");
  spec.finish();
  return workload;
}

}  // namespace meshnode::model
