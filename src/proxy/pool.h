#pragma once
/// Tunnels to other nodes, shared by the connections of one loop: one pool key is one caller's
/// certificate, one expected callee, one far agent, one source address and one network namespace to
/// dial from. A tunnel takes up to min(100, the peer's limit) streams; then another is opened.
/// Thread: one loop.

#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proxy/tunnel.h"

namespace meshnode::proxy {

struct PoolKey {
  std::shared_ptr<const tls::Credential> credential;
  SpiffeId expected;
  SocketAddress to;
  std::optional<IpAddress> source;
  std::uint16_t space = 0;  ///< DialOptions::space
  auto operator<=>(const PoolKey&) const = default;
};

class PoolEvents {
 public:
  virtual ~PoolEvents() = default;
  /// The far agent has connected to the callee: the stream carries bytes.
  virtual void on_tunnelled(std::unique_ptr<HboneStream> stream) = 0;
  virtual void on_tunnel_refused(telemetry::Flag flag, const Error& error) = 0;
};

class Pool;

/// Tunnels with one key that take new streams, or will: more connections between two workloads than
/// a source address has ports for. A far agent that takes few streams a tunnel must not make us
/// open them without end.
inline constexpr std::size_t kMaxTunnelsPerKey = 256;

/// Added to connectTimeout, the far agent's time to reach its program: from the wish to the answer.
inline constexpr Duration kAnswerSlack = std::chrono::seconds(5);

/// Between two attempts to reach a far agent that said goodbye (goodbyes.h).
inline constexpr Duration kKnockAgainAfter = std::chrono::milliseconds(100);

/// One wish for a stream; destroying it withdraws it. Either event ends it.
class PoolRequest final : private ConnectEvents {
 public:
  ~PoolRequest() override;

 private:
  friend class Pool;
  class Entry;
  PoolRequest(ConnectRequest request, PoolEvents* events)
      : request_(std::move(request)), events_(events) {}
  void on_connect_accepted() override;
  void on_connect_refused(int status, bool unprocessed, const Error& error) override;
  void give_up();

  ConnectRequest request_;
  PoolEvents* events_;
  Pool* pool_ = nullptr;
  const PoolKey* key_ = nullptr;  // owned by the pool's map; entries outlive their requests
  std::unique_ptr<HboneStream> stream_;
  Duration answer_within_{};
  std::unique_ptr<Timer> limit_;
  bool retried_ = false;
};

class Pool final : private TunnelOwner {
 public:
  explicit Pool(ProxyContext& context);
  ~Pool() override;
  std::unique_ptr<PoolRequest> connect(const PoolKey& key, ConnectRequest request,
                                       PoolEvents* events);
  /// GOAWAY on every tunnel; they go when their last stream does.
  void drain();
  /// The network namespace of `space` is not what it was: whatever is asked from there from now on
  /// goes through new tunnels. Those that live end with their last stream.
  void leave(std::uint16_t space);
  /// A tunnel has begun to end and is not over.
  bool ending() const;

 private:
  friend class PoolRequest;
  class Opening;
  struct Entry {
    std::vector<std::unique_ptr<Tunnel>> tunnels;    // handshake done or under way
    std::vector<std::unique_ptr<Opening>> openings;  // TCP connect under way
    std::list<PoolRequest*> waiting;
    std::unique_ptr<Timer> knock;  // until then no tunnel is opened
    std::string absent;            // why not, in the words of the last attempt
  };

  void on_tunnel_ready(Tunnel& tunnel) override;
  void on_tunnel_changed(Tunnel& tunnel) override;
  void on_tunnel_gone(Tunnel& tunnel, bool handshake, const std::string& error) override;
  void on_connect(Tunnel&, std::unique_ptr<HboneStream>, ConnectRequest) override {}
  void on_refused(Tunnel& tunnel, telemetry::Flag flag, const std::string& reason) override;

  void serve(const PoolKey& key);
  void serve_soon(const PoolKey& key);
  void open_tunnel(const PoolKey& key, Entry& entry);
  void opened(Opening& opening, std::unique_ptr<Stream> stream);
  /// `nobody_there`: no decision of the far agent's.
  void open_failed(const PoolKey& key, telemetry::Flag flag, const Error& error, bool nobody_there);
  void refuse_waiting(const PoolKey& key, telemetry::Flag flag, const Error& error);
  void withdraw(PoolRequest& request);
  void drop_if_empty(const PoolKey& key);
  std::unique_ptr<Opening> take(Opening& opening);

  ProxyContext& context_;
  std::map<PoolKey, Entry> entries_;
  std::map<Tunnel*, const PoolKey*> key_of_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for deferred tasks
};

}  // namespace meshnode::proxy
