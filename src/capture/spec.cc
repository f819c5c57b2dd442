#include "capture/spec.h"

#include <fmt/format.h>
#include <meshnode/ids.h>
#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/escape.h"
#include "base/namespace_path.h"

namespace meshnode::capture {
namespace {

constexpr std::size_t kMaxPath = 511;  // XT_CGROUP_PATH_MAX is 512 with the final NUL
constexpr std::size_t kMaxEncoded = std::size_t{2} << 20;
constexpr int kMaxDepth = 4;
constexpr std::uint32_t kNoUser = 0xffffffff;  // (uid_t)-1 means "no change" to the kernel
constexpr std::uint32_t kMaxPid = 4'194'304;   // PID_MAX_LIMIT of 64-bit kernels

constexpr std::array<std::uint16_t, 9> kOurPorts = {
    7946, 15000, kOutboundPort, kInboundPort, kTunnelPort, 15012, 15020, 15021, 15053};

constexpr std::array<std::uint8_t, 6> kPrefix6Bytes = {0xfd, 0x6d, 0x65, 0x73, 0x68, 0x6e};

Error invalid(std::string what) { return {ErrorCode::kInvalid, "capture: " + std::move(what)}; }

Status check_path(std::string_view path) {
  if (path.empty() || path.size() > kMaxPath) {
    return fail(invalid(fmt::format("a cgroup path has 1 to {} characters", kMaxPath)));
  }
  for (const char c : path) {
    if (c < 0x20 || c > 0x7e) {
      return fail(invalid(
          fmt::format("cgroup {}: only printable ASCII is allowed", meshnode::quoted(path))));
    }
  }
  for (std::string_view rest = path;;) {
    const std::size_t end = rest.find('/');
    const std::string_view part = rest.substr(0, end);
    if (part.empty() || part == "." || part == "..") {
      return fail(invalid(fmt::format(
          "cgroup {}: give it below the cgroup2 mount, without leading or trailing slash, . or ..",
          meshnode::quoted(path))));
    }
    if (end == rest.npos) return {};
    rest.remove_prefix(end + 1);
  }
}

Status check_ports(const Enrolled& workload) {
  if (workload.ports.size() > kMaxPorts) {
    return fail(invalid(fmt::format("{}: more than {} ports", workload.name, kMaxPorts)));
  }
  std::set<std::uint16_t> seen;
  for (const std::uint16_t port : workload.ports) {
    if (port == 0 || !seen.insert(port).second) {
      return fail(invalid(fmt::format("{}: port {} is 0 or twice", workload.name, port)));
    }
    if (is_own_port(port)) {
      return fail(invalid(
          fmt::format("{}: port {} is one of meshnode's own; move the program to another port",
                      workload.name, port)));
    }
  }
  return {};
}

Status check_namespace(const Enrolled& workload, const ByNamespace& place) {
  if (place.path.empty() == (place.pid == 0) || place.pid > kMaxPid) {
    return fail(invalid(fmt::format("{}: a network namespace is named by a path or by a process "
                                    "id of 1 to {}",
                                    workload.name, kMaxPid)));
  }
  if (place.path.empty()) return {};
  if (!is_namespace_path(place.path)) {
    return fail(invalid(fmt::format("{}: the network namespace {} is not named by a path {}",
                                    workload.name, meshnode::quoted(place.path), kNamespacePaths)));
  }
  return check_path(std::string_view(place.path).substr(1));
}

Status check_address(const Enrolled& workload, const IpAddress& address) {
  if (!address.is_loopback() && !address.is_unspecified() && !address.is_multicast() &&
      !address.is_link_local()) {
    return {};
  }
  return fail(invalid(fmt::format("{}: {} is no address that a workload can be told by",
                                  workload.name, address.text())));
}

Status check_owner(const Enrolled& workload) {
  if (const auto* user = std::get_if<ByUser>(&workload.owner)) {
    if (user->uid != kNoUser) return {};
    return fail(invalid(fmt::format("{}: {} is no user id", workload.name, kNoUser)));
  }
  if (const auto* cgroup = std::get_if<ByCgroup>(&workload.owner)) return check_path(cgroup->path);
  if (const auto* at = std::get_if<ByAddress>(&workload.owner)) {
    return check_address(workload, at->address);
  }
  return check_namespace(workload, std::get<ByNamespace>(workload.owner));
}

Status check_excludes(const Spec& spec) {
  if (spec.exclude_ports.size() > kMaxExcludes || spec.exclude_cidrs.size() > kMaxExcludes) {
    return fail(invalid(fmt::format("more than {} ports or address blocks excluded",
                                    kMaxExcludes)));
  }
  const auto ascending = [](const auto& values) {
    return std::adjacent_find(values.begin(), values.end(), std::greater_equal<>()) == values.end();
  };
  if (!ascending(spec.exclude_ports) || !ascending(spec.exclude_cidrs)) {
    return fail(invalid("what is excluded is not in order, or twice"));
  }
  if (!spec.exclude_ports.empty() && spec.exclude_ports.front() == 0) {
    return fail(invalid("port 0 is excluded"));
  }
  for (const IpPrefix& prefix : spec.exclude_cidrs) {
    if (prefix.length() < kWidestExclude) {
      return fail(invalid(fmt::format("{} excludes too much", prefix.text())));
    }
  }
  return {};
}

/// Before the parser, whose memory would grow with the depth.
bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

bool has_exactly(const nlohmann::json& object, std::initializer_list<const char*> keys) {
  if (!object.is_object() || object.size() != keys.size()) return false;
  return std::all_of(keys.begin(), keys.end(),
                     [&](const char* key) { return object.contains(key); });
}

template <class Number>
std::optional<Number> number(const nlohmann::json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto wide = value.get<std::uint64_t>();
  if (wide > std::numeric_limits<Number>::max()) return std::nullopt;
  return static_cast<Number>(wide);
}

Result<Owner> decode_owner(std::string_view by, const nlohmann::json& value) {
  const auto id = number<std::uint32_t>(value);
  if (by == "user" && id) return Owner(ByUser{*id});
  if (by == "pid" && id) return Owner(ByNamespace{{}, *id});
  if (by == "cgroup" && value.is_string()) return Owner(ByCgroup{value.get<std::string>()});
  if (by == "netns" && value.is_string()) return Owner(ByNamespace{value.get<std::string>(), 0});
  if (by == "address" && value.is_string()) {
    auto address = IpAddress::parse(value.get_ref<const std::string&>());
    if (!address) return fail(invalid(address.error().message));
    return Owner(ByAddress{*address});
  }
  return fail(invalid(fmt::format("a workload's {} has the wrong type", by)));
}

void encode_owner(const Owner& owner, nlohmann::json& entry) {
  if (const auto* user = std::get_if<ByUser>(&owner)) {
    entry["user"] = user->uid;
  } else if (const auto* cgroup = std::get_if<ByCgroup>(&owner)) {
    entry["cgroup"] = cgroup->path;
  } else if (const auto* at = std::get_if<ByAddress>(&owner)) {
    entry["address"] = at->address.text();
  } else if (const auto& place = std::get<ByNamespace>(owner); place.pid != 0) {
    entry["pid"] = place.pid;
  } else {
    entry["netns"] = place.path;
  }
}

Result<Enrolled> decode_workload(const nlohmann::json& from) {
  constexpr std::array<const char*, 5> kOwners = {"user", "cgroup", "address", "netns", "pid"};
  const auto by = std::find_if(kOwners.begin(), kOwners.end(), [&](const char* owner) {
    return has_exactly(from, {"name", "slot", owner, "ports"});
  });
  if (by == kOwners.end()) {
    return fail(invalid("a workload has exactly name, slot, ports and one of user, cgroup, "
                        "address, netns, pid"));
  }
  const auto slot = number<std::uint16_t>(from["slot"]);
  if (!from["name"].is_string() || !slot || !from["ports"].is_array()) {
    return fail(invalid("a workload's name, slot or ports has the wrong type"));
  }
  Enrolled workload;
  workload.name = from["name"].get<std::string>();
  workload.slot = *slot;
  auto owner = decode_owner(*by, from[*by]);
  if (!owner) return fail(owner.error());
  workload.owner = std::move(*owner);
  for (const nlohmann::json& entry : from["ports"]) {
    const auto port = number<std::uint16_t>(entry);
    if (!port) return fail(invalid("a workload's port is not a number from 1 to 65535"));
    workload.ports.push_back(*port);
  }
  return workload;
}

Status decode_excludes(const nlohmann::json& all, Spec& spec) {
  for (const nlohmann::json& entry : all["excludePorts"]) {
    const auto port = number<std::uint16_t>(entry);
    if (!port) return fail(invalid("an excluded port is not a number from 1 to 65535"));
    spec.exclude_ports.push_back(*port);
  }
  for (const nlohmann::json& entry : all["excludeCidrs"]) {
    if (!entry.is_string()) return fail(invalid("an excluded block is not a string"));
    auto prefix = IpPrefix::parse(entry.get_ref<const std::string&>());
    if (!prefix) return fail(invalid(prefix.error().message));
    spec.exclude_cidrs.push_back(*prefix);
  }
  return {};
}

}  // namespace

bool is_own_port(std::uint16_t port) {
  return std::find(kOurPorts.begin(), kOurPorts.end(), port) != kOurPorts.end();
}

bool is_workload_name(std::string_view name) {
  const std::size_t slash = name.find('/');
  return slash != name.npos && is_dns_label(name.substr(0, slash)) &&
         is_dns_label(name.substr(slash + 1));
}

Spec of_host(const Spec& spec) {
  Spec host = spec;
  std::erase_if(host.workloads, [](const Enrolled& workload) {
    return std::holds_alternative<ByNamespace>(workload.owner);
  });
  return host;
}

Spec of_namespace(const Spec& spec, const Enrolled& workload) {
  Spec inside = spec;
  inside.workloads = {workload};
  return inside;
}

std::string text_of(const Owner& owner) {
  if (const auto* user = std::get_if<ByUser>(&owner)) return fmt::format("uid {}", user->uid);
  if (const auto* cgroup = std::get_if<ByCgroup>(&owner)) return "cgroup " + cgroup->path;
  if (const auto* at = std::get_if<ByAddress>(&owner)) return "address " + at->address.text();
  const auto& place = std::get<ByNamespace>(owner);
  return place.pid != 0 ? fmt::format("network namespace of process {}", place.pid)
                        : "network namespace " + place.path;
}

IpAddress capture_address(Family family, std::uint16_t slot) {
  const auto high = static_cast<std::uint8_t>(slot >> 8);
  const auto low = static_cast<std::uint8_t>(slot & 0xff);
  if (family == Family::kV4) return IpAddress::v4({127, 15, high, low});
  std::array<std::uint8_t, 16> bytes{};
  std::copy(kPrefix6Bytes.begin(), kPrefix6Bytes.end(), bytes.begin());
  bytes[14] = high;
  bytes[15] = low;
  return IpAddress::v6(bytes);
}

Result<std::uint16_t> slot_of(const IpAddress& address) {
  const Bytes bytes = address.bytes();
  const auto slot =
      static_cast<std::uint16_t>((bytes[bytes.size() - 2] << 8) | bytes[bytes.size() - 1]);
  if (slot == 0 || slot > kMaxSlot || capture_address(address.family(), slot) != address) {
    return fail(ErrorCode::kInvalid,
                fmt::format("{} is not a capture address; it was not reached through the rules",
                            address.text()));
  }
  return slot;
}

Status check(const Spec& spec) {
  if (spec.workloads.size() > kMaxWorkloads) {
    return fail(invalid(fmt::format("more than {} workloads on one host", kMaxWorkloads)));
  }
  if (auto excludes = check_excludes(spec); !excludes) return excludes;
  std::set<std::string> names;
  std::set<std::uint16_t> slots;
  std::set<std::string> owners;
  for (const Enrolled& workload : spec.workloads) {
    if (!is_workload_name(workload.name) || !names.insert(workload.name).second) {
      return fail(invalid(fmt::format("workload {}: not \"namespace/name\", or twice",
                                      meshnode::quoted(workload.name))));
    }
    if (workload.slot == 0 || workload.slot > kMaxSlot || !slots.insert(workload.slot).second) {
      return fail(invalid(fmt::format("{}: slot {} is not one of 1 to {}, or taken", workload.name,
                                      workload.slot, kMaxSlot)));
    }
    if (auto owner = check_owner(workload); !owner) return owner;
    if (auto ports = check_ports(workload); !ports) return ports;
    if (!owners.insert(text_of(workload.owner)).second) {
      return fail(invalid(fmt::format("{}: another workload has the same {}, so its callers have "
                                      "no one name; give each its own",
                                      workload.name, text_of(workload.owner))));
    }
  }
  return {};
}

std::string encode(const Spec& spec) {
  nlohmann::json workloads = nlohmann::json::array();
  for (const Enrolled& workload : spec.workloads) {
    nlohmann::json entry = {
        {"name", workload.name}, {"slot", workload.slot}, {"ports", workload.ports}};
    encode_owner(workload.owner, entry);
    workloads.push_back(std::move(entry));
  }
  nlohmann::json prefixes = nlohmann::json::array();
  for (const IpPrefix& prefix : spec.exclude_cidrs) prefixes.push_back(prefix.text());
  const nlohmann::json all = {{"workloads", std::move(workloads)},
                              {"excludePorts", spec.exclude_ports},
                              {"excludeCidrs", std::move(prefixes)},
                              {"captureLoopback", spec.capture_loopback},
                              {"preserveSource", spec.preserve_source}};
  // A name that is not UTF-8 does not pass check(); encode() must not throw for it.
  return all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<Spec> decode(std::string_view text) {
  if (text.size() > kMaxEncoded) {
    return fail(ErrorCode::kLimit, fmt::format("capture: more than {} bytes", kMaxEncoded));
  }
  if (too_deep(text)) return fail(invalid("nested too deeply"));
  const nlohmann::json all = nlohmann::json::parse(text, nullptr, false);
  if (all.is_discarded()) return fail(invalid("not JSON"));
  if (!has_exactly(all, {"workloads", "captureLoopback", "preserveSource", "excludePorts",
                         "excludeCidrs"}) ||
      !all["workloads"].is_array() || !all["captureLoopback"].is_boolean() ||
      !all["preserveSource"].is_boolean() || !all["excludePorts"].is_array() ||
      !all["excludeCidrs"].is_array()) {
    return fail(invalid("expected exactly workloads, captureLoopback, preserveSource, "
                        "excludePorts and excludeCidrs"));
  }
  Spec spec;
  spec.capture_loopback = all["captureLoopback"].get<bool>();
  spec.preserve_source = all["preserveSource"].get<bool>();
  if (auto excludes = decode_excludes(all, spec); !excludes) return fail(excludes.error());
  if (all["workloads"].size() > kMaxWorkloads) {
    return fail(invalid(fmt::format("more than {} workloads on one host", kMaxWorkloads)));
  }
  for (const nlohmann::json& entry : all["workloads"]) {
    auto workload = decode_workload(entry);
    if (!workload) return fail(workload.error());
    spec.workloads.push_back(std::move(*workload));
  }
  if (auto ok = check(spec); !ok) return fail(ok.error());
  return spec;
}

}  // namespace meshnode::capture
