#pragma once
/// The join of all resources: who lives at which address, what is behind which service, and which
/// dialled address leads where. A value computed from values. Thread: pure.
///
/// Which port of a member a service port means:
///  - WorkloadEntry and inline endpoint: the entry's port of the service port's name, else its port
///    of the targetPort's name, else the targetPort's number, else the service port's number
///    (Istio's order);
///  - Workload: its port of the targetPort's name, or the targetPort's number; without targetPort
///    its port of the service port's name, else the service port's number. It must be one of the
///    Workload's declared ports: a Service never opens one.

#include <meshnode/address.h>
#include <meshnode/ids.h>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>
#include "model/config_set.h"
#include "model/resources.h"

namespace meshnode::model {

/// Something for status. `code` is a kebab-case noun of docs/problems.md.
struct CatalogProblem {
  std::string code;
  std::string object;
  std::string message;
  std::string hint;
  bool informational = false;  ///< does not degrade the node
};

/// Something with an address that services have behind them.
struct Member {
  std::string ns;
  std::string name;  ///< metadata.name; "<ServiceEntry>/<index>" for an inline endpoint
  Labels labels;
  std::string locality;
  SpiffeId identity;  ///< default-constructed while there is no trust domain
  IpAddress address;  ///< meaningless when local
  bool tunnelled = false;
  std::optional<std::size_t> local;  ///< index into Catalog::workloads
};

/// A Workload of this node. Its Member is Catalog::members at the same index.
struct CatalogWorkload {
  /// Which addresses lead to its declared ports.
  enum class Place : std::uint8_t {
    kHost,       ///< those of the host, and loopback, that are nobody's own
    kAddress,    ///< the one of the host's that its match names
    kNamespace,  ///< those of its network namespace
  };

  WorkloadId id;
  Match match;
  Place place = Place::kHost;
  /// kAddress: the address, while the host has it; kNamespace: as far as known; kHost: empty.
  std::vector<IpAddress> own;
  std::vector<std::uint16_t> ports;  ///< declared, sorted
  bool is_default = false;
  bool force = false;  ///< the document means root, port 22 or a port of ours
  Origin origin;
};

struct CatalogEndpoint {
  SocketAddress address;
  std::size_t member = 0;  ///< index into Catalog::members
  bool operator==(const CatalogEndpoint&) const = default;
};

struct CatalogService {
  std::string hostname;
  std::string name;
  std::string ns;
};

/// What is behind one dialled address and port. No endpoints: refuse, never go direct.
struct CatalogRoute {
  SocketAddress address;
  std::optional<std::size_t> service;      ///< index into Catalog::services
  std::vector<CatalogEndpoint> endpoints;  ///< sorted by address
};

struct Catalog {
  /// Bounds what a few lines of YAML (ports times addresses times endpoints) may grow to.
  static constexpr std::size_t kMaxRouteEndpoints = 1'000'000;
  static constexpr std::size_t kMaxProblems = 1'000;

  std::string node_name;
  NodeSpec node;
  std::vector<IpAddress> addresses;  ///< this node's, spec.address first, no loopback
  /// spec.address when no interface of this host has it (behind NAT, or a mistake): it stands for
  /// this node in what is written down, but what is sent there leaves the host.
  std::optional<IpAddress> address_elsewhere;
  std::vector<CatalogWorkload> workloads;
  std::vector<Member> members;
  std::vector<CatalogService> services;
  std::vector<CatalogRoute> routes;  ///< sorted by address
  /// Declared port to the one workload (index into workloads) that answers it at the host's
  /// addresses.
  std::map<std::uint16_t, std::size_t> inbound;
  /// The same at addresses that one workload has for its own; here comes before `inbound`.
  std::map<SocketAddress, std::size_t> inbound_own;
  std::vector<CatalogProblem> problems;

  /// The workload of this node that answers there: an address of the host, of one of its network
  /// namespaces, or loopback.
  std::optional<std::size_t> answers(const SocketAddress& at) const;
  /// Where this host dials a Workload of its own that was asked for at `own`, one of `addresses`
  /// or loopback: always an address that the host has.
  IpAddress dial_address(const IpAddress& own) const;
  /// The same for a port of a Workload without an address of its own, named without an address: of
  /// the wanted family if the host has one that is not link-local, else of the other, else
  /// loopback.
  IpAddress dial_address(Family family, std::uint16_t port) const;
};

struct CatalogInput {
  std::string default_node_name;           ///< used when there is no Node document
  std::vector<IpAddress> local_addresses;  ///< the host's, both families
  /// Of the network namespaces of Workloads matched by one, as far as known.
  std::map<WorkloadId, std::vector<IpAddress>> namespaces{};
};

Catalog make_catalog(const Resources& resources, const CatalogInput& input);

}  // namespace meshnode::model
