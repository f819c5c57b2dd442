#pragma once
/// Connections to this node's workloads: plaintext steered to port 15006, and tunnels at 15008.
/// Both end in a connection to the program, made from the caller's address. Thread: one loop.

#include <functional>
#include <list>
#include <memory>
#include <unordered_map>

#include "proxy/connection.h"
#include "proxy/context.h"
#include "proxy/tunnel.h"

namespace meshnode::proxy {

class Inbound final : private TunnelOwner {
 public:
  explicit Inbound(ProxyContext& context);
  ~Inbound() override;
  /// What takes connections of a listener in the network namespace `space` (DialOptions::space).
  /// Must not outlive this.
  std::unique_ptr<AcceptEvents> plaintext(std::uint16_t space);
  std::unique_ptr<AcceptEvents> tunnels(std::uint16_t space);
  std::size_t active() const { return connections_.size(); }
  /// A tunnel has begun to end and is not over.
  bool ending() const;
  ConnectionSet& connections() { return connections_; }
  /// GOAWAY on every tunnel; they go when their last stream does.
  void drain();
  /// The same for those that came in in the network namespace of `space`.
  void leave(std::uint16_t space);

 private:
  class Delivered;
  struct Accept final : AcceptEvents {
    using Call = void (Inbound::*)(std::unique_ptr<Stream>, std::uint16_t);
    Accept(Inbound& owner, Call call, std::uint16_t space)
        : owner_(owner), call_(call), space_(space) {}
    void on_accept(std::unique_ptr<Stream> stream) override {
      (owner_.*call_)(std::move(stream), space_);
    }
    Inbound& owner_;
    Call call_;
    std::uint16_t space_;
  };

  void accept_plaintext(std::unique_ptr<Stream> stream, std::uint16_t space);
  void accept_tunnel(std::unique_ptr<Stream> stream, std::uint16_t space);
  void on_tunnel_ready(Tunnel& tunnel) override;
  void on_tunnel_changed(Tunnel&) override {}
  void on_tunnel_gone(Tunnel& tunnel, bool handshake, const std::string& error) override;
  void on_connect(Tunnel& tunnel, std::unique_ptr<HboneStream> stream,
                  ConnectRequest request) override;
  void on_refused(Tunnel& tunnel, telemetry::Flag flag, const std::string& reason) override;

  struct Open {
    std::unique_ptr<Tunnel> tunnel;
    std::list<Tunnel*>::iterator shaking;  // end() once the handshake is done
    std::uint16_t space = 0;
    bool counted = false;  // in Load's tunnels of this peer
  };
  void drain_tunnels(const std::function<bool(const Open&)>& which);
  void shed_oldest_handshake();
  bool turned_away(Stream& stream);
  void record_refusal(const Tunnel& tunnel, telemetry::Flag flag, const std::string& error);

  ProxyContext& context_;
  ConnectionSet connections_;
  std::unordered_map<Tunnel*, Open> open_;
  std::list<Tunnel*> shaking_;  // handshakes under way, the oldest first
};

}  // namespace meshnode::proxy
