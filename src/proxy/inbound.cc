#include "proxy/inbound.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include "proxy/connect_headers.h"
#include "proxy/plan.h"

namespace meshnode::proxy {

namespace {

telemetry::Refusal cause_of(telemetry::Flag flag, int status) {
  if (flag == telemetry::Flag::kOverload) return telemetry::Refusal::kLimit;
  if (flag == telemetry::Flag::kDeny) return telemetry::Refusal::kPolicy;
  return status == 400 ? telemetry::Refusal::kAuthority : telemetry::Refusal::kUnavailable;
}

}  // namespace

/// One connection to a program of this node, from decision to end.
class Inbound::Delivered final : public Connection, private DialEvents {
 public:
  /// `hbone` is set when it came through a tunnel: it must be answered before bytes flow.
  Delivered(Inbound& inbound, std::unique_ptr<Stream> stream, HboneStream* hbone,
            const SocketAddress& source)
      : Connection(inbound.context_, inbound.connections_, std::move(stream),
                   telemetry::Reporter::kDestination),
        hbone_(hbone) {
    addresses_.source = source;
  }
  ~Delivered() override { *alive_ = false; }

  void describe_caller(const SpiffeId* identity) {
    const snapshot::Snapshot& snapshot = *context_.snapshot;
    if (identity != nullptr) {
      labels_.security = telemetry::Security::kMutualTls;
      const auto known = snapshot.parties.find(*identity);
      if (known != snapshot.parties.end()) {
        labels_.source = end_of(known->second);
      } else {
        labels_.source.ns = identity->ns();
      }
      labels_.source.principal = identity->uri();
      return;
    }
    const auto known = snapshot.party_by_ip.find(addresses_.source.ip);
    if (known != snapshot.party_by_ip.end()) {
      labels_.source = end_of(known->second);
    }
  }

  /// `caller` is who a tunnel's certificate proves; `arrival` tells a foreign caller from our own.
  void start(const InboundPlan& plan, const SpiffeId* caller, const snapshot::Arrival& arrival,
             std::string host) {
    if (plan.callee) {
      labels_.destination = end_of(plan.callee->party);
      labels_.destination.principal = plan.callee->identity.uri();
    }
    labels_.service = std::move(host);
    if (const auto* refuse = std::get_if<Refuse>(&plan.step)) {
      const bool later = refuse->flag == telemetry::Flag::kOverload || refuse->unknown_callee;
      refuse_with(refuse->flag, refuse->reason, later ? 503 : 400);
      return;
    }
    addresses_.destination = std::get<GoDirect>(plan.step).to;
    if (plan.callee && !admitted({plan.callee, caller, addresses_.source, plan.destination})) {
      return;
    }
    DialOptions options;
    options.to = addresses_.destination;
    options.space = arrival.space;
    options.stays = arrival.space != 0;
    options.timeout = context_.limits.connect_timeout;
    if (context_.snapshot->preserve_source_address &&
        addresses_.source.ip.family() == options.to.ip.family()) {
      options.source = addresses_.source.ip;
      options.transparent =
          addresses_.source.ip != arrival.local && !addresses_.source.ip.is_loopback();
    }
    if (hbone_ == nullptr) {
      dial_ = context_.network.dial(options, this);
      return;
    }
    // After all that came with the request: one that is reset in the same breath, as in a flood of
    // them, is not worth a socket.
    context_.executor.defer([this, options, alive = alive_] {
      if (*alive) {
        dial_ = context_.network.dial(options, this);
      }
    });
  }

 private:
  void on_connected(std::unique_ptr<Stream> program) override {
    if (hbone_ != nullptr) {
      hbone_->respond(200);
    }
    begin(std::move(program));
  }
  void on_dial_failed(const Error& error) override {
    refuse_with(dial_failed(context_, addresses_.destination, error), error.message, 503);
  }

  void turn_away(telemetry::Flag flag, const std::string& why) override {
    refuse_with(flag, why, flag == telemetry::Flag::kDeny ? 401 : 503);
  }
  void give_up() override {
    Connection::give_up();
    *alive_ = false;
  }
  void refuse_with(telemetry::Flag flag, const std::string& reason, int status) {
    record_refusal(flag, reason);
    if (hbone_ != nullptr) {
      context_.metrics.refused(cause_of(flag, status)).add();
      hbone_->respond(status);
    } else {
      stream_->reset();
    }
  }

