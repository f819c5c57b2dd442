#pragma once
/// What the proxy's tests share: recorders for what the loops report, identities and snapshots by
/// hand, a far agent made of server tunnels, and a wire that can be watched and broken.

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "proxy/context.h"
#include "proxy/tunnel.h"
#include "support/fake_clock.h"
#include "support/fake_transport.h"
#include "tls/pair.h"

namespace meshnode::proxy::test {

using namespace std::chrono_literals;
using meshnode::test::FakeLoop;
using meshnode::test::FakeNetwork;
using meshnode::test::FakePeer;
using meshnode::test::FakeServer;
using tls::test::credential_for;
using tls::test::id_of;
using tls::test::kNow;
using tls::test::kProduct;
using tls::test::kReviews;

inline constexpr Duration kHalfClosedSilence = model::ProxyLimits{}.half_closed_timeout;
inline constexpr Duration kIdleTunnel = model::ProxyLimits{}.idle_tunnel_timeout;

inline IpAddress ip(const std::string& text) { return IpAddress::parse(text).value(); }
inline SocketAddress at(const std::string& text) { return SocketAddress::parse(text).value(); }

/// One connection as telemetry saw it.
struct Conversation {
  telemetry::Labels labels;
  telemetry::Addresses addresses;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  int closed = 0;
  std::string error;
  telemetry::Flag flag = telemetry::Flag::kNone;
};

struct RecordedTelemetry final : telemetry::Telemetry {
  struct Refused {
    telemetry::Labels labels;
    telemetry::Addresses addresses;
    telemetry::Flag flag;
    std::string error;
  };
  struct Record final : telemetry::ConnectionRecord {
    explicit Record(std::shared_ptr<Conversation> of) : of_(std::move(of)) {}
    void add_sent(std::uint64_t bytes) override { of_->sent += bytes; }
    void add_received(std::uint64_t bytes) override { of_->received += bytes; }
    void close(telemetry::Flag flag, const std::string& error) override {
      ++of_->closed;
      of_->flag = flag;
      of_->error = error;
    }
    std::shared_ptr<Conversation> of_;
  };

  std::unique_ptr<telemetry::ConnectionRecord> open(const telemetry::Labels& labels,
                                                    const telemetry::Addresses& addresses,
                                                    Instant) override {
    opened.push_back(
        std::make_shared<Conversation>(Conversation{labels, addresses, 0, 0, 0, {}, {}}));
    return std::make_unique<Record>(opened.back());
  }
  void refused(const telemetry::Labels& labels, const telemetry::Addresses& addresses,
               telemetry::Flag flag, const std::string& error) override {
    refusals.push_back({labels, addresses, flag, error});
  }

  std::vector<std::shared_ptr<Conversation>> opened;
  std::vector<Refused> refusals;
};

struct RecordedReports final : ProxyReports {
  void peer_refused(const IpAddress& peer, telemetry::Flag flag,
                    const std::string& reason) override {
    refused.push_back(peer.text() + ": " + reason);
    flags.push_back(flag);
  }
  void limit_reached(const IpAddress& peer, const std::string& limit) override {
    limits.push_back(peer.text() + ": " + limit);
  }
  void own_limit_reached(const IpAddress& peer, const std::string& limit) override {
    own_limits.push_back(peer.text() + ": " + limit);
  }
  void tunnel_failed(const SocketAddress& to, const std::string& reason) override {
    failed.push_back(to.text() + ": " + reason);
  }
  void descriptors_used_up() override { ++used_up; }
  void handshakes_used_up() override { ++handshakes; }
  std::vector<std::string> refused;
  int used_up = 0;
  int handshakes = 0;
  std::vector<telemetry::Flag> flags;
  std::vector<std::string> limits;
  std::vector<std::string> own_limits;
  std::vector<std::string> failed;
};

/// k of 127.15.0.k.
inline std::optional<std::uint16_t> slot_of(const IpAddress& address) {
  const Bytes bytes = address.bytes();
  if (!address.is_v4() || bytes[0] != 127 || bytes[1] != 15) {
    return std::nullopt;
  }
  return static_cast<std::uint16_t>(bytes[2] * 256 + bytes[3]);
}

/// What one loop of one node reports to, and its context.
struct Recorders {
  RecordedTelemetry telemetry;
  RecordedReports reports;
  telemetry::AgentMetrics metrics;
  Load load;
  Goodbyes goodbyes;
  telemetry::Observed observed{[] { return WallTime(); }};
  SeededRandom random{1};

