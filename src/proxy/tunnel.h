#pragma once
/// One HBONE connection: TCP, TLS and HTTP/2 joined, with the contract's timers. The shell around
/// tls::Session and HboneSession. Thread: one loop; ends only through its owner's retire().

#include <meshnode/clock.h>
#include <meshnode/executor.h>
#include <meshnode/transport.h>
#include <memory>
#include <string>

#include "proxy/context.h"
#include "proxy/hbone_session.h"
#include "tls/session.h"

namespace meshnode::proxy {

inline constexpr Duration kHandshakeTimeout = std::chrono::seconds(5);
inline constexpr Duration kPingAfter = std::chrono::seconds(10);
inline constexpr Duration kPongWithin = std::chrono::seconds(20);
/// Resets, sent or received: a burst and a rate a tunnel may have (rapid reset and its kin).
inline constexpr std::uint32_t kResetBurst = 1000;
inline constexpr std::uint32_t kResetsPerSecond = 33;
/// With fewer left a tunnel is given no new stream: every one it has may be reset from both ends.
inline constexpr std::uint32_t kWornBelow = 2 * kMaxStreamsOut;
/// Frames without content that traffic does not account for (floods of PING, SETTINGS, empty DATA).
inline constexpr std::uint32_t kIdleFrameBurst = 1000;
inline constexpr std::uint32_t kIdleFramesPerSecond = 33;
/// A request's header fields, from the first octet to the last.
inline constexpr Duration kHeadersWithin = std::chrono::seconds(10);
/// With more than this waiting for the socket a tunnel takes no more from its streams.
inline constexpr std::size_t kMaxQueued = std::size_t{256} * 1024;
/// Between the two GOAWAYs of a graceful end: a round trip for requests already on their way.
inline constexpr Duration kGoawayPause = std::chrono::seconds(1);

class Tunnel;

/// A burst and a rate, by the clock that is passed in. May be owed below zero.
struct Allowance {
  double left;
  Instant since{};  // left as of then