  HboneStream* hbone_;                                          // stream_'s object, or null
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for the deferred dial
};

Inbound::Inbound(ProxyContext& context) : context_(context), connections_(context.executor) {}

Inbound::~Inbound() {
  for (const auto& [tunnel, owned] : open_) {
    if (owned.counted) {
      context_.load.remove_tunnel(tunnel->peer_address().ip);
    }
  }
  context_.metrics.tunnels_open(telemetry::Direction::kInbound)
      .add(-static_cast<std::int64_t>(open_.size()));
}

std::unique_ptr<AcceptEvents> Inbound::plaintext(std::uint16_t space) {
  return std::make_unique<Accept>(*this, &Inbound::accept_plaintext, space);
}

std::unique_ptr<AcceptEvents> Inbound::tunnels(std::uint16_t space) {
  return std::make_unique<Accept>(*this, &Inbound::accept_tunnel, space);
}

void Inbound::accept_plaintext(std::unique_ptr<Stream> stream, std::uint16_t space) {
  context_.metrics.plaintext_inbound.add();
  const SocketAddress local = stream->local_address();
  const SocketAddress source = stream->peer_address();
  // TPROXY leaves the destination in place and no translation to ask about.
  const auto original =
      local.port == kPlaintextPort ? stream->original_destination() : std::nullopt;
  InboundPlan plan = plan_plaintext(*context_.snapshot, space, local, original);
  if (const auto why = context_.load.refusal(context_.metrics, true); !why.empty()) {
    plan.step = Refuse{telemetry::Flag::kOverload, std::string(why)};
  }
  Delivered& started =
      connections_.add(std::make_unique<Delivered>(*this, std::move(stream), nullptr, source));
  started.describe_caller(nullptr);
  // A local caller's address is ours; only TPROXY brings foreign ones.
  started.start(plan, nullptr, {space, original ? source.ip : local.ip}, {});
}

bool Inbound::turned_away(Stream& stream) {
  const auto why = context_.load.refusal(context_.metrics, false);
  if (why.empty()) {
    return false;
  }
  telemetry::Labels labels;
  labels.reporter = telemetry::Reporter::kDestination;
  telemetry::Addresses addresses;
  addresses.source = stream.peer_address();
  addresses.destination = stream.local_address();
  context_.metrics.refused(telemetry::Refusal::kLimit).add();
  context_.telemetry.refused(labels, addresses, telemetry::Flag::kOverload, std::string(why));
  stream.reset();
  return true;
}

void Inbound::accept_tunnel(std::unique_ptr<Stream> stream, std::uint16_t space) {
  if (turned_away(*stream)) {
    return;
  }
  auto tunnel = std::make_unique<Tunnel>(context_, Role::kServer, static_cast<TunnelOwner*>(this));
  const snapshot::Arrival arrival{space, stream->local_address().ip};
  auto session = tls::Session::server(
      [snapshot = context_.snapshot, arrival](std::optional<std::string_view> server_name)
          -> Result<std::shared_ptr<const tls::Credential>> {
        auto workload = snapshot->for_server_name(server_name, arrival);
        if (!workload) {
          return fail(workload.error());
        }
        if (!(*workload)->credential) {
          return fail(ErrorCode::kUnavailable, (*workload)->id.text() + " has no certificate: " +
                                                   (*workload)->credential_problem);
        }
        return (*workload)->credential;
      },
      [&clock = context_.clock] { return clock.wall_now(); }, tunnel->tls_events());
  if (!session) {
    context_.reports.peer_refused(stream->peer_address().ip, telemetry::Flag::kTlsFailure,
                                  session.error().message);
    return;
  }
  context_.metrics.tunnels_open(telemetry::Direction::kInbound).add(1);
  context_.metrics.tunnels_total(telemetry::Direction::kInbound).add();
  if (shaking_.size() >= kMaxHandshakes) {
    shed_oldest_handshake();
  }
  Tunnel& started = *tunnel;
  const auto shaking = shaking_.insert(shaking_.end(), &started);
  open_.emplace(&started, Open{std::move(tunnel), shaking, space});
  started.start(std::move(stream), std::move(*session));
}

void Inbound::on_tunnel_ready(Tunnel& tunnel) {
  Open& open = open_.at(&tunnel);
  shaking_.erase(std::exchange(open.shaking, shaking_.end()));
  // Not before: a stranger who shares the peer's address has no certificate, and uses up nothing.
  const std::uint32_t most = context_.limits.max_tunnels_per_peer;
  open.counted = context_.load.add_tunnel(tunnel.peer_address().ip, most);
  if (!open.counted) {
    tunnel.calm(telemetry::Limit::kTunnelsPerPeer,
                fmt::format("more than {} tunnels; see proxy.maxTunnelsPerPeer", most));
  }
}

void Inbound::shed_oldest_handshake() {
  Tunnel& oldest = *shaking_.front();
  if (!oldest.refused()) {
    context_.reports.handshakes_used_up();
    context_.metrics.hit(telemetry::Limit::kHandshakes).add();
    context_.metrics.refused(telemetry::Refusal::kLimit).add();
    record_refusal(oldest, telemetry::Flag::kOverload,
                   "too many unfinished handshakes: this one gave way to a new one");
    shaking_.erase(std::exchange(open_.at(&oldest).shaking, shaking_.end()));
  }
  oldest.shed();
}

void Inbound::on_tunnel_gone(Tunnel& tunnel, bool handshake, const std::string& error) {
  const auto found = open_.find(&tunnel);
  const auto shaking = found->second.shaking;
  if (handshake && shaking != shaking_.end()) {
    shaking_.erase(shaking);
    on_refused(tunnel, telemetry::Flag::kTlsFailure, error);
  }
  if (found->second.counted) {
    context_.load.remove_tunnel(tunnel.peer_address().ip);
  }
  context_.metrics.tunnels_open(telemetry::Direction::kInbound).add(-1);
  context_.executor.retire(std::move(found->second.tunnel));
  open_.erase(found);
}

void Inbound::on_connect(Tunnel& tunnel, std::unique_ptr<HboneStream> stream,
                         ConnectRequest request) {
  const snapshot::Arrival arrival{open_.at(&tunnel).space, tunnel.local_address().ip};
  InboundPlan plan = plan_tunnelled(*context_.snapshot, arrival, request.authority,
                                    tunnel.session().presented()->identity());
  if (const auto why = context_.load.refusal(context_.metrics, true); !why.empty()) {
    plan.step = Refuse{telemetry::Flag::kOverload, std::string(why)};
  } else if (context_.network.full()) {
    context_.metrics.hit(telemetry::Limit::kDescriptors).add();
    context_.reports.descriptors_used_up();
    plan.step = Refuse{telemetry::Flag::kOverload, "no descriptor is left for this connection"};
  }
  HboneStream* hbone = stream.get();
  Delivered& started = connections_.add(
      std::make_unique<Delivered>(*this, std::move(stream), hbone, tunnel.peer_address()));
  const SpiffeId& caller = tunnel.session().peer().identity;
  started.describe_caller(&caller);
  // A name becomes a metric label: only one that the callee is known by, or a peer could make up
  // thousands, and count as the caller of any.
  std::string host = forwarded_host(request.forwarded);
  if (!plan.callee || !plan.callee->hostnames.contains(host)) {
    host.clear();
  }
  started.start(plan, &caller, arrival, std::move(host));
}

void Inbound::on_refused(Tunnel& tunnel, telemetry::Flag flag, const std::string& reason) {
  report_breach(context_, tunnel, flag, reason);
  record_refusal(tunnel, flag, reason);
}

void Inbound::record_refusal(const Tunnel& tunnel, telemetry::Flag flag, const std::string& error) {
  telemetry::Labels labels;
  labels.reporter = telemetry::Reporter::kDestination;
  telemetry::Addresses addresses;
  addresses.source = tunnel.peer_address();
  addresses.destination = tunnel.local_address();
  if (tunnel.ready()) {
    labels.security = telemetry::Security::kMutualTls;
    labels.source.principal = tunnel.session().peer().identity.uri();
    labels.destination.principal = tunnel.session().presented()->identity().uri();
  }
  context_.telemetry.refused(labels, addresses, flag, error);
}

bool Inbound::ending() const {
  return std::any_of(open_.begin(), open_.end(),
                     [](const auto& entry) { return entry.first->ending(); });
}

void Inbound::drain() {
  drain_tunnels([](const Open&) { return true; });
}

void Inbound::leave(std::uint16_t space) {
  drain_tunnels([space](const Open& open) { return open.space == space; });
}

void Inbound::drain_tunnels(const std::function<bool(const Open&)>& which) {
  std::vector<Tunnel*> all;
  for (const auto& [tunnel, owned] : open_) {
    if (which(owned)) {
      all.push_back(tunnel);
    }
  }
  for (Tunnel* tunnel : all) {
    tunnel->drain();
  }
}

}  // namespace meshnode::proxy
