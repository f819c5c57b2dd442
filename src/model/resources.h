#pragma once
/// The configuration as typed values (design §3, contract "Own kinds"). Every value here passed
/// model/decode.h, so names, ports and identities in it are well formed. Thread: values.

#include <meshnode/address.h>
#include <meshnode/time.h>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>
#include "model/labels.h"
#include "model/security.h"

namespace meshnode::model {

/// Where a document begins.
struct Origin {
  std::string file;
  unsigned line = 0;
  unsigned column = 0;
  std::string text() const;  ///< "file:line:column"
};

struct Metadata {
  std::string ns;  ///< "default" when the document names none; empty for a Node
  std::string name;
  Labels labels;
  bool operator==(const Metadata&) const = default;
};

enum class Protocol : std::uint8_t { kTcp, kHttp, kHttp2, kGrpc };

/// Node.spec.proxy, but for threads: what an operator may have cause to change. All of it is taken
/// up while connections live. What bounds a hostile peer on the wire is fixed and not here
/// (docs/decisions/0009).
struct ProxyLimits {
  Duration connect_timeout = std::chrono::seconds(10);
  /// The kernel forgets a half-closed connection's translation after 60 s
  /// (nf_conntrack_tcp_timeout_close_wait); what came later would reach nobody.
  Duration half_closed_timeout = std::chrono::seconds(55);
  Duration idle_tunnel_timeout = std::chrono::minutes(5);
  Duration drain_timeout = std::chrono::seconds(10);
  std::uint32_t max_tunnels_per_peer = 1'024;
  std::uint64_t max_memory = 0;  ///< octets; 0: a quarter of what the machine or cgroup has
  bool operator==(const ProxyLimits&) const = default;
};

/// This host (meshnode.io/v1 Node).
struct NodeSpec {
  enum class IdentitySource : std::uint8_t { kCluster, kFiles };
  enum class AccessLog : std::uint8_t { kText, kJson, kOff };

  std::optional<IpAddress> address;
  std::string locality;      ///< region[/zone[/subzone]]
  std::string trust_domain;  ///< set if and only if the source is kFiles
  /// kCluster, the default, needs membership in a cluster; without it nothing has an identity,
  /// which the catalog reports as identity-not-configured.
  IdentitySource identity_source = IdentitySource::kCluster;
  std::string identity_directory = "/etc/meshnode/certs";
  bool capture_loopback = true;
  bool preserve_source_address = true;
  std::vector<std::uint16_t> exclude_ports;
  std::vector<IpPrefix> exclude_cidrs;
  unsigned proxy_threads = 0;  ///< 0: one per CPU the process may run on
  ProxyLimits proxy_limits;
  AccessLog access_log = AccessLog::kText;
  std::string root_namespace = "istio-system";    ///< whose policies are the whole mesh's
  std::vector<std::string> trust_domain_aliases;  ///< MeshConfig.trustDomainAliases
  bool operator==(const NodeSpec&) const = default;
};

struct MatchUser {
  std::string user;  ///< a name or a decimal uid
  bool operator==(const MatchUser&) const = default;
};
struct MatchCgroup {
  std::string path;  ///< below the cgroup2 mount, no leading slash
  bool operator==(const MatchCgroup&) const = default;
};
struct MatchAddress {
  IpAddress address;  ///< of this host
  bool operator==(const MatchAddress&) const = default;
};
/// Another network namespace, named by an nsfs file or by a process in it.
struct MatchNetns {
  std::string path;       ///< absolute; empty when `pid` names it
  std::uint32_t pid = 0;  ///< 0 when `path` names it
  bool operator==(const MatchNetns&) const = default;
};
using Match = std::variant<MatchUser, MatchCgroup, MatchAddress, MatchNetns>;

struct WorkloadPort {
  std::string name;  ///< may be empty
  std::uint16_t port = 0;
  Protocol protocol = Protocol::kTcp;
  bool operator==(const WorkloadPort&) const = default;
};

/// Something that runs on this host (meshnode.io/v1 Workload).
struct WorkloadSpec {
  Match match;
  std::string service_account = "default";
  std::vector<WorkloadPort> ports;
  bool is_default = false;
  bool force = false;
  bool operator==(const WorkloadSpec&) const = default;
};

/// A port number, a port name of the workload, or not said (monostate).
using TargetPort = std::variant<std::monostate, std::uint16_t, std::string>;

struct ServicePort {
  std::string name;  ///< may be empty when it is the only port
  std::uint16_t port = 0;
  TargetPort target;
  Protocol protocol = Protocol::kTcp;
  bool operator==(const ServicePort&) const = default;
};

/// v1 Service.
struct ServiceSpec {
  std::vector<IpAddress> addresses;  ///< clusterIP(s)
  std::vector<ServicePort> ports;
  Labels selector;  ///< empty selects nothing, as in Kubernetes
  bool operator==(const ServiceSpec&) const = default;
};

/// networking.istio.io WorkloadEntry; also one inline endpoint of a ServiceEntry.
struct WorkloadEntrySpec {
  IpAddress address;
  std::map<std::string, std::uint16_t> ports;  ///< by service port name
  Labels labels;  ///< with metadata.labels merged in, which win, as in Istio
  std::string locality;
  std::string service_account = "default";
  bool tunnelled = false;  ///< label networking.istio.io/tunnel: http
  bool operator==(const WorkloadEntrySpec&) const = default;
};

/// networking.istio.io ServiceEntry with resolution STATIC.
struct ServiceEntrySpec {
  std::vector<std::string> hosts;
  std::vector<IpAddress> addresses;
  std::vector<ServicePort> ports;
  bool mesh_internal = false;
  std::vector<WorkloadEntrySpec> endpoints;
  Labels selector;  ///< workloadSelector.labels; empty when there is none
  bool operator==(const ServiceEntrySpec&) const = default;
};

using Spec = std::variant<NodeSpec, WorkloadSpec, ServiceSpec, ServiceEntrySpec, WorkloadEntrySpec,
                          AuthorizationPolicySpec, PeerAuthenticationSpec,
                          RequestAuthenticationSpec>;

struct Resource {
  Metadata metadata;
  Origin origin;
  Spec spec;

  std::string_view kind() const;
  /// The same document but for the place it was read from.
  bool same_content(const Resource& other) const {
    return metadata == other.metadata && spec == other.spec;
  }
};

/// What makes two documents the same resource.
struct ResourceKey {
  std::string kind;
  std::string ns;
  std::string name;
  auto operator<=>(const ResourceKey&) const = default;
};

}  // namespace meshnode::model
