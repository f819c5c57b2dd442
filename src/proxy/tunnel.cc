#include "proxy/tunnel.h"

#include <algorithm>
#include <utility>

namespace meshnode::proxy {
namespace {

constexpr std::size_t kCiphertextBatch = std::size_t{64} * 1024;
constexpr Duration kLinger = std::chrono::seconds(1);
// For a peer that overdid it to read why its tunnel ends.
constexpr Duration kCalmWithin = std::chrono::seconds(1);

}  // namespace

Tunnel::Tunnel(ProxyContext& context, Role role, TunnelOwner* owner)
    : context_(context),
      role_(role),
      owner_(owner),
      hbone_(role, this),
      timer_(context.clock.timer([this] { on_timer(); })) {}

Tunnel::~Tunnel() {
  ended_ = true;
  *alive_ = false;
  if (context_.buffers.ciphertext_owner == this) {
    context_.buffers.ciphertext_owner = nullptr;
    context_.buffers.ciphertext.clear();
  }
}

void Tunnel::start(std::unique_ptr<Stream> stream, std::unique_ptr<tls::Session> session) {
  stream_ = std::move(stream);
  tls_ = std::move(session);
  peer_ = stream_->peer_address();
  local_ = stream_->local_address();
  last_heard_ = idle_since_ = context_.clock.now();
  timer_->start(kHandshakeTimeout);
  stream_->set_events(this);
  stream_->start_reading();
  if (role_ == Role::kClient) {
    drive_handshake();
  }
}

void Tunnel::on_data(MutableBytes data) {
  if (ended_ || lingering_ || closing_) {
    return;
  }
  last_heard_ = context_.clock.now();
  if (expired()) {
    announce_for(telemetry::Limit::kCertificateEnd);  // the clock was set, unknown to the timer
  }
  tls_->feed(data);
  if (!ready_) {
    drive_handshake();
  }
  if (ready_) {
    decrypt();
  }
  flush();
}

void Tunnel::drive_handshake() {
  const auto progress = tls_->handshake();
  flush();
  if (!progress) {
    fail_with(progress.error().message);
    return;
  }
  if (*progress != tls::Session::Progress::kDone) {
    return;
  }
  ready_ = true;
  arm_timer();
  hbone_.pump();
  owner_->on_tunnel_ready(*this);
  if (drain_when_ready_) {
    drain();
  }
}

void Tunnel::on_signed() {
  if (ended_ || lingering_ || ready_) {
    return;
  }
  drive_handshake();
  if (ready_ && !ended_) {
    decrypt();  // what came with the last handshake bytes
  }
  flush();
}

void Tunnel::decrypt() {
  while (!ended_) {
    const MutableBytes buffer = context_.buffers.plaintext();
    const auto got = tls_->read(buffer);
    if (!got) {
      if (role_ == Role::kServer) {
        owner_->on_refused(*this, telemetry::Flag::kTlsFailure, got.error().message);
      }
      fail_with(got.error().message);
      return;
    }
    if (got->size > 0) {
      if (!hbone_.receive(buffer.first(got->size))) {
        fail_for_offence();
        return;
      }
      watch_headers();
    }
    if (got->closed) {
      gone(hbone_.has_live_streams() ? "the far agent closed the tunnel" : "");
      return;
    }
    if (got->need_input) {
      return;
    }
  }
}

void Tunnel::on_end() {
  if (lingering_) {
    gone(linger_reason_);
    return;
  }
  if (!ended_) {
    const bool orderly = closing_ ? stream_->queued() == 0 : ready_ && !hbone_.has_live_streams();
    lost_ = !orderly;
    gone(orderly ? "" : "the far agent closed the connection");
  }
}

void Tunnel::on_error(const Error& error) {
  if (!ended_) {
    const bool all_said = said_ && stream_->queued() == 0;
    lost_ = !lingering_ && !all_said;
    gone(lingering_ ? linger_reason_ : all_said ? "" : error.message);
  }
}

void Tunnel::on_drained() {
  if (ended_) {
    return;
  }
  if (refusing_ && hbone_.open_streams() == 0) {
    end_gracefully();
    return;
  }
  pump();
}

void Tunnel::on_ciphertext(Bytes record) {
  LoopBuffers& buffers = context_.buffers;
  if (buffers.ciphertext_owner != this) {
    if (buffers.ciphertext_owner != nullptr) {
      buffers.ciphertext_owner->flush();
    }
    buffers.ciphertext_owner = this;
  }
  buffers.ciphertext.insert(buffers.ciphertext.end(), record.begin(), record.end());
  if (buffers.ciphertext.size() >= kCiphertextBatch) {
    flush();
  }
}

void Tunnel::flush() {
  LoopBuffers& buffers = context_.buffers;
  if (buffers.ciphertext_owner != this || buffers.ciphertext.empty()) {
    return;
  }
  const Bytes all = buffers.ciphertext;
  stream_->write({&all, 1});
  buffers.ciphertext.clear();
}

bool Tunnel::writable() const {
  return ready_ && !ended_ && !lingering_ && !said_ && stream_->queued() < kMaxQueued;
}

void Tunnel::on_output(MutableBytes frames) {
  if (ended_) {
    return;
  }
  if (auto written = tls_->write(frames); !written) {
    // Not from within nghttp2's callback: the timer ends the tunnel at once.
    write_error_ = written.error().message;
    timer_->start(Duration::zero());
  }
}

void Tunnel::on_output_waiting() {
  if (pump_deferred_ || ended_ || lingering_ || closing_ || !ready_) {
    return;
  }
  pump_deferred_ = true;
  context_.executor.defer([this, alive = alive_] {
    if (*alive) {
      pump_deferred_ = false;
      pump();
    }
  });
}

void Tunnel::pump() {
  hbone_.pump();
  if (!ready_ || !hbone_.over()) {
    return;
  }
  // Without streams nghttp2 calls a session over once a GOAWAY has crossed it, though a request may
  // still be on its way, or a stream's last bytes on theirs to the program: the timers and the
  // streams' owners see to that end.
  const bool ending =
      (announced_ || hbone_.draining()) && !hbone_.calmed() && !hbone_.has_live_streams();
  if (!ending) {
    fail_for_offence();
  }
}

void Tunnel::fail_for_offence() {
  if (ended_ || lingering_) {
    return;
  }
  const bool limit = hbone_.calmed() || hbone_.overdone();
  failure_ = limit ? telemetry::Flag::kOverload : telemetry::Flag::kH2HandshakeFailure;
  if (!calm_reason_.empty()) {
    fail_with(calm_reason_);  // reported when it happened
    return;
  }
  const std::string reason = hbone_.offence();
  if (!reason.empty()) {
    owner_->on_refused(*this, failure_, reason);
  }
  fail_with(reason.empty() ? "the session has ended" : reason);
}

void Tunnel::on_output_done() { flush(); }

void Tunnel::on_connect(std::unique_ptr<HboneStream> stream, ConnectRequest request) {
  owner_->on_connect(*this, std::move(stream), std::move(request));
}

void Tunnel::on_malformed(const std::string& reason) {
  owner_->on_refused(*this, telemetry::Flag::kH2HandshakeFailure, reason);
}

void Tunnel::on_limit_hit(telemetry::Limit limit) { context_.metrics.hit(limit).add(); }

void Tunnel::on_excess(telemetry::Limit limit, const std::string& reason) {
  if (hbone_.calmed() && calm_reason_.empty()) {
    calm_reason_ = reason;
    calm_since_ = context_.clock.now();
    timer_->start(kCalmWithin);
  }
  on_limit_hit(limit);
  owner_->on_refused(*this, telemetry::Flag::kOverload, reason);
}

void Tunnel::calm(telemetry::Limit limit, const std::string& reason) {
  hbone_.calm();
  on_excess(limit, reason);
}

void Tunnel::on_ping_answered() { pinging_ = false; }

bool Allowance::take(Instant now, std::uint32_t burst, std::uint32_t per_second) {
  const double seconds = std::chrono::duration<double>(now - since).count();
  since = now;
  left = std::min<double>(burst, left + seconds * per_second) - 1;
  return left >= 0;
}

void Tunnel::on_reset_counted() {
  if (!resets_.take(context_.clock.now(), kResetBurst, kResetsPerSecond) && !hbone_.calmed()) {
    calm(telemetry::Limit::kResets,
         "streams reset on one tunnel: more than 1,000 at once or 33 a second");
  }
}

void Tunnel::on_idle_frame() {
  if (!idle_frames_.take(context_.clock.now(), kIdleFrameBurst, kIdleFramesPerSecond) &&
      !hbone_.calmed()) {
    calm(telemetry::Limit::kFlood,
         "frames without content on one tunnel: more than 1,000 at once or 33 a second");
  }
}

void Tunnel::watch_headers() {
  const std::uint64_t open = hbone_.open_headers();
  if (open == std::exchange(headers_, open)) {
    return;
  }
  headers_since_ = context_.clock.now();
  if (open != 0 && !announced_ && !refusing_ && !ended_ && write_error_.empty()) {
    arm_timer();
  }
}

void Tunnel::on_streams_changed() {
  if (ended_ || lingering_) {
    return;
  }
  idle_since_ = context_.clock.now();
  if (closing_) {
    return;
  }
  if (hbone_.draining() && hbone_.open_streams() == 0 && ready_) {
    // Out of whatever callback this is; on_timer() sees to the rest.
    refusing_ = true;
    timer_->start(Duration::zero());
  }
  owner_->on_tunnel_changed(*this);
}

void Tunnel::drain() {
  if (announced_ || closing_ || lingering_ || ended_) {
    return;
  }
  if (!ready_) {
    drain_when_ready_ = true;  // the peer may have sent requests with its handshake
    return;
  }
  announce();
}

void Tunnel::announce() {
  announced_ = true;
  hbone_.announce_end();
  timer_->start(kGoawayPause);
}

void Tunnel::announce_for(telemetry::Limit limit) {
  on_limit_hit(limit);
  announce();
}

bool Tunnel::expired() const {
  return ready_ && !announced_ && context_.clock.wall_now() >= tls_->peer().not_after;
}

void Tunnel::arm_timer() {
  const Instant now = context_.clock.now();
  Instant next =
      pinging_ ? std::max(ping_sent_, last_heard_) + kPongWithin : last_heard_ + kPingAfter;
  if (hbone_.open_streams() == 0) {
    next = std::min(next, idle_since_ + context_.limits.idle_tunnel_timeout);
  }
  if (!announced_) {
    const Duration left = tls_->peer().not_after - context_.clock.wall_now();
    next = std::min(
        next, now + std::clamp(left, Duration::zero(), context_.limits.idle_tunnel_timeout));
  } else if (!refusing_) {
    next = std::min(next, now + kGoawayPause);
  }
  if (!calm_reason_.empty()) {
    next = std::min(next, calm_since_ + kCalmWithin);
  }
  if (headers_ != 0) {
    next = std::min(next, headers_since_ + kHeadersWithin);
  }
  timer_->start(std::max(next - now, Duration(std::chrono::milliseconds(1))));
}

void Tunnel::on_timer() {
  if (ended_) {
    return;
  }
  if (lingering_) {
    gone(linger_reason_);
    return;
  }
  if (!ready_) {
    lost_ = true;
    context_.metrics.hit(telemetry::Limit::kHandshakeTimeout).add();
    fail_with(role_ == Role::kServer
                  ? "the TLS handshake took longer than 5 s; a port scan, a health check, or a "
                    "firewall in between that drops what follows?"
                  : "the TLS handshake took longer than 5 s; a firewall or a program that does "
                    "not speak TLS may hold the port");
    return;
  }
  if (!write_error_.empty()) {
    fail_with(write_error_);
    return;
  }
  if (closing_) {
    give_up_closing();
    return;
  }
  const Instant now = context_.clock.now();
  // On a slow line the ping waits behind what was sent before: whoever is heard lives.
  if (pinging_ && now >= std::max(ping_sent_, last_heard_) + kPongWithin) {
    context_.metrics.hit(telemetry::Limit::kPingTimeout).add();
    fail_with("the far agent did not answer a ping within 20 s");
    return;
  }
  if (headers_ != 0 && now >= headers_since_ + kHeadersWithin && !hbone_.calmed()) {
    headers_ = 0;
    calm(telemetry::Limit::kSlowHeaders, "a request's header fields took longer than 10 s");
  }
  if (!calm_reason_.empty() && now >= calm_since_ + kCalmWithin) {
    gone(calm_reason_);  // it does not read what it is told
    return;
  }
  const bool idle = hbone_.open_streams() == 0;
  if (idle && refusing_) {
    end_gracefully();
    return;
  }
  if (announced_ && !refusing_) {
    refusing_ = true;
    hbone_.refuse_new();
  }
  if (expired()) {
    announce_for(telemetry::Limit::kCertificateEnd);
  } else if (!announced_ && idle && now >= idle_since_ + context_.limits.idle_tunnel_timeout) {
    announce_for(telemetry::Limit::kIdleTunnel);
  }
  if (!pinging_ && now >= last_heard_ + kPingAfter) {
    pinging_ = true;
    ping_sent_ = now;
    hbone_.ping();
  }
  if (idle && refusing_) {
    timer_->start(Duration::zero());
    return;
  }
  arm_timer();
}

void Tunnel::give_up_closing() {
  if (!calm_reason_.empty()) {
    gone(calm_reason_);
    return;
  }
  const bool unread = stream_->queued() > 0;
  if (unread) {
    context_.metrics.hit(telemetry::Limit::kPingTimeout).add();
  }
  gone(unread ? "the far agent has not read for 20 s" : "");
}

void Tunnel::fail_with(const std::string& reason) {
  if (ended_ || lingering_) {
    return;
  }
  flush();
  if (role_ == Role::kServer && (!ready_ || failure_ != telemetry::Flag::kTlsFailure)) {
    linger_reason_ = reason;
    linger();
    return;
  }
  gone(reason);
}

Error Tunnel::end_of_streams(const std::string& reason) const {
  const bool limit = failure_ == telemetry::Flag::kOverload || !calm_reason_.empty();
  if (role_ == Role::kClient || !limit) {
    return {ErrorCode::kReset, reason};  // callers of our own may try another tunnel
  }
  return {ErrorCode::kLimit, calm_reason_.empty() ? reason : calm_reason_};
}

void Tunnel::linger() {
  // Closing with unread bytes would send RST, and the peer might never read the alert or GOAWAY.
  lingering_ = true;
  hbone_.abandon(end_of_streams(linger_reason_));
  stream_->shutdown();
  timer_->start(kLinger);
}

void Tunnel::end_gracefully() {
  closing_ = true;
  if (calm_reason_.empty()) {
    timer_->start(kPongWithin);  // anew with everything the peer takes
  } else {
    timer_->start(std::max(calm_since_ + kCalmWithin - context_.clock.now(), Duration::zero()));
  }
  if (!said_) {
    hbone_.pump();
    said_ = !hbone_.wants_write() || stream_->queued() == 0;
    if (said_) {
      tls_->close();
      flush();
    }
  }
  if (stream_->queued() == 0) {
    // Not closed yet: whatever the peer still sends would be answered with a reset, and what the
    // kernel has not delivered by then is lost. Its own end comes to on_end().
    stream_->shutdown();
  }  // else on_drained() comes back here
}

void Tunnel::gone(const std::string& error) {
  if (ended_) {
    return;
  }
  flush();
  if (stream_) {
    stream_->shutdown();  // a reset could overtake the GOAWAY that says why
  }
  ended_ = true;
  timer_->stop();
  const bool was_ready = ready_;
  const std::string& why = hbone_.complaint().empty() ? error : hbone_.complaint();
  hbone_.abandon(end_of_streams(why.empty() ? "the tunnel was closed" : why));
  owner_->on_tunnel_gone(*this, !was_ready, why);
}

void report_breach(ProxyContext& context, const Tunnel& tunnel, telemetry::Flag flag,
                   const std::string& reason) {
  const IpAddress peer = tunnel.peer_address().ip;
  if (flag == telemetry::Flag::kOverload) {
    context.metrics.refused(telemetry::Refusal::kLimit).add();
    context.reports.limit_reached(peer, reason);
    return;
  }
  context.metrics
      .refused(flag == telemetry::Flag::kTlsFailure ? telemetry::Refusal::kTls
                                                    : telemetry::Refusal::kProtocol)
      .add();
  context.reports.peer_refused(peer, flag, reason);
}

}  // namespace meshnode::proxy
