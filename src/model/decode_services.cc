#include <fmt/format.h>
#include <meshnode/ids.h>
#include <algorithm>
#include "model/decode_kinds.h"

namespace meshnode::model {
namespace {

constexpr std::size_t kMaxServicePorts = 256;
constexpr std::size_t kMaxServiceAddresses = 64;
constexpr std::size_t kMaxHosts = 64;
constexpr std::size_t kMaxInlineEndpoints = 10'000;
constexpr std::string_view kTunnelLabel = "networking.istio.io/tunnel";
constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kNotSupported = "is not supported by this version";

/// A field whose default has no effect here, and whose every other value would have one.
void only(Fields& fields, std::string_view key, std::string_view harmless) {
  const auto value = fields.text(key);
  if (value && *value != harmless) {
    fields.error(key,
                 fmt::format("'{}' {}; only {} is", value->substr(0, 80), kNotSupported, harmless));
  }
}

/// Protocols whose bytes are carried as they are; UDP and friends are not.
Protocol decode_protocol(Fields& fields, std::initializer_list<std::string_view> allowed) {
  const auto name = fields.text("protocol");
  if (name && (*name == "UDP" || *name == "SCTP")) {
    fields.error("protocol", fmt::format("{} {}", *name, kNotSupported));
    return Protocol::kTcp;
  }
  const std::string known = fields.one_of("protocol", allowed).value_or("TCP");
  if (known == "HTTP") return Protocol::kHttp;
  if (known == "HTTP2") return Protocol::kHttp2;
  if (known == "GRPC" || known == "GRPC-WEB") return Protocol::kGrpc;
  return Protocol::kTcp;
}

/// An address that may stand for a service: routable and not the host itself.
void add_address(const Fields::Item& item, Fields& fields, std::string_view key,
                 std::vector<IpAddress>& addresses) {
  const std::string& text = item.text;
  const auto ip = IpAddress::parse(text);
  if (!ip) {
    const bool range = text.find('/') != std::string::npos;
    fields.error_at(item.at, key,
                    fmt::format("'{}' {}", text.substr(0, 80),
                                range ? "is a range, which is not supported by this version"
                                      : "is not an IP address"));
  } else if (ip->is_loopback() || ip->is_unspecified() || ip->is_multicast()) {
    fields.error_at(item.at, key, fmt::format("'{}' cannot stand for a service", text));
  } else if (std::find(addresses.begin(), addresses.end(), *ip) == addresses.end()) {
    addresses.push_back(*ip);
  }
}

/// `items` are the values that `ports` were read from.
void check_ports(const std::vector<ServicePort>& ports, const std::vector<Value>& items,
                 Fields& spec) {
  for (std::size_t i = 0; i < ports.size(); ++i) {
    const Position at = items[i].at;
    if (ports.size() > 1 && ports[i].name.empty()) {
      spec.error_at(at, "ports", fmt::format("ports[{}] needs a name, as there are several", i));
      return;
    }
    for (std::size_t k = 0; k < i; ++k) {
      if (ports[k].port != 0 && ports[k].port == ports[i].port) {
        spec.error_at(at, "ports", fmt::format("port {} is listed twice", ports[i].port));
        return;
      }
      if (!ports[k].name.empty() && ports[k].name == ports[i].name) {
        spec.error_at(at, "ports", fmt::format("the name '{}' is used twice", ports[i].name));
        return;
      }
    }
  }
}

std::string decode_port_name(Fields& fields) {
  std::string name = fields.text("name").value_or("");
  if (!name.empty() && !is_dns_label(name)) {
    fields.error("name", "is not a DNS label (at most 63 of a-z, 0-9 and '-')");
  }
  return name;
}

ServicePort decode_service_port(const Value& value, std::string path, Diagnostics& out) {
  ServicePort port;
  Fields fields(value, std::move(path), out);
  port.name = decode_port_name(fields);
  port.port = fields.port("port").value_or(0);
  if (fields.get("port") == nullptr) fields.error("port", "is required");
  if (const Value* target = fields.get("targetPort")) {
    if (target->kind == Value::Kind::kInteger) {
      port.target = fields.port("targetPort").value_or(0);
    } else {
      const std::string name = fields.text("targetPort").value_or("");
      if (target->kind == Value::Kind::kString &&
          (!is_dns_label(name) || name.find_first_of(kLetters) == std::string::npos)) {
        fields.error("targetPort", "is neither a port name nor a number without quotes");
      }
      port.target = name;
    }
  }
  port.protocol = decode_protocol(fields, {"TCP"});
  const auto application = fields.text("appProtocol");
  if (application == "http") port.protocol = Protocol::kHttp;
  if (application == "http2" || application == "kubernetes.io/h2c")
    port.protocol = Protocol::kHttp2;
  if (application == "grpc") port.protocol = Protocol::kGrpc;
  fields.refuse("nodePort");
  fields.finish();
  return port;
}

/// Fields of a Kubernetes Service that say nothing to us at their defaults.
void decode_harmless_service_fields(Fields& spec) {
  only(spec, "type", "ClusterIP");
  only(spec, "sessionAffinity", "None");
  only(spec, "internalTrafficPolicy", "Cluster");
  // How Kubernetes allots clusterIPs; the addresses themselves are in the document.
  spec.one_of("ipFamilyPolicy", {"SingleStack", "PreferDualStack", "RequireDualStack"});
  spec.texts("ipFamilies", 2);
  if (spec.boolean("publishNotReadyAddresses").value_or(false)) {
    spec.error("publishNotReadyAddresses", "true is not supported by this version; only false is");
  }
  if (!spec.list("externalIPs", 0).empty()) spec.refuse("externalIPs");
}

WorkloadEntrySpec decode_endpoint(Fields& fields, const Labels& metadata_labels) {
  WorkloadEntrySpec entry;
  const auto address = fields.text("address");
  if (!address) {
    if (fields.get("address") == nullptr) fields.error("address", "is required");
  } else if (const auto ip = IpAddress::parse(*address)) {
    entry.address = *ip;
    if (ip->is_loopback() || ip->is_unspecified() || ip->is_multicast()) {
      fields.error("address", "does not name one host in the mesh");
    }
  } else {
    fields.error("address",
                 fmt::format("'{}' is not an IP address; {} addresses are not supported "
                             "by this version",
                             address->substr(0, 80), address->find("unix:") == 0 ? "unix" : "DNS"));
  }
  entry.labels = metadata_labels;
  // insert() keeps what metadata said, as Istio does.
  const Labels own = fields.labels("labels");
  entry.labels.insert(own.begin(), own.end());
  entry.locality = decode_locality(fields, "locality");
  entry.service_account = decode_service_account(fields);
  const auto tunnel = entry.labels.find(std::string(kTunnelLabel));
  entry.tunnelled = tunnel != entry.labels.end() && tunnel->second == "http";
  if (tunnel != entry.labels.end() && tunnel->second != "http" && tunnel->second != "none") {
    // A slip of the pen must not mean plaintext.
    fields.error("labels", fmt::format("{} is '{}'; it must be http (through HBONE) or none",
                                       kTunnelLabel, tunnel->second.substr(0, 80)));
  }
  fields.refuse("network");
  if (fields.get("weight") != nullptr && fields.integer("weight", 0, 4294967295).value_or(1) != 1) {
    fields.error("weight", "weights other than 1 are not supported by this version");
  }
  return entry;
}

void decode_endpoint_ports(WorkloadEntrySpec& entry, Fields& fields, std::string path,
                           Diagnostics& out) {
  const Value* value = fields.map("ports");
  if (value == nullptr) return;
  if (value->keys.size() > kMaxServicePorts) {
    fields.error("ports", fmt::format("at most {} are allowed", kMaxServicePorts));
    return;
  }
  Fields ports(*value, std::move(path), out);
  for (const Value::Key& key : value->keys) {
    if (!is_dns_label(key.text)) {
      out.add(key.at, fmt::format("{}: a port name is a DNS label", ports.path_of(key.text)));
    } else if (const auto number = ports.port(key.text)) {
      entry.ports.emplace(key.text, *number);
    } else if (ports.get(key.text) == nullptr) {
      ports.error(key.text, "is required");
    }
  }
}

void decode_hosts(ServiceEntrySpec& entry, Fields& spec) {
  const std::vector<Fields::Item> hosts = spec.texts("hosts", kMaxHosts);
  if (hosts.empty()) spec.error("hosts", "at least one is required");
  for (const Fields::Item& item : hosts) {
    const std::string& host = item.text;
    entry.hosts.push_back(host);
    if (host.find('*') != std::string::npos) {
      spec.error_at(item.at, "hosts",
                    fmt::format("'{}': wildcard hosts are not supported by this version",
                                host.substr(0, 80)));
    } else if (!is_dns_name(host)) {
      spec.error_at(item.at, "hosts",
                    fmt::format("'{}' is not a DNS name in lower case", host.substr(0, 80)));
    }
  }
}

void decode_resolution(Fields& spec) {
  const auto resolution =
      spec.one_of("resolution", {"NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"});
  if (spec.get("resolution") == nullptr) {
    spec.error("resolution", "its default, NONE, is not supported by this version; say STATIC");
  } else if (resolution && *resolution != "STATIC") {
    spec.error("resolution",
               fmt::format("{} is not supported by this version; only STATIC is", *resolution));
  }
}

void decode_entry_ports(ServiceEntrySpec& entry, Fields& spec, Diagnostics& out) {
  const std::vector<Value>& ports = spec.list("ports", kMaxServicePorts);
  for (std::size_t i = 0; i < ports.size(); ++i) {
    ServicePort port;
    Fields fields(ports[i], fmt::format("spec.ports[{}]", i), out);
    port.name = decode_port_name(fields);
    if (port.name.empty() && fields.get("name") == nullptr) fields.error("name", "is required");
    port.port = fields.port("number").value_or(0);
    if (fields.get("number") == nullptr) fields.error("number", "is required");
    if (const auto target = fields.port("targetPort")) port.target = *target;
    port.protocol = decode_protocol(
        fields, {"TCP", "HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS", "TLS", "MONGO"});
    fields.finish();
    entry.ports.push_back(std::move(port));
  }
  if (ports.empty()) spec.error("ports", "at least one is required");
  check_ports(entry.ports, ports, spec);
}

void decode_entry_endpoints(ServiceEntrySpec& entry, Fields& spec, Diagnostics& out) {
  const std::vector<Value>& endpoints = spec.list("endpoints", kMaxInlineEndpoints);
  for (std::size_t i = 0; i < endpoints.size(); ++i) {
    const std::string path = fmt::format("spec.endpoints[{}]", i);
    Fields fields(endpoints[i], path, out);
    entry.endpoints.push_back(decode_endpoint(fields, {}));
    decode_endpoint_ports(entry.endpoints.back(), fields, path + ".ports", out);
    fields.finish();
  }
  const Value* selector = spec.map("workloadSelector");
  if (selector == nullptr) return;
  if (!endpoints.empty()) spec.error("workloadSelector", "excludes endpoints; use one of the two");
  Fields fields(*selector, "spec.workloadSelector", out);
  entry.selector = fields.labels("labels");
  if (entry.selector.empty() && fields.get("labels") == nullptr) {
    fields.error("labels", "is required");
  }
  fields.finish();
}

}  // namespace

ServiceSpec decode_service(const Value& value, Diagnostics& out) {
  ServiceSpec service;
  Fields spec(value, "spec", out);
  // "None" and "" say that the Service has no address of its own.
  const auto add = [&](const Fields::Item& item, std::string_view key) {
    if (item.text.empty() || item.text == "None") return;
    add_address(item, spec, key, service.addresses);
  };
  if (const auto ip = spec.text("clusterIP")) add({*ip, spec.get("clusterIP")->at}, "clusterIP");
  for (const Fields::Item& item : spec.texts("clusterIPs", 2)) add(item, "clusterIPs");
  service.selector = spec.labels("selector");
  const std::vector<Value>& ports = spec.list("ports", kMaxServicePorts);
  for (std::size_t i = 0; i < ports.size(); ++i) {
    service.ports.push_back(decode_service_port(ports[i], fmt::format("spec.ports[{}]", i), out));
  }
  check_ports(service.ports, ports, spec);
  decode_harmless_service_fields(spec);
  for (const std::string_view key :
       {"externalName", "externalTrafficPolicy", "loadBalancerIP", "loadBalancerClass",
        "loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "healthCheckNodePort",
        "sessionAffinityConfig", "trafficDistribution"}) {
    spec.refuse(key);
  }
  spec.finish();
  return service;
}

WorkloadEntrySpec decode_workload_entry(const Value& value, const Labels& metadata_labels,
                                        Diagnostics& out) {
  Fields spec(value, "spec", out);
  WorkloadEntrySpec entry = decode_endpoint(spec, metadata_labels);
  decode_endpoint_ports(entry, spec, "spec.ports", out);
  spec.finish();
  return entry;
}

ServiceEntrySpec decode_service_entry(const Value& value, Diagnostics& out) {
  ServiceEntrySpec entry;
  Fields spec(value, "spec", out);
  decode_hosts(entry, spec);
  for (const Fields::Item& address : spec.texts("addresses", kMaxServiceAddresses)) {
    add_address(address, spec, "addresses", entry.addresses);
  }
  decode_entry_ports(entry, spec, out);
  const auto location = spec.one_of("location", {"MESH_EXTERNAL", "MESH_INTERNAL"});
  entry.mesh_internal = location == "MESH_INTERNAL";
  decode_resolution(spec);
  decode_entry_endpoints(entry, spec, out);
  for (const Fields::Item& to : spec.texts("exportTo", kMaxHosts)) {
    if (to.text != "*") {
      spec.error_at(
          to.at, "exportTo",
          fmt::format("'{}' is not supported by this version; only '*' is", to.text.substr(0, 80)));
    }
  }
  spec.refuse("subjectAltNames");
  spec.finish();
  return entry;
}

}  // namespace meshnode::model