  /// Takes one; false when there is none.
  bool take(Instant now, std::uint32_t burst, std::uint32_t per_second);
};

class TunnelOwner {
 public:
  virtual ~TunnelOwner() = default;
  virtual void on_tunnel_ready(Tunnel& tunnel) = 0;
  /// Streams came or went, or the tunnel takes no more.
  virtual void on_tunnel_changed(Tunnel& tunnel) = 0;
  /// It is over, `error` empty after a graceful end: retire it. `handshake`: it never was ready.
  virtual void on_tunnel_gone(Tunnel& tunnel, bool handshake, const std::string& error) = 0;
  /// Server only.
  virtual void on_connect(Tunnel& tunnel, std::unique_ptr<HboneStream> stream,
                          ConnectRequest request) = 0;
  /// A request was turned away before it became one, or the tunnel is ending for what the peer did:
  /// malformed, or beyond a limit (kOverload).
  virtual void on_refused(Tunnel& tunnel, telemetry::Flag flag, const std::string& reason) = 0;
};

class Tunnel final : public Retirable,
                     private StreamEvents,
                     private tls::SessionEvents,
                     private HboneEvents {
 public:
  Tunnel(ProxyContext& context, Role role, TunnelOwner* owner);
  ~Tunnel() override;

  tls::SessionEvents* tls_events() { return this; }
  /// Begins the handshake; `session` was made with tls_events().
  void start(std::unique_ptr<Stream> stream, std::unique_ptr<tls::Session> session);

  bool ready() const { return ready_; }
  bool can_connect() const { return ready_ && !ended_ && hbone_.can_connect(); }
  std::size_t open_streams() const { return hbone_.open_streams(); }
  std::unique_ptr<HboneStream> connect(const ConnectRequest& request, ConnectEvents* events) {
    used_ = true;
    return hbone_.connect(request, events);
  }
  /// How many streams the far agent takes is not known yet, or none for now: to be waited for.
  bool opening() const {
    return !ended_ && !hbone_.draining() && (!hbone_.settled() || hbone_.takes_none());
  }
  /// No new streams: either end has said so. Those open live on.
  bool draining() const { return hbone_.draining(); }
  /// Whether the far agent has said since the last call that it ends this tunnel, or stops.
  bool take_goodbye() { return hbone_.take_goodbye(); }
  /// Cut, or silent: not ended by anybody's decision.
  bool lost() const { return lost_; }
  /// The far agent has let it carry something, or would have.
  bool was_of_use() const { return used_ && hbone_.settled(); }
  /// Another one should take its place before the limit on resets ends it, streams and all.
  bool worn() const { return resets_.left < kWornBelow; }
  /// What its failure counts as.
  telemetry::Flag failure() const { return failure_; }
  /// The far agent said why it ends the tunnel; else empty.
  const std::string& complaint() const { return hbone_.complaint(); }
  const tls::Session& session() const { return *tls_; }
  SocketAddress peer_address() const { return peer_; }
  SocketAddress local_address() const { return local_; }
  /// It was refused, or ended for an offence; it only waits for the peer to read why.
  bool refused() const { return lingering_; }
  /// Ends it at once, in the middle of its handshake.
  void shed() { gone(linger_reason_); }
  /// GOAWAY ENHANCE_YOUR_CALM: the peer has reached `limit`.
  void calm(telemetry::Limit limit, const std::string& reason);
  /// The far agent has said the same.
  bool told_to_calm() const { return hbone_.told_to_calm(); }
  /// GOAWAY now, or as soon as the handshake is done; over once the last stream is.
  void drain();
  /// Its end has begun, and something is left to say or to be heard.
  bool ending() const { return ready_ && !ended_ && (announced_ || closing_); }

 private:
  friend struct LoopBuffers;

  // StreamEvents
  void on_data(MutableBytes data) override;
  void on_end() override;
  void on_error(const Error& error) override;
  void on_drained() override;
  // tls::SessionEvents
  void on_ciphertext(Bytes record) override;
  void on_signed() override;
  // HboneEvents
  bool writable() const override;
  void on_output(MutableBytes frames) override;
  void on_output_waiting() override;
  void on_output_done() override;
  void on_connect(std::unique_ptr<HboneStream> stream, ConnectRequest request) override;
  void on_malformed(const std::string& reason) override;
  void on_excess(telemetry::Limit limit, const std::string& reason) override;
  void on_limit_hit(telemetry::Limit limit) override;
  void on_ping_answered() override;
  void on_reset_counted() override;
  void on_idle_frame() override;
  void on_streams_changed() override;

  void drive_handshake();
  void decrypt();
  void pump();
  void flush();
  void on_timer();
  void arm_timer();
  void announce();
  void announce_for(telemetry::Limit limit);
  /// The peer's certificate has ended, and the tunnel's end has not begun.
  bool expired() const;
  void watch_headers();
  void fail_with(const std::string& reason);
  void fail_for_offence();
  void linger();
  Error end_of_streams(const std::string& reason) const;
  void end_gracefully();
  void give_up_closing();
  void gone(const std::string& error);

  ProxyContext& context_;
  Role role_;
  TunnelOwner* owner_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<tls::Session> tls_;
  HboneSession hbone_;
  std::unique_ptr<Timer> timer_;
  SocketAddress peer_;
  SocketAddress local_;
  Instant last_heard_{};
  Instant idle_since_{};
  Instant ping_sent_{};
  Instant headers_since_{};  // of headers_
  Instant calm_since_{};     // of calm_reason_
  std::uint64_t headers_ = 0;
  Allowance resets_{kResetBurst};
  Allowance idle_frames_{kIdleFrameBurst};
  telemetry::Flag failure_ = telemetry::Flag::kTlsFailure;
  bool ready_ = false;
  bool used_ = false;
  bool pinging_ = false;
  bool pump_deferred_ = false;
  bool announced_ = false;  // first GOAWAY sent
  bool refusing_ = false;   // second GOAWAY sent
  bool lingering_ = false;  // refused: reading on so that the peer sees the alert or GOAWAY
  bool drain_when_ready_ = false;
  bool closing_ = false;  // nothing more is heard; what is left to say waits for the socket
  bool said_ = false;     // close_notify too
  bool ended_ = false;
  bool lost_ = false;
  std::string linger_reason_;
  std::string calm_reason_;
  std::string write_error_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for deferred tasks
};

/// For an owner's on_refused(): the problem and the counter.
void report_breach(ProxyContext& context, const Tunnel& tunnel, telemetry::Flag flag,
                   const std::string& reason);

}  // namespace meshnode::proxy
