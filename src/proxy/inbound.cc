#include "proxy/inbound.h"

#include <optional>
#include <utility>
#include <variant>

#include "proxy/connect_headers.h"
#include "proxy/pipe.h"
#include "proxy/plan.h"

namespace meshnode::proxy {

/// One connection to a program of this node, from decision to end.
class Inbound::Connection final : public Retirable, private DialEvents, private PipeEvents {
 public:
  /// `hbone` is set when it came through a tunnel: it must be answered before bytes flow.
  Connection(Inbound& inbound, std::unique_ptr<Stream> stream, HboneStream* hbone,
             const SocketAddress& source)
      : inbound_(inbound), stream_(std::move(stream)), hbone_(hbone) {
    addresses_.source = source;
    labels_.reporter = telemetry::Reporter::kDestination;
  }

  void describe_caller(const SpiffeId* identity) {
    const snapshot::Snapshot& snapshot = *context().snapshot;
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

  /// `local` is our end of the caller's connection, which tells a foreign caller from our own.
  void start(const InboundPlan& plan, const SocketAddress& local, std::string host) {
    if (plan.callee) {
      labels_.destination = end_of(plan.callee->party);
      labels_.destination.principal = plan.callee->identity.uri();
    }
    labels_.service = std::move(host);
    if (const auto* refuse = std::get_if<Refuse>(&plan.step)) {
      refuse_with(refuse->flag, refuse->reason,
                  refuse->flag == telemetry::Flag::kOverload ? 503 : 400);
      return;
    }
    addresses_.destination = std::get<GoDirect>(plan.step).to;
    DialOptions options;
    options.to = addresses_.destination;
    if (context().snapshot->preserve_source_address &&
        addresses_.source.ip.family() == options.to.ip.family()) {
      options.source = addresses_.source.ip;
      options.transparent = addresses_.source.ip != local.ip && !addresses_.source.ip.is_loopback();
    }
    dial_ = context().network.dial(options, this);
  }

 private:
  ProxyContext& context() { return inbound_.context_; }

  void on_connected(std::unique_ptr<Stream> program) override {
    record_ = context().telemetry.open(labels_, addresses_, context().clock.now());
    if (hbone_ != nullptr) {
      hbone_->respond(200);
    }
    pipe_ = std::make_unique<Pipe>(context().clock, std::move(stream_), std::move(program),
                                   static_cast<PipeEvents*>(this));
    pipe_->start();
  }
  void on_dial_failed(const Error& error) override {
    refuse_with(telemetry::Flag::kConnect, error.message, 503);
  }

  void refuse_with(telemetry::Flag flag, const std::string& reason, int status) {
    context().telemetry.refused(labels_, addresses_, flag, reason);
    if (hbone_ != nullptr) {
      context()
          .metrics
          .refused(status == 400 ? telemetry::Refusal::kAuthority
                                 : telemetry::Refusal::kUnavailable)
          .add();
      hbone_->respond(status);
    } else {
      stream_->reset();
    }
    inbound_.remove(*this);
  }

  void on_piped(bool from_caller, std::size_t bytes) override {
    if (from_caller) {
      record_->add_sent(bytes);
    } else {
      record_->add_received(bytes);
    }
  }
  void on_pipe_done(const std::string& error) override {
    record_->close(telemetry::Flag::kNone, error);
    inbound_.remove(*this);
  }

  Inbound& inbound_;
  std::unique_ptr<Stream> stream_;  // until the pipe has it
  HboneStream* hbone_;              // the same object, or null
  telemetry::Labels labels_;
  telemetry::Addresses addresses_;
  std::unique_ptr<Dial> dial_;
  std::unique_ptr<telemetry::ConnectionRecord> record_;
  std::unique_ptr<Pipe> pipe_;
};

Inbound::Inbound(ProxyContext& context)
    : context_(context),
      plaintext_(*this, &Inbound::accept_plaintext),
      tunnels_(*this, &Inbound::accept_tunnel) {}

Inbound::~Inbound() {
  context_.metrics.tunnels_open(telemetry::Direction::kInbound)
      .add(-static_cast<std::int64_t>(open_.size()));
}

void Inbound::accept_plaintext(std::unique_ptr<Stream> stream) {
  context_.metrics.plaintext_inbound.add();
  const SocketAddress local = stream->local_address();
  const SocketAddress source = stream->peer_address();
  // TPROXY leaves the destination in place and no translation to ask about.
  const auto original =
      local.port == kPlaintextPort ? stream->original_destination() : std::nullopt;
  const InboundPlan plan = plan_plaintext(*context_.snapshot, local, original);
  auto connection = std::make_unique<Connection>(*this, std::move(stream), nullptr, source);
  Connection& started = *connection;
  add(std::move(connection));
  started.describe_caller(nullptr);
  // A local caller's address is ours; only TPROXY brings foreign ones.
  started.start(plan, original ? source : local, {});
}

void Inbound::accept_tunnel(std::unique_ptr<Stream> stream) {
  auto tunnel = std::make_unique<Tunnel>(context_, Role::kServer, static_cast<TunnelOwner*>(this));
  auto session = tls::Session::server(
      [snapshot = context_.snapshot](std::optional<std::string_view> server_name)
          -> Result<std::shared_ptr<const tls::Credential>> {
        auto workload = snapshot->for_server_name(server_name);
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
  Tunnel& started = *tunnel;
  open_.emplace(&started, std::move(tunnel));
  started.start(std::move(stream), std::move(*session));
}

void Inbound::on_tunnel_ready(Tunnel&) {}

void Inbound::on_tunnel_gone(Tunnel& tunnel, bool handshake, const std::string& error) {
  if (handshake) {
    context_.metrics.refused(telemetry::Refusal::kTls).add();
    context_.reports.peer_refused(tunnel.peer_address().ip, telemetry::Flag::kTlsFailure, error);
    telemetry::Labels labels;
    labels.reporter = telemetry::Reporter::kDestination;
    telemetry::Addresses addresses;
    addresses.source = tunnel.peer_address();
    addresses.destination = tunnel.local_address();
    context_.telemetry.refused(labels, addresses, telemetry::Flag::kTlsFailure, error);
  }
  context_.metrics.tunnels_open(telemetry::Direction::kInbound).add(-1);
  const auto found = open_.find(&tunnel);
  context_.executor.retire(std::move(found->second));
  open_.erase(found);
}

void Inbound::on_connect(Tunnel& tunnel, std::unique_ptr<HboneStream> stream,
                         ConnectRequest request) {
  InboundPlan plan = plan_tunnelled(*context_.snapshot, request.authority,
                                    tunnel.session().presented()->identity());
  if (context_.network.full()) {
    plan.step = Refuse{telemetry::Flag::kOverload, "no descriptor is left for this connection"};
  }
  HboneStream* hbone = stream.get();
  auto connection =
      std::make_unique<Connection>(*this, std::move(stream), hbone, tunnel.peer_address());
  Connection& started = *connection;
  add(std::move(connection));
  started.describe_caller(&tunnel.session().peer().identity);
  // A name becomes a metric label: only one that the mesh knows, or a peer could make up thousands.
  std::string host = forwarded_host(request.forwarded);
  if (!context_.snapshot->hostnames.contains(host)) {
    host.clear();
  }
  started.start(plan, tunnel.local_address(), std::move(host));
}

void Inbound::on_malformed(Tunnel& tunnel, const std::string& reason) {
  context_.metrics.refused(telemetry::Refusal::kProtocol).add();
  context_.reports.peer_refused(tunnel.peer_address().ip, telemetry::Flag::kH2HandshakeFailure,
                                reason);
}

void Inbound::add(std::unique_ptr<Connection> connection) {
  Connection* key = connection.get();
  connections_.emplace(key, std::move(connection));
}

void Inbound::remove(Connection& connection) {
  const auto found = connections_.find(&connection);
  if (found == connections_.end()) {
    return;
  }
  context_.executor.retire(std::move(found->second));
  connections_.erase(found);
}

void Inbound::drain() {
  std::vector<Tunnel*> all;
  for (const auto& [tunnel, owned] : open_) {
    all.push_back(tunnel);
  }
  for (Tunnel* tunnel : all) {
    tunnel->drain();
  }
}

}  // namespace meshnode::proxy
