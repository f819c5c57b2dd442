#pragma once
/// What the proxy sees: immutable, swapped whole, shared by all loops as
/// shared_ptr<const Snapshot>. Built by snapshot/build.h off the proxy loops. Thread-safe.

#include <meshnode/address.h>
#include <meshnode/ids.h>
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>
#include "model/resources.h"
#include "policy/policies.h"
#include "tls/credential.h"

namespace meshnode::snapshot {

/// Who one end of a connection is, for labels and the access log. Empty fields are unknown.
struct Party {
  std::string workload;            ///< metadata.name
  std::string ns;                  ///< metadata.namespace
  std::string app;                 ///< label app
  std::string version;             ///< label version
  std::string canonical_service;   ///< label service.istio.io/canonical-name, else app, else name
  std::string canonical_revision;  ///< label ...canonical-revision, else version, else "latest"
  std::string cluster;
  std::string region;  ///< first part of the locality
  std::string zone;    ///< second part
  std::optional<SpiffeId> identity;
};

/// A workload of this node.
struct LocalWorkload {
  WorkloadId id;
  Party party;
  SpiffeId identity;
  /// k of the capture address 127.15.0.k that names this caller (design §6); unique on the node.
  std::uint16_t slot = 0;
  /// Null while no usable certificate is at hand; credential_problem says why.
  std::shared_ptr<const tls::Credential> credential;
  std::string credential_problem;
  std::vector<std::uint16_t> ports;  ///< declared, sorted
  /// Who may call it; never null in a snapshot that was built.
  std::shared_ptr<const policy::WorkloadPolicies> policies;
  bool is_default = false;           ///< answers a tunnel without SNI
  /// DialOptions::space of its network namespace: its slot, or 0 when it lives in the agent's.
  std::uint16_t space = 0;
  /// Its own addresses, where it has some to itself.
  std::vector<IpAddress> own;
  /// In a namespace of its own a workload may give itself any address; in the host's it may not.
  bool may_be_at(const IpAddress& source) const {
    return space == 0 || std::find(own.begin(), own.end(), source) != own.end();
  }
  std::set<std::string> hostnames;  ///< of the services it is behind
  bool shares_addresses = true;  ///< has neither an address of the host nor a namespace to itself
  bool declares(std::uint16_t port) const {
    return std::binary_search(ports.begin(), ports.end(), port);
  }
};

/// Which network namespace an accepted connection is in, and our end of it.
struct Arrival {
  std::uint16_t space = 0;  ///< DialOptions::space
  IpAddress local;
};

/// One workload's address and port.
struct Endpoint {
  SocketAddress address;
  SpiffeId identity;  ///< what the far end must prove; meaningless unless tunnelled or local
  enum class Via { kTunnel, kLocal, kPlain } via = Via::kPlain;
  SocketAddress tunnel;                        ///< kTunnel: the far agent's HBONE address
  std::shared_ptr<const LocalWorkload> local;  ///< kLocal: the callee on this node
  Party party;
};

/// A name with ports in front of endpoints.
struct ServiceRef {
  std::string hostname;  ///< FQDN: reviews.bookinfo.mesh.internal, or a ServiceEntry's host
  std::string name;
  std::string ns;
};

/// The endpoints behind one dialled address and port. `id` is stable across snapshots for the
/// same address and port, so that balancers keep their place.
struct Route {
  std::uint64_t id = 0;
  std::optional<ServiceRef> service;
  std::vector<Endpoint> endpoints;  ///< empty: the service has none now
};

/// Workloads that are none any more, by the slot and the network namespace that rules may lead from
/// for a while yet: callers, and nothing else.
using Departed =
    std::map<std::pair<std::uint16_t, std::uint16_t>, std::shared_ptr<const LocalWorkload>>;

class Snapshot {
 public:
  std::string node_name;
  std::string trust_domain;
  std::uint64_t revision = 0;
  bool preserve_source_address = true;
  model::ProxyLimits limits;
  std::vector<std::shared_ptr<const LocalWorkload>> workloads;
  std::unordered_map<WorkloadId, std::shared_ptr<const LocalWorkload>> by_id;
  /// Virtual addresses of services and declared ports of mesh addresses. Anything not here goes
  /// direct.
  std::unordered_map<SocketAddress, Route> routes;
  /// Declared ports of this node's workloads at each of the node's addresses; those in network
  /// namespaces of their own are not among them.
  std::unordered_map<SocketAddress, std::shared_ptr<const LocalWorkload>> inbound;
  /// Workloads that have one of the node's addresses to themselves.
  std::unordered_map<IpAddress, std::shared_ptr<const LocalWorkload>> by_address;
  /// An address of `inbound` that the host itself does not have, and the one it has to dial
  /// instead.
  std::optional<std::pair<IpAddress, IpAddress>> dialled_as;
  std::unordered_map<std::string, std::shared_ptr<const LocalWorkload>> by_server_name;
  std::unordered_map<std::uint16_t, std::shared_ptr<const LocalWorkload>> by_slot;
  Departed departed;
  std::unordered_map<SpiffeId, Party> parties;       ///< known workloads by identity
  std::unordered_map<IpAddress, Party> party_by_ip;  ///< known workloads by address, where one only

  const Route* route(const SocketAddress& destination) const;
  /// The workload that calls from capture slot `slot` in the network namespace `space`, also one
  /// that has left of late.
  std::shared_ptr<const LocalWorkload> caller(std::uint16_t slot, std::uint16_t space) const;
  /// The workload whose declared endpoint `destination` is, in the network namespace `space`. A
  /// loopback address stands for the node itself; in another network namespace, any address that
  /// led there is the workload's.
  std::shared_ptr<const LocalWorkload> callee(const SocketAddress& destination,
                                              std::uint16_t space) const;
  /// Where to dial a callee() that was asked for at `destination`: an address that the host has.
  SocketAddress dial_address(const SocketAddress& destination) const;
  /// Which workload's certificate a tunnel asks for (design §4); without a server name the one that
  /// has the address or the namespace to itself, else the only one or the one marked default.
  Result<std::shared_ptr<const LocalWorkload>> for_server_name(
      std::optional<std::string_view> server_name, const Arrival& arrival) const;

 private:
  /// The workload that has the network namespace `space` to itself.
  std::shared_ptr<const LocalWorkload> owner(std::uint16_t space) const;
  Result<std::shared_ptr<const LocalWorkload>> in_namespace(
      std::optional<std::string_view> server_name, std::uint16_t space) const;
};

}  // namespace meshnode::snapshot
