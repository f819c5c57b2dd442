#include "proxy/pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/duration.h"

namespace meshnode::proxy {

/// A TCP connect to a far agent.
class Pool::Opening final : public Retirable, private DialEvents {
 public:
  Opening(Pool& pool, const PoolKey& key) : pool_(pool), key_(key) {}
  void start() {
    DialOptions options;
    options.to = key_.to;
    options.source = key_.source;
    options.space = key_.space;
    options.timeout = pool_.context_.limits.connect_timeout;
    dial_ = pool_.context_.network.dial(options, this);
  }
  const PoolKey& key() const { return key_; }

 private:
  void on_connected(std::unique_ptr<Stream> stream) override {
    pool_.opened(*this, std::move(stream));
  }
  void on_dial_failed(const Error& error) override {
    Pool& pool = pool_;
    const PoolKey key = key_;
    pool.context_.executor.retire(pool.take(*this));
    // Silence is what a firewall's DROP sounds like; a missing agent is refused at once.
    const std::string cause =
        error.code == ErrorCode::kTimeout
            ? fmt::format("most likely a firewall does not admit port {}", key.to.port)
            : fmt::format("is the far agent running, and does a firewall block port {}?",
                          key.to.port);
    const telemetry::Flag flag = dial_failed(pool.context_, key.to, error);
    pool.open_failed(
        key, flag,
        {error.code, fmt::format("no tunnel to {}: {}; {}", key.to.text(), error.message, cause)},
        flag == telemetry::Flag::kConnect);
  }

  Pool& pool_;
  PoolKey key_;
  std::unique_ptr<Dial> dial_;
};

PoolRequest::~PoolRequest() {
  if (pool_ != nullptr) {
    pool_->withdraw(*this);
  }
}

void PoolRequest::on_connect_accepted() {
  pool_ = nullptr;
  events_->on_tunnelled(std::move(stream_));
}

void PoolRequest::on_connect_refused(int status, bool unprocessed, const Error& error) {
  // Nothing of the caller's has been sent yet: a tunnel that died under the request, or a peer
  // that certainly ignored it, is no reason to fail the first time.
  if (status == 0 && !retried_ && (unprocessed || error.code == ErrorCode::kReset)) {
    retried_ = true;
    Pool& pool = *pool_;
    pool.context_.executor.defer([stream = std::shared_ptr<HboneStream>(std::move(stream_))] {});
    auto& entry = pool.entries_[*key_];
    entry.waiting.push_back(this);
    pool.serve_soon(*key_);
    return;
  }
  pool_ = nullptr;
  const telemetry::Flag flag = status == 401                     ? telemetry::Flag::kDeny
                               : error.code == ErrorCode::kLimit ? telemetry::Flag::kOverload
                               : status == 0 ? telemetry::Flag::kH2HandshakeFailure
                                             : telemetry::Flag::kConnect;
  events_->on_tunnel_refused(flag, error);
}

Pool::~Pool() {
  *alive_ = false;
  for (auto& [key, entry] : entries_) {
    for (PoolRequest* request : entry.waiting) {
      request->pool_ = nullptr;
    }
  }
  key_of_.clear();
}

void PoolRequest::give_up() {
  if (pool_ == nullptr) {
    return;  // answered
  }
  Pool& pool = *std::exchange(pool_, nullptr);
  pool.context_.metrics.hit(telemetry::Limit::kAnswerTimeout).add();
  pool.withdraw(*this);
  stream_.reset();  // now: a tunnel that ends in this very turn must not find it
  const auto entry = pool.entries_.find(*key_);
  const std::string absent = entry == pool.entries_.end() ? "" : entry->second.absent;
  events_->on_tunnel_refused(
      telemetry::Flag::kConnect,
      {ErrorCode::kTimeout,
       fmt::format("{} gave no answer within {}{}{}", key_->to.text(),
                   duration_text(answer_within_),
                   absent.empty() ? "" : "; it has said goodbye: ", absent)});
}

Pool::Pool(ProxyContext& context) : context_(context) {}

std::unique_ptr<PoolRequest> Pool::connect(const PoolKey& key, ConnectRequest request,
                                           PoolEvents* events) {
  auto wish = std::unique_ptr<PoolRequest>(new PoolRequest(std::move(request), events));
  wish->answer_within_ = context_.limits.connect_timeout + kAnswerSlack;
  const auto entry = entries_.try_emplace(key).first;
  wish->pool_ = this;
  wish->key_ = &entry->first;
  entry->second.waiting.push_back(wish.get());
  wish->limit_ = context_.clock.timer([request = wish.get()] { request->give_up(); });
  wish->limit_->start(wish->answer_within_);
  // Never an event before this function has returned.
  serve_soon(key);
  return wish;
}

void Pool::serve_soon(const PoolKey& key) {
  context_.executor.defer([this, key, alive = alive_] {
    if (*alive) {
      serve(key);
    }
  });
}

void Pool::serve(const PoolKey& key) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) {
    return;
  }
  Entry& entry = found->second;
  for (const auto& tunnel : entry.tunnels) {
    while (!entry.waiting.empty() && tunnel->can_connect()) {
      PoolRequest* request = entry.waiting.front();
      auto stream = tunnel->connect(request->request_, request);
      if (!stream) {
        break;
      }
      entry.waiting.pop_front();
      request->stream_ = std::move(stream);
    }
  }
  const auto opening = std::count_if(entry.tunnels.begin(), entry.tunnels.end(),
                                     [](const auto& tunnel) { return tunnel->opening(); });
  const std::size_t coming = entry.openings.size() + static_cast<std::size_t>(opening);
  const bool knocks = entry.knock && entry.knock->running();
  if (!knocks && entry.waiting.size() > coming * kMaxStreamsOut) {
    const auto lasting =
        std::count_if(entry.tunnels.begin(), entry.tunnels.end(),
                      [](const auto& tunnel) { return !tunnel->ending() && !tunnel->draining(); });
    if (entry.openings.size() + static_cast<std::size_t>(lasting) < kMaxTunnelsPerKey) {
      open_tunnel(found->first, entry);
    } else if (coming == 0) {
      const std::string reason =
          fmt::format("all {} tunnels to {} are full", kMaxTunnelsPerKey, key.to.text());
      context_.metrics.hit(telemetry::Limit::kTunnelsPerDestination).add();
      context_.reports.own_limit_reached(key.to.ip, reason);
      refuse_waiting(key, telemetry::Flag::kOverload, {ErrorCode::kLimit, reason});
      return;
    }
  }
  drop_if_empty(key);
}

