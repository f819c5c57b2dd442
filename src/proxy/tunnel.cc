#include "proxy/tunnel.h"

#include <algorithm>
#include <utility>

namespace meshnode::proxy {
namespace {

constexpr std::size_t kCiphertextBatch = std::size_t{64} * 1024;
// More than this waiting for the socket: take no more from the streams.
constexpr std::size_t kMaxQueued = std::size_t{256} * 1024;
constexpr Duration kLinger = std::chrono::seconds(1);

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
    context_.metrics.hit(telemetry::Limit::kCertificateEnd).add();
    announce();  // the clock was set: the timer does not know yet
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
      fail_with(got.error().message);
      return;
    }
    if (got->size > 0) {
      if (auto received = hbone_.receive(buffer.first(got->size)); !received) {
        fail_with(received.error().message);
        return;
      }
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
  return ready_ && !ended_ && !said_ && stream_->queued() < kMaxQueued;
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
  if (pump_deferred_ || ended_ || closing_ || !ready_) {
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
    fail_with("HTTP/2: " +
              (hbone_.last_error().empty() ? "the session has ended" : hbone_.last_error()));
  }
}

void Tunnel::on_output_done() { flush(); }

void Tunnel::on_connect(std::unique_ptr<HboneStream> stream, ConnectRequest request) {
  owner_->on_connect(*this, std::move(stream), std::move(request));
}

void Tunnel::on_malformed(const std::string& reason) {
  owner_->on_refused(*this, telemetry::Flag::kH2HandshakeFailure, reason);
}

void Tunnel::on_excess(telemetry::Limit limit, const std::string& reason) {
  context_.metrics.hit(limit).add();
  owner_->on_refused(*this, telemetry::Flag::kOverload, reason);
}

void Tunnel::calm(telemetry::Limit limit, const std::string& reason) {
  hbone_.calm();
  on_excess(limit, reason);
}

void Tunnel::on_ping_answered() { pinging_ = false; }

void Tunnel::on_reset_counted() {
  const Instant now = context_.clock.now();
  const double seconds = std::chrono::duration<double>(now - resets_since_).count();
  resets_since_ = now;
  resets_left_ = std::min<double>(kResetBurst, resets_left_ + seconds * kResetsPerSecond) - 1;
  if (resets_left_ < 0 && !hbone_.calmed()) {
    calm(telemetry::Limit::kResets,
         "streams reset on one tunnel: more than 1,000 at once or 33 a second");
  }
}

void Tunnel::on_streams_changed() {
  if (ended_) {
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
  if (announced_ || closing_ || ended_) {
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
    next = std::min(next, now + std::clamp(left, Duration::zero(), context_.limits.idle_tunnel_timeout));
  } else if (!refusing_) {
    next = std::min(next, now + kGoawayPause);
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
    fail_with(
        "the TLS handshake took longer than 5 s; a firewall or a program that does not "
        "speak TLS may hold the port");
    return;
  }
  if (!write_error_.empty()) {
    fail_with(write_error_);
    return;
  }
  if (closing_) {
    const bool unread = stream_->queued() > 0;
    if (unread) {
      context_.metrics.hit(telemetry::Limit::kPingTimeout).add();
    }
    gone(unread ? "the far agent has not read for 20 s" : "");
    return;
  }
  const Instant now = context_.clock.now();
  // On a slow line the ping waits behind what was sent before: whoever is heard lives.
  if (pinging_ && now >= std::max(ping_sent_, last_heard_) + kPongWithin) {
    context_.metrics.hit(telemetry::Limit::kPingTimeout).add();
    fail_with("the far agent did not answer a ping within 20 s");
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
  if (!announced_ &&
      (expired() || (idle && now >= idle_since_ + context_.limits.idle_tunnel_timeout))) {
    context_.metrics
        .hit(expired() ? telemetry::Limit::kCertificateEnd : telemetry::Limit::kIdleTunnel)
        .add();
    announce();
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

void Tunnel::fail_with(const std::string& reason) {
  if (ended_ || lingering_) {
    return;
  }
  flush();
  if (!ready_ && role_ == Role::kServer) {
    linger_reason_ = reason;
    linger();
    return;
  }
  gone(reason);
}

void Tunnel::linger() {
  // Closing with unread bytes would send RST, and the peer might never read the alert.
  lingering_ = true;
  stream_->shutdown();
  timer_->start(kLinger);
}

void Tunnel::end_gracefully() {
  closing_ = true;
  timer_->start(kPongWithin);  // anew with everything the peer takes
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
  hbone_.abandon({ErrorCode::kReset, error.empty() ? "the tunnel was closed" : error});
  owner_->on_tunnel_gone(*this, !was_ready, error);
}

}  // namespace meshnode::proxy
