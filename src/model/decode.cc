#include "model/decode.h"

#include <fmt/format.h>
#include <meshnode/ids.h>
#include <algorithm>
#include <array>
#include "model/decode_kinds.h"
#include "model/fields.h"

namespace meshnode::model {
namespace {

enum class Support : std::uint8_t {
  kNode,
  kWorkload,
  kService,
  kServiceEntry,
  kWorkloadEntry,
  kNo
};

struct KnownKind {
  std::string_view kind;
  std::string_view group;     ///< empty for the core group
  std::string_view versions;  ///< separated by blanks
  Support support;
};

/// Kinds of the ecosystem that mean something to a mesh are known by name even before they are
/// supported, so that nobody takes a refused policy for one in force.
constexpr std::array kKnownKinds = {
    KnownKind{"Node", "meshnode.io", "v1", Support::kNode},
    KnownKind{"Workload", "meshnode.io", "v1", Support::kWorkload},
    KnownKind{"Service", "", "v1", Support::kService},
    KnownKind{"ServiceEntry", "networking.istio.io", "v1 v1beta1 v1alpha3", Support::kServiceEntry},
    KnownKind{"WorkloadEntry", "networking.istio.io", "v1 v1beta1 v1alpha3",
              Support::kWorkloadEntry},
    KnownKind{"WorkloadGroup", "networking.istio.io", "v1 v1beta1 v1alpha3", Support::kNo},
    KnownKind{"VirtualService", "networking.istio.io", "v1 v1beta1 v1alpha3", Support::kNo},
    KnownKind{"DestinationRule", "networking.istio.io", "v1 v1beta1 v1alpha3", Support::kNo},
    KnownKind{"Gateway", "networking.istio.io", "v1 v1beta1 v1alpha3", Support::kNo},
    KnownKind{"Sidecar", "networking.istio.io", "v1 v1beta1 v1alpha3", Support::kNo},
    KnownKind{"EnvoyFilter", "networking.istio.io", "v1alpha3", Support::kNo},
    KnownKind{"ProxyConfig", "networking.istio.io", "v1beta1", Support::kNo},
    KnownKind{"AuthorizationPolicy", "security.istio.io", "v1 v1beta1", Support::kNo},
    KnownKind{"PeerAuthentication", "security.istio.io", "v1 v1beta1", Support::kNo},
    KnownKind{"RequestAuthentication", "security.istio.io", "v1 v1beta1", Support::kNo},
    KnownKind{"Telemetry", "telemetry.istio.io", "v1 v1alpha1", Support::kNo},
    KnownKind{"WasmPlugin", "extensions.istio.io", "v1alpha1", Support::kNo},
    KnownKind{"Gateway", "gateway.networking.k8s.io", "v1 v1beta1", Support::kNo},
    KnownKind{"GatewayClass", "gateway.networking.k8s.io", "v1 v1beta1", Support::kNo},
    KnownKind{"HTTPRoute", "gateway.networking.k8s.io", "v1 v1beta1", Support::kNo},
    KnownKind{"GRPCRoute", "gateway.networking.k8s.io", "v1", Support::kNo},
    KnownKind{"TCPRoute", "gateway.networking.k8s.io", "v1 v1alpha2", Support::kNo},
    KnownKind{"UDPRoute", "gateway.networking.k8s.io", "v1 v1alpha2", Support::kNo},
    KnownKind{"TLSRoute", "gateway.networking.k8s.io", "v1 v1alpha2 v1alpha3", Support::kNo},
};

bool lists(std::string_view versions, std::string_view version) {
  while (!versions.empty()) {
    const std::size_t blank = versions.find(' ');
    if (versions.substr(0, blank) == version) return true;
    if (blank == std::string_view::npos) return false;
    versions.remove_prefix(blank + 1);
  }
  return false;
}

std::string newest(const KnownKind& known) {
  const std::string_view version = known.versions.substr(0, known.versions.find(' '));
  return known.group.empty() ? std::string(version) : fmt::format("{}/{}", known.group, version);
}

/// The entry for kind and apiVersion; otherwise reports what is wrong with the two.
const KnownKind* identify(Fields& top, const std::string& api_version, const std::string& kind) {
  const std::size_t slash = api_version.find('/');
  const bool core = slash == std::string::npos;
  const std::string_view whole = api_version;
  const std::string_view group = core ? std::string_view() : whole.substr(0, slash);
  const std::string_view version = core ? whole : whole.substr(slash + 1);
  const KnownKind* same_kind = nullptr;
  for (const KnownKind& known : kKnownKinds) {
    if (known.kind != kind) continue;
    if (known.group == group && lists(known.versions, version)) return &known;
    if (same_kind == nullptr || known.group == group) same_kind = &known;
  }
  if (same_kind != nullptr) {
    top.error("apiVersion", fmt::format("'{}' does not have the kind {}; use {}",
                                        whole.substr(0, 80), kind, newest(*same_kind)));
  } else {
    top.error("kind", fmt::format("'{}' is not a known kind; remove the document",
                                  std::string_view(kind).substr(0, 80)));
  }
  return nullptr;
}

/// What the API server adds to a stored object; without meaning here.
constexpr std::array<std::string_view, 11> kServerMetadata = {
    "annotations",       "uid",           "resourceVersion",
    "generation",        "generateName",  "creationTimestamp",
    "deletionTimestamp", "managedFields", "ownerReferences",
    "finalizers",        "selfLink"};

bool has_dns_subdomain_name(std::string_view kind) {
  return kind == "ServiceEntry" || kind == "WorkloadEntry";
}

Metadata decode_metadata(const Value& value, std::string_view kind, bool own, Diagnostics& out) {
  Metadata metadata;
  Fields fields(value, "metadata", out);
  const auto name = fields.text("name");
  const bool long_name = has_dns_subdomain_name(kind);
  if (!name) {
    if (fields.get("name") == nullptr) fields.error("name", "is required");
  } else if (long_name ? !is_dns_name(*name) : !is_dns_label(*name)) {
    fields.error("name", long_name ? "is not a DNS name (at most 253 of a-z, 0-9, '-' and '.')"
                                   : "is not a DNS label (at most 63 of a-z, 0-9 and '-')");
  } else {
    metadata.name = *name;
  }
  if (kind == "Node") {
    fields.refuse("namespace", "a Node has no namespace; remove the field");
  } else {
    metadata.ns = fields.text("namespace").value_or("default");
    if (!is_dns_label(metadata.ns)) {
      fields.error("namespace", "is not a DNS label (at most 63 of a-z, 0-9 and '-')");
      metadata.ns.clear();
    }
  }
  metadata.labels = fields.labels("labels");
  if (own) {
    fields.ignore("annotations");
    fields.finish();
  } else {
    for (const std::string_view key : kServerMetadata) fields.ignore(key);
    fields.finish_lenient();
  }
  return metadata;
}

Spec decode_spec(const KnownKind& known, const Value& spec, const Metadata& metadata,
                 Diagnostics& out) {
  switch (known.support) {
    case Support::kNode:
      return decode_node(spec, out);
    case Support::kWorkload:
      return decode_workload(spec, out);
    case Support::kService:
      return decode_service(spec, out);
    case Support::kServiceEntry:
      return decode_service_entry(spec, out);
    case Support::kWorkloadEntry:
      return decode_workload_entry(spec, metadata.labels, out);
    case Support::kNo:
      break;
  }
  return {};
}

const Value& or_empty_map(const Value* value, const Value& document) {
  static thread_local Value empty;
  if (value != nullptr) return *value;
  empty.kind = Value::Kind::kMap;
  empty.at = document.at;
  return empty;
}

std::optional<ResourceKey> key_of(const std::optional<std::string>& kind,
                                  const Metadata& metadata) {
  if (!kind || metadata.name.empty() || (metadata.ns.empty() && *kind != "Node")) return {};
  return ResourceKey{*kind, metadata.ns, metadata.name};
}

}  // namespace

std::string Origin::text() const { return fmt::format("{}:{}:{}", file, line, column); }

std::string_view Resource::kind() const {
  static constexpr std::array<std::string_view, std::variant_size_v<Spec>> kNames = {
      "Node",          "Workload",            "Service",
      "ServiceEntry",  "WorkloadEntry",       "AuthorizationPolicy",
      "PeerAuthentication", "RequestAuthentication"};
  return kNames[spec.index()];
}

Decoded decode(const Value& document, const std::string& file) {
  Decoded result;
  Diagnostics out;
  Fields top(document, "", out);
  if (document.kind != Value::Kind::kMap) {
    result.errors = out.all();
    return result;
  }
  const auto api_version = top.text("apiVersion");
  const auto kind = top.text("kind");
  if (!api_version && top.get("apiVersion") == nullptr) top.error("apiVersion", "is required");
  if (!kind && top.get("kind") == nullptr) top.error("kind", "is required");

  const KnownKind* known = api_version && kind ? identify(top, *api_version, *kind) : nullptr;
  const bool own = known != nullptr && known->group == "meshnode.io";
  const bool supported = known != nullptr && known->support != Support::kNo;

  // Of a kind that is refused anyway only the name matters: its other mistakes are not ours to
  // tell.
  Diagnostics unread;
  const Value& metadata_value = or_empty_map(top.get("metadata"), document);
  const Metadata metadata =
      decode_metadata(metadata_value, kind.value_or(""), own, supported ? out : unread);
  result.key = key_of(kind, metadata);

  if (supported) {
    const Value& spec_value = or_empty_map(top.get("spec"), document);
    Spec spec = decode_spec(*known, spec_value, metadata, out);
    if (!own) top.ignore("status");
    top.finish();
    if (out.empty()) {
      Origin origin{file, document.at.line, document.at.column};
      result.resource = Resource{metadata, std::move(origin), std::move(spec)};
    }
  } else if (known != nullptr) {
    top.error("kind", fmt::format("{} ({}) is not supported by this version; nothing of it is "
                                  "applied",
                                  *kind, *api_version));
  }
  result.errors = out.all();
  return result;
}

}  // namespace meshnode::model