void Pool::open_tunnel(const PoolKey& key, Entry& entry) {
  entry.openings.push_back(std::make_unique<Opening>(*this, key));
  entry.openings.back()->start();
}

std::unique_ptr<Pool::Opening> Pool::take(Opening& opening) {
  auto& openings = entries_[opening.key()].openings;
  const auto at = std::find_if(openings.begin(), openings.end(),
                               [&](const auto& owned) { return owned.get() == &opening; });
  auto owned = std::move(*at);
  openings.erase(at);
  return owned;
}

void Pool::opened(Opening& opening, std::unique_ptr<Stream> stream) {
  const PoolKey key = opening.key();
  context_.executor.retire(take(opening));
  auto tunnel = std::make_unique<Tunnel>(context_, Role::kClient, static_cast<TunnelOwner*>(this));
  auto session = tls::Session::client(
      key.credential, key.expected, [&clock = context_.clock] { return clock.wall_now(); },
      tunnel->tls_events());
  if (!session) {
    open_failed(key, telemetry::Flag::kTlsFailure, session.error(), false);
    return;
  }
  const auto found = entries_.find(key);
  Tunnel& started = *tunnel;
  found->second.tunnels.push_back(std::move(tunnel));
  key_of_[&started] = &found->first;
  context_.metrics.tunnels_open(telemetry::Direction::kOutbound).add(1);
  context_.metrics.tunnels_total(telemetry::Direction::kOutbound).add();
  started.start(std::move(stream), std::move(*session));
}

void Pool::open_failed(const PoolKey& key, telemetry::Flag flag, const Error& error,
                       bool nobody_there) {
  const auto found = entries_.find(key);
  if (nobody_there && found != entries_.end() &&
      context_.goodbyes.may_come_back(key.to, context_.clock.now())) {
    Entry& entry = found->second;
    entry.absent = error.message;
    if (!entry.knock) {
      entry.knock = context_.clock.timer([this, key] { serve_soon(key); });
    }
    entry.knock->start(kKnockAgainAfter);
    return;
  }
  context_.reports.tunnel_failed(key.to, error.message);
  refuse_waiting(key, flag, error);
}

