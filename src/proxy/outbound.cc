#include "proxy/outbound.h"

#include <optional>
#include <utility>
#include <variant>

#include "proxy/connect_headers.h"
#include "proxy/pipe.h"
#include "proxy/plan.h"

namespace meshnode::proxy {
namespace {

// Counters of routes that are gone are of no use; starting over only restarts the rotation.
constexpr std::size_t kMaxTurns = 100'000;

}  // namespace

/// One captured connection, from accept to end.
class Outbound::Connection final : public Retirable,
                                   private DialEvents,
                                   private PoolEvents,
                                   private PipeEvents {
 public:
  Connection(Outbound& outbound, std::unique_ptr<Stream> stream, OutboundPlan plan,
             const SocketAddress& original)
      : outbound_(outbound), stream_(std::move(stream)) {
    addresses_.source = stream_->peer_address();
    addresses_.destination = original_ = original;
    labels_.reporter = telemetry::Reporter::kSource;
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
      context().metrics.direct_outbound.add();
      dial(direct->to);
    } else {
      go_to(std::get<GoTo>(step_));
    }
  }

 private:
  ProxyContext& context() { return outbound_.context_; }

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
    if (endpoint.via != snapshot::Endpoint::Via::kTunnel) {
      dial(endpoint.address);
      return;
    }
    labels_.security = telemetry::Security::kMutualTls;
    addresses_.hbone = endpoint.tunnel;
    PoolKey key{caller_->credential, endpoint.identity, endpoint.tunnel, source()};
    request_ = outbound_.pool_.connect(
        key,
        make_connect(endpoint.address, addresses_.source, caller_->party, labels_.service,
                     context().random.next(), context().random.next()),
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

  void dial(const SocketAddress& to) {
    DialOptions options;
    options.to = to;
    options.source = source();
    dial_ = context().network.dial(options, this);
  }

  void on_connected(std::unique_ptr<Stream> stream) override { begin(std::move(stream)); }
  void on_dial_failed(const Error& error) override {
    refuse_with(telemetry::Flag::kConnect, error.message);
  }
  void on_tunnelled(std::unique_ptr<HboneStream> stream) override { begin(std::move(stream)); }
  void on_tunnel_refused(telemetry::Flag flag, const Error& error) override {
    refuse_with(flag, error.message);
  }

  void begin(std::unique_ptr<Stream> far) {
    record_ = context().telemetry.open(labels_, addresses_, context().clock.now());
    pipe_ = std::make_unique<Pipe>(context().clock, std::move(stream_), std::move(far),
                                   static_cast<PipeEvents*>(this));
    pipe_->start();
  }

  void refuse_with(telemetry::Flag flag, const std::string& reason) {
    context().telemetry.refused(labels_, addresses_, flag, reason);
    stream_->reset();
    outbound_.remove(*this);
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
    outbound_.remove(*this);
  }

  Outbound& outbound_;
  std::unique_ptr<Stream> stream_;  // until the pipe has it
  std::shared_ptr<const snapshot::LocalWorkload> caller_;
  std::variant<GoDirect, GoTo, Refuse> step_;
  telemetry::Labels labels_;
  telemetry::Addresses addresses_;
  SocketAddress original_;
  std::unique_ptr<Dial> dial_;
  std::unique_ptr<PoolRequest> request_;
  std::unique_ptr<telemetry::ConnectionRecord> record_;
  std::unique_ptr<Pipe> pipe_;
};

Outbound::Outbound(ProxyContext& context, Pool& pool) : context_(context), pool_(pool) {}

Outbound::~Outbound() = default;

void Outbound::on_accept(std::unique_ptr<Stream> stream) {
  OutboundFacts facts;
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
  auto connection = std::make_unique<Connection>(*this, std::move(stream),
                                                 plan_outbound(*context_.snapshot, facts, turn),
                                                 facts.original.value_or(facts.accepted_on));
  Connection& started = *connection;
  connections_.emplace(&started, std::move(connection));
  started.start();
}

void Outbound::remove(Connection& connection) {
  const auto found = connections_.find(&connection);
  if (found == connections_.end()) {
    return;
  }
  context_.executor.retire(std::move(found->second));
  connections_.erase(found);
}

}  // namespace meshnode::proxy
