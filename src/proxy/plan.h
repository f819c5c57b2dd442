#pragma once
/// What to do with a captured connection, decided before anything is done: pure functions from
/// the snapshot and the facts of one connection to a value.

#include <meshnode/address.h>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "snapshot/snapshot.h"
#include "telemetry/connection.h"

namespace meshnode::proxy {

/// Dial the original destination; the mesh does not know it.
struct GoDirect {
  SocketAddress to;
};
/// Through a tunnel to the endpoint's node, or, same node or plain endpoint, straight to it.
struct GoTo {
  snapshot::Endpoint endpoint;
  std::optional<snapshot::ServiceRef> service;
};
struct Refuse {
  telemetry::Flag flag = telemetry::Flag::kConnect;
  std::string reason;
  bool unknown_callee = false;  ///< the workload itself is not here: 503, as it was a moment ago
};

/// Port of the plaintext inbound listener (design §2).
inline constexpr std::uint16_t kPlaintextPort = 15006;

struct OutboundPlan {
  std::shared_ptr<const snapshot::LocalWorkload> caller;
  std::variant<GoDirect, GoTo, Refuse> step;
};

struct OutboundFacts {
  std::uint16_t space = 0;                ///< DialOptions::space of the listener
  std::optional<std::uint16_t> slot;      ///< that the capture address names
  SocketAddress accepted_on;              ///< the capture address that was reached
  std::optional<SocketAddress> original;  ///< SO_ORIGINAL_DST
};

/// `turn` is the balancer's counter for the route (policy/balance.h).
OutboundPlan plan_outbound(const snapshot::Snapshot& snapshot, const OutboundFacts& facts,
                           std::uint64_t turn);
/// The route a connection to `destination` would take, for its balancer's counter.
const snapshot::Route* route_of(const snapshot::Snapshot& snapshot, const OutboundFacts& facts);

struct InboundPlan {
  std::shared_ptr<const snapshot::LocalWorkload> callee;  ///< null: captured, but not declared now
  SocketAddress destination{};  ///< as the caller knows the callee
  std::variant<GoDirect, Refuse> step;
};

/// Plaintext at the inbound port: steered by TPROXY (`local` is the destination) or by NAT
/// (`original` is), in the network namespace `space`.
InboundPlan plan_plaintext(const snapshot::Snapshot& snapshot, std::uint16_t space,
                           const SocketAddress& local,
                           const std::optional<SocketAddress>& original);

/// A CONNECT inside a tunnel that came in at `arrival` and whose TLS session presented
/// `presented`'s certificate.
InboundPlan plan_tunnelled(const snapshot::Snapshot& snapshot, const snapshot::Arrival& arrival,
                           const std::string& authority, const SpiffeId& presented);

}  // namespace meshnode::proxy