void Pool::refuse_waiting(const PoolKey& key, telemetry::Flag flag, const Error& error) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) {
    return;
  }
  const auto waiting = std::exchange(found->second.waiting, {});
  drop_if_empty(key);
  for (PoolRequest* request : waiting) {
    request->pool_ = nullptr;
    request->events_->on_tunnel_refused(flag, error);
  }
}

void Pool::on_tunnel_ready(Tunnel& tunnel) {
  const PoolKey& key = *key_of_[&tunnel];
  entries_[key].absent.clear();
  context_.goodbyes.forget(key.to);
  serve_soon(key);
}

void Pool::on_tunnel_changed(Tunnel& tunnel) {
  // Programs may reset, and be refused, as often as they like: that must not end the others'.
  if (tunnel.worn()) {
    tunnel.drain();
  }
  const auto found = key_of_.find(&tunnel);
  if (found != key_of_.end() && tunnel.take_goodbye()) {
    context_.goodbyes.note(found->second->to, context_.clock.now());
  }
  if (found != key_of_.end() && !entries_[*found->second].waiting.empty()) {
    serve_soon(*found->second);
  }
}

void Pool::on_tunnel_gone(Tunnel& tunnel, bool handshake, const std::string& error) {
  const auto known = key_of_.find(&tunnel);
  const PoolKey key = *known->second;
  const telemetry::Flag flag = tunnel.failure();
  key_of_.erase(known);
  context_.metrics.tunnels_open(telemetry::Direction::kOutbound).add(-1);
  if (tunnel.was_of_use() && !tunnel.complaint().empty()) {
    context_.reports.tunnel_failed(key.to, error);
  }
  Entry& entry = entries_[key];
  const auto at = std::find_if(entry.tunnels.begin(), entry.tunnels.end(),
                               [&](const auto& owned) { return owned.get() == &tunnel; });
  context_.executor.retire(std::move(*at));
  entry.tunnels.erase(at);
  // A server that refuses our certificate says so after our end of the handshake (RFC 8446 §4.4.2),
  // and one that ends a tunnel unused would do so with the next: trying on would never end.
  if (tunnel.told_to_calm() || handshake ||
      (!tunnel.was_of_use() && !(error.empty() && entry.waiting.empty()))) {
    const bool limit = tunnel.told_to_calm();
    open_failed(key, limit ? telemetry::Flag::kOverload : flag,
                {limit ? ErrorCode::kLimit : ErrorCode::kTls,
                 fmt::format("no tunnel to {}: {}", key.to.text(),
                             error.empty() ? "the far agent ended it at once" : error)},
                !limit && handshake && tunnel.lost());
    return;
  }
  serve_soon(key);
}

void Pool::on_refused(Tunnel& tunnel, telemetry::Flag flag, const std::string& reason) {
  report_breach(context_, tunnel, flag, reason);
}

void Pool::withdraw(PoolRequest& request) {
  const auto found = entries_.find(*request.key_);
  if (found != entries_.end()) {
    found->second.waiting.remove(&request);
  }
}

void Pool::drop_if_empty(const PoolKey& key) {
  const auto found = entries_.find(key);
  if (found != entries_.end() && found->second.tunnels.empty() && found->second.openings.empty() &&
      found->second.waiting.empty()) {
    entries_.erase(found);
  }
}

bool Pool::ending() const {
  return std::any_of(key_of_.begin(), key_of_.end(),
                     [](const auto& entry) { return entry.first->ending(); });
}

void Pool::leave(std::uint16_t space) {
  std::vector<Tunnel*> theirs;
  for (const auto& [tunnel, key] : key_of_) {
    if (key->space == space) {
      theirs.push_back(tunnel);
    }
  }
  for (Tunnel* tunnel : theirs) {
    tunnel->drain();
  }
  for (auto& [key, entry] : entries_) {
    if (key.space == space) {
      entry.openings.clear();  // at once: none of them may still hear of its connect
      serve_soon(key);
    }
  }
}

void Pool::drain() {
  std::vector<Tunnel*> all;
  for (const auto& [tunnel, key] : key_of_) {
    all.push_back(tunnel);
  }
  for (Tunnel* tunnel : all) {
    // One that is being opened has connections waiting for it.
    if (tunnel->ready()) {
      tunnel->drain();
    }
  }
}

}  // namespace meshnode::proxy
