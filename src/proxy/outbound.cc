#include "proxy/outbound.h"

#include <optional>
#include <utility>
#include <variant>

#include "proxy/connect_headers.h"
#include "proxy/plan.h"

namespace meshnode::proxy {
namespace {

// Counters of routes that are gone are of no use; starting over only restarts the rotation.
constexpr std::size_t kMaxTurns = 100'000;

}  // namespace

/// One captured connection, from accept to end.
class Outbound::Captured final : public Connection, private DialEvents, private PoolEvents {
 public:
  Captured(Outbound& outbound, std::unique_ptr<Stream> stream, OutboundPlan plan,
           const SocketAddress& original)
      : Connection(outbound.context_, outbound.connections_, std::move(stream),
                   telemetry::Reporter::kSource),
        pool_(outbound.pool_) {
    addresses_.source = stream_->peer_address();
    addresses_.destination = original_ = original;
    if (plan.caller) {
      labels_.source = end_of(plan.caller->party);
      labels_.source.principal = plan.caller->identity.uri();
    }
    caller_ = std::move(plan.caller);
    step_ = std::move(plan.step);
  }

  void start() {
    if (const auto* refuse = std::get_if<Refuse>(&step_)) {
      refuse_with(refuse->flag, refuse->reason);
    } else if (const auto* direct = std::get_if<GoDirect>(&step_)) {
      context_.metrics.direct_outbound.add();
      dial(direct->to, caller_->space);
    } else {
      go_to(std::get<GoTo>(step_));
    }
  }

 private:
  void go_to(const GoTo& target) {
    const snapshot::Endpoint& endpoint = target.endpoint;
    addresses_.destination = endpoint.address;
    labels_.destination = end_of(endpoint.party);
    if (target.service) {
      labels_.service = target.service->hostname;
      labels_.service_name = target.service->name;
      labels_.service_ns = target.service->ns;
    }
    if (endpoint.via != snapshot::Endpoint::Via::kPlain) {
      labels_.destination.principal = endpoint.identity.uri();
    }
    if (endpoint.local && !admitted({endpoint.local, &caller_->identity, addresses_.source,
                                     endpoint.address})) {
      return;
    }
    if (endpoint.via != snapshot::Endpoint::Via::kTunnel) {
      dial(endpoint.address, endpoint.local ? endpoint.local->space : caller_->space);
      return;
    }
    labels_.security = telemetry::Security::kMutualTls;
    addresses_.hbone = endpoint.tunnel;
    PoolKey key{caller_->credential, endpoint.identity, endpoint.tunnel, source(), caller_->space};
    request_ =
        pool_.connect(key,
                      make_connect(endpoint.address, addresses_.source, caller_->party,
                                   labels_.service, context_.random.next(), context_.random.next()),
                      this);
  }

  /// The address the program's own socket had, so that a host with several keeps using it. Behind a
  /// service address it was chosen for the way there, not for the endpoint's.
  std::optional<IpAddress> source() const {
    if (addresses_.destination.ip != original_.ip) {
      return std::nullopt;
    }
    const bool same_family =
        addresses_.source.ip.family() ==
        (addresses_.hbone ? addresses_.hbone->ip : addresses_.destination.ip).family();
    if (!same_family ||
        addresses_.source.ip.is_loopback() != addresses_.destination.ip.is_loopback()) {
      return std::nullopt;
    }
    return addresses_.source.ip;
  }

  void dial(const SocketAddress& to, std::uint16_t space) {
    DialOptions options;
    options.to = to;
    options.space = space;
    options.source = source();
    if (space != caller_->space) {
      // To the callee, in its own namespace, where the caller's address is somebody else's.
      const bool known = context_.snapshot->preserve_source_address &&
                         addresses_.source.ip.family() == to.ip.family() &&
                         !addresses_.source.ip.is_loopback() &&
                         caller_->may_be_at(addresses_.source.ip);
      options.source = known ? std::optional(addresses_.source.ip) : std::nullopt;
      options.transparent = known;
      options.stays = true;
    }
    options.timeout = context_.limits.connect_timeout;
    dial_ = context_.network.dial(options, this);
  }

  void on_connected(std::unique_ptr<Stream> stream) override { begin(std::move(stream)); }
  void on_dial_failed(const Error& error) override {
    refuse_with(dial_failed(context_, addresses_.destination, error), error.message);
  }
  void on_tunnelled(std::unique_ptr<HboneStream> stream) override { begin(std::move(stream)); }
  void on_tunnel_refused(telemetry::Flag flag, const Error& error) override {
    refuse_with(flag, error.message);
  }

  void refuse_with(telemetry::Flag flag, const std::string& reason) {
    record_refusal(flag, reason);
    stream_->reset();
  }
  void turn_away(telemetry::Flag flag, const std::string& why) override {
    refuse_with(flag, why);
  }
  void give_up() override {
    Connection::give_up();
    request_.reset();
  }

  Pool& pool_;
  std::shared_ptr<const snapshot::LocalWorkload> caller_;
  std::variant<GoDirect, GoTo, Refuse> step_;
  SocketAddress original_;
  std::unique_ptr<PoolRequest> request_;
};

class Outbound::Accept final : public AcceptEvents {
 public:
  Accept(Outbound& outbound, std::uint16_t space) : outbound_(outbound), space_(space) {}
  void on_accept(std::unique_ptr<Stream> stream) override {
    outbound_.accept(std::move(stream), space_);
  }

 private:
  Outbound& outbound_;
  std::uint16_t space_;
};

Outbound::Outbound(ProxyContext& context, Pool& pool)
    : context_(context), pool_(pool), connections_(context.executor) {}

Outbound::~Outbound() = default;

std::unique_ptr<AcceptEvents> Outbound::accepting(std::uint16_t space) {
  return std::make_unique<Accept>(*this, space);
}

void Outbound::accept(std::unique_ptr<Stream> stream, std::uint16_t space) {
  OutboundFacts facts;
  facts.space = space;
  facts.accepted_on = stream->local_address();
  facts.slot = context_.slot_of(facts.accepted_on.ip);
  facts.original = stream->original_destination();
  std::uint64_t turn = 0;
  if (const snapshot::Route* route = route_of(*context_.snapshot, facts)) {
    if (turns_.size() > kMaxTurns) {
      turns_.clear();
    }
    turn = turns_[route->id]++;
  }
  OutboundPlan plan = plan_outbound(*context_.snapshot, facts, turn);
  const auto* target = std::get_if<GoTo>(&plan.step);
  const bool tunnelled =
      target != nullptr && target->endpoint.via == snapshot::Endpoint::Via::kTunnel;
  if (const auto why = context_.load.refusal(context_.metrics, !tunnelled); !why.empty()) {
    plan.step = Refuse{telemetry::Flag::kOverload, std::string(why)};
  }
  connections_
      .add(std::make_unique<Captured>(*this, std::move(stream), std::move(plan),
                                      facts.original.value_or(facts.accepted_on)))
      .start();
}

}  // namespace meshnode::proxy