  std::uint64_t hits(telemetry::Limit limit) { return metrics.hit(limit).value(); }

  ProxyContext context(FakeLoop& loop, FakeNetwork& network,
                       std::shared_ptr<const snapshot::Snapshot> snapshot) {
    return {loop,    loop,    network, random,  telemetry,
            reports, metrics, load,    goodbyes, observed, slot_of, std::move(snapshot),
            {}};
  }
};

inline std::shared_ptr<snapshot::LocalWorkload> workload(
    const SpiffeId& identity, std::uint16_t slot, std::vector<std::uint16_t> ports = {},
    std::shared_ptr<const tls::Credential> credential = nullptr) {
  auto made = std::make_shared<snapshot::LocalWorkload>();
  made->id = {identity.ns(), identity.service_account()};
  made->party.workload = identity.service_account();
  made->party.ns = identity.ns();
  made->party.identity = identity;
  made->identity = identity;
  made->slot = slot;
  made->policies = policy::compile({}, {{made->id, {}}}, {}).at(made->id);
  made->ports = std::move(ports);
  made->credential = std::move(credential);
  if (!made->credential) {
    made->credential_problem = "no certificate file for it";
  }
  return made;
}

/// Adds a workload that lives at `address` of the snapshot's node.
inline void enrol(snapshot::Snapshot& snapshot,
                  const std::shared_ptr<const snapshot::LocalWorkload>& one,
                  const std::vector<IpAddress>& addresses) {
  snapshot.workloads.push_back(one);
  snapshot.by_id.emplace(one->id, one);
  snapshot.by_slot.emplace(one->slot, one);
  snapshot.by_server_name.emplace(one->identity.server_name(), one);
  for (const IpAddress& address : addresses) {
    for (const std::uint16_t port : one->ports) {
      snapshot.inbound.emplace(SocketAddress{address, port}, one);
    }
  }
}

inline snapshot::Endpoint tunnelled(const std::string& address, const SpiffeId& identity,
                                    const std::string& tunnel) {
  snapshot::Endpoint endpoint;
  endpoint.address = at(address);
  endpoint.identity = identity;
  endpoint.via = snapshot::Endpoint::Via::kTunnel;
  endpoint.tunnel = at(tunnel);
  endpoint.party.workload = identity.service_account();
  endpoint.party.ns = identity.ns();
  endpoint.party.identity = identity;
  return endpoint;
}

/// Records what a stream hears.
struct Ear final : StreamEvents {
  std::string data;
  bool ended = false;
  int failed = 0;
  std::string error;
  int drained = 0;
  void on_data(MutableBytes bytes) override { data += as_text(bytes); }
  void on_end() override { ended = true; }
  void on_error(const Error& what) override {
    ++failed;
    error = what.message;
  }
  void on_drained() override { ++drained; }
};

struct Answer final : ConnectEvents {
  int accepted = 0;
  int refused = 0;
  int status = -1;
  std::string error;
  void on_connect_accepted() override { ++accepted; }
  void on_connect_refused(int code, bool, const Error& what) override {
    ++refused;
    status = code;
    error = what.message;
  }
};

inline void say(Stream& stream, std::string_view text) {
  const Bytes piece = as_bytes(text);
  stream.write({&piece, 1});
}

inline std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>((i * 31 + i / 251) & 0xff);
  }
  return text;
}

inline ConnectRequest request_to(const std::string& authority) {
  ConnectRequest request;
  request.authority = authority;
  request.forwarded = "for=\"10.0.0.1:1234\"";
  return request;
}

/// A far agent: server tunnels and what came through them. Answers 200 and keeps the stream unless
/// told otherwise.
class FarAgent final : public AcceptEvents, public TunnelOwner {
 public:
  FarAgent(ProxyContext& context, std::shared_ptr<const tls::Credential> credential)
      : context_(context), select_(tls::test::always(std::move(credential))) {}
  ~FarAgent() override { streams.clear(); }

