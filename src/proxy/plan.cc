#include "proxy/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "policy/balance.h"
#include "proxy/connect_headers.h"

namespace meshnode::proxy {
namespace {

using snapshot::Endpoint;
using snapshot::Snapshot;
using telemetry::Flag;

bool has_workload(const Snapshot& snapshot, const SpiffeId& identity) {
  return std::any_of(snapshot.workloads.begin(), snapshot.workloads.end(),
                     [&](const auto& workload) { return workload->identity == identity; });
}

/// A workload in a network namespace of its own is known by the listener inside it, whatever
/// capture address it was led to: with CAP_NET_ADMIN there it could lead itself to another's.
std::shared_ptr<const snapshot::LocalWorkload> caller_of(const Snapshot& snapshot,
                                                         const OutboundFacts& facts) {
  const std::optional<std::uint16_t> slot = facts.space != 0 ? facts.space : facts.slot;
  return slot ? snapshot.caller(*slot, facts.space) : nullptr;
}

bool reached_directly(const SocketAddress& accepted_on,
                      const std::optional<SocketAddress>& original) {
  return !original || *original == accepted_on;
}

}  // namespace

const snapshot::Route* route_of(const Snapshot& snapshot, const OutboundFacts& facts) {
  return facts.original ? snapshot.route(*facts.original) : nullptr;
}

namespace {

/// A workload of this host at an address that no route names: all of 127.0.0.0/8, say. What its
/// policies say must hold there as well.
std::optional<GoTo> neighbour(const Snapshot& snapshot, const OutboundFacts& facts) {
  if (facts.space != 0) return {};
  auto callee = snapshot.callee(*facts.original, 0);
  if (!callee) return {};
  Endpoint endpoint;
  endpoint.address = *facts.original;
  endpoint.identity = callee->identity;
  endpoint.via = Endpoint::Via::kLocal;
  endpoint.party = callee->party;
  endpoint.local = std::move(callee);
  return GoTo{std::move(endpoint), std::nullopt};
}

}  // namespace

OutboundPlan plan_outbound(const Snapshot& snapshot, const OutboundFacts& facts,
                           std::uint64_t turn) {
  OutboundPlan plan{caller_of(snapshot, facts), Refuse{}};
  if (reached_directly(facts.accepted_on, facts.original)) {
    plan.step = Refuse{Flag::kConnect, "the capture port was reached directly, not by a rule"};
    return plan;
  }
  if (!plan.caller) {
    plan.step = Refuse{Flag::kConnect,
                       fmt::format("no workload is enrolled at {}", facts.accepted_on.ip.text())};
    return plan;
  }
  const snapshot::Route* route = snapshot.route(*facts.original);
  if (route == nullptr) {
    if (auto local = neighbour(snapshot, facts)) {
      plan.step = std::move(*local);
    } else {
      plan.step = GoDirect{*facts.original};
    }
    return plan;
  }
  if (route->endpoints.empty()) {
    plan.step = Refuse{Flag::kConnect, fmt::format("{} has no endpoint now",
                                                   route->service ? route->service->hostname
                                                                  : facts.original->text())};
    return plan;
  }
  const Endpoint& endpoint = route->endpoints[*policy::pick(route->endpoints.size(), turn)];
  if (endpoint.via == Endpoint::Via::kTunnel && !plan.caller->credential) {
    plan.step =
        Refuse{Flag::kTlsFailure, fmt::format("{} has no certificate: {}", plan.caller->id.text(),
                                              plan.caller->credential_problem)};
    return plan;
  }
  plan.step = GoTo{endpoint, route->service};
  return plan;
}

InboundPlan plan_plaintext(const Snapshot& snapshot, std::uint16_t space,
                           const SocketAddress& local,
                           const std::optional<SocketAddress>& original) {
  // TPROXY keeps the destination as the local address; NAT leaves our own port there.
  const SocketAddress destination = original.value_or(local);
  if (destination.port == kPlaintextPort) {
    return {nullptr, destination,
            Refuse{Flag::kConnect, "the capture port was reached directly, not by a rule"}};
  }
  return {snapshot.callee(destination, space), destination, GoDirect{destination}};
}

InboundPlan plan_tunnelled(const Snapshot& snapshot, const snapshot::Arrival& arrival,
                           const std::string& authority, const SpiffeId& presented) {
  const auto destination = parse_authority(authority);
  if (!destination) {
    return {nullptr, {}, Refuse{Flag::kConnect, destination.error().message}};
  }
  // Loopback stands for the node in callee(), but no peer has a say about our loopback. Of another
  // namespace's addresses the one that the tunnel came to is known to be one.
  const bool candidate = arrival.space == 0 ? !destination->ip.is_loopback()
                                            : destination->ip == arrival.local;
  auto callee = candidate ? snapshot.callee(*destination, arrival.space) : nullptr;
  if (!callee || callee->identity != presented) {
    if (!has_workload(snapshot, presented)) {
      return {nullptr, *destination,
              Refuse{Flag::kConnect, presented.uri() + " is no workload of this host any more",
                     true}};
    }
    return {nullptr, *destination,
            Refuse{Flag::kConnect, fmt::format("{} is no declared endpoint of {}",
                                               destination->text(), presented.uri())}};
  }
  return {std::move(callee), *destination, GoDirect{snapshot.dial_address(*destination)}};
}

}  // namespace meshnode::proxy