  void select(tls::CredentialSelector how) { select_ = std::move(how); }
  void listen(FakeNetwork& network, const SocketAddress& address) {
    descriptors_.push_back(network.bind(address));
    listeners_.push_back(*network.listen(descriptors_.back(), this));
  }
  /// Connections wait for who accepts them, as they do while an agent drains.
  void stop_accepting() { listeners_.clear(); }
  void leave(FakeNetwork& network) {
    listeners_.clear();
    for (const int descriptor : descriptors_) network.close(descriptor);
    descriptors_.clear();
  }
  void on_accept(std::unique_ptr<Stream> stream) override {
    auto tunnel =
        std::make_unique<Tunnel>(context_, Role::kServer, static_cast<TunnelOwner*>(this));
    auto session = tls::Session::server(
        select_, [&clock = context_.clock] { return clock.wall_now(); }, tunnel->tls_events());
    REQUIRE(session);
    Tunnel& started = *tunnel;
    tunnels.push_back(std::move(tunnel));
    started.start(std::move(stream), std::move(*session));
  }
  void on_tunnel_ready(Tunnel&) override { ++ready; }
  void on_tunnel_changed(Tunnel&) override {}
  void on_tunnel_gone(Tunnel& tunnel, bool handshake, const std::string& error) override {
    gone.push_back({handshake, error});
    for (auto at = tunnels.begin(); at != tunnels.end(); ++at) {
      if (at->get() == &tunnel) {
        context_.executor.retire(std::move(*at));
        tunnels.erase(at);
        return;
      }
    }
    FAIL("a tunnel was gone twice");
  }
  void on_connect(Tunnel&, std::unique_ptr<HboneStream> stream, ConnectRequest request) override {
    requests.push_back(std::move(request));
    if (hold) {
      streams.push_back(std::move(stream));
      return;
    }
    stream->respond(status);
    streams.push_back(std::move(stream));
  }
  void on_refused(Tunnel&, telemetry::Flag, const std::string& reason) override {
    refused.push_back(reason);
  }

  struct Gone {
    bool handshake;
    std::string error;
  };
  bool hold = false;  ///< leaves requests unanswered
  int status = 200;
  int ready = 0;
  std::vector<std::unique_ptr<Tunnel>> tunnels;
  std::vector<std::unique_ptr<HboneStream>> streams;
  std::vector<ConnectRequest> requests;
  std::vector<std::string> refused;
  std::vector<Gone> gone;

 private:
  ProxyContext& context_;
  tls::CredentialSelector select_;
  std::vector<int> descriptors_;
  std::vector<std::unique_ptr<Listener>> listeners_;
};

/// Carries bytes between two connections, both ways, until it is told to swallow them.
class Wire {
 public:
  Wire(std::unique_ptr<Stream> left, std::unique_ptr<Stream> right)
      : left_(*this, std::move(left)), right_(*this, std::move(right)) {
    left_.other = &right_;
    right_.other = &left_;
    for (End* end : {&left_, &right_}) {
      end->stream->set_events(end);
      end->stream->start_reading();
    }
  }
  /// Both ends hear nothing from here on, as when a cable is pulled.
  void go_silent() { silent_ = true; }
  /// Reads no more of what the left end sends, until resume().
  void stall() { left_.stream->stop_reading(); }
  /// The same of the right end, for good.
  void stall_back() { right_.stream->stop_reading(); }
  void resume() { left_.stream->start_reading(); }
  void cut() {
    left_.stream->reset();
    right_.stream->reset();
    silent_ = true;
  }
  /// Bytes carried since the last call.
  std::size_t carried() { return std::exchange(carried_, 0); }

 private:
  struct End final : StreamEvents {
    End(Wire& of, std::unique_ptr<Stream> owned) : wire(of), stream(std::move(owned)) {}
    void on_data(MutableBytes data) override {
      wire.carried_ += data.size();
      if (!wire.silent_) {
        other->stream->forward(data);
      }
    }
    void on_end() override {
      if (!wire.silent_) {
        other->stream->shutdown();
      }
    }
    void on_error(const Error&) override {
      if (!wire.silent_) {
        other->stream->reset();
      }
    }
    void on_drained() override {}
    Wire& wire;
    std::unique_ptr<Stream> stream;
    End* other = nullptr;
  };
  End left_;
  End right_;
  bool silent_ = false;
  std::size_t carried_ = 0;
};

}  // namespace meshnode::proxy::test
