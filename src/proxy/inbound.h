#pragma once
/// Connections to this node's workloads: plaintext steered to port 15006, and tunnels at 15008.
/// Both end in a connection to the program, made from the caller's address. Thread: one loop.

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
  AcceptEvents& plaintext() { return plaintext_; }
  AcceptEvents& tunnels() { return tunnels_; }
  std::size_t active() const { return connections_.size(); }
  /// A tunnel has begun to end and is not over.
  bool ending() const;
  /// GOAWAY on every tunnel; they go when their last stream does.
  void drain();

 private:
  class Delivered;
  struct Accept final : AcceptEvents {
    Accept(Inbound& owner, void (Inbound::*call)(std::unique_ptr<Stream>))
        : owner_(owner), call_(call) {}
    void on_accept(std::unique_ptr<Stream> stream) override { (owner_.*call_)(std::move(stream)); }
    Inbound& owner_;
    void (Inbound::*call_)(std::unique_ptr<Stream>);
  };

  void accept_plaintext(std::unique_ptr<Stream> stream);
  void accept_tunnel(std::unique_ptr<Stream> stream);
  void on_tunnel_ready(Tunnel& tunnel) override;
  void on_tunnel_changed(Tunnel&) override {}
  void on_tunnel_gone(Tunnel& tunnel, bool handshake, const std::string& error) override;
  void on_connect(Tunnel& tunnel, std::unique_ptr<HboneStream> stream,
                  ConnectRequest request) override;
  void on_refused(Tunnel& tunnel, telemetry::Flag flag, const std::string& reason) override;

  struct Open {
    std::unique_ptr<Tunnel> tunnel;
    std::list<Tunnel*>::iterator shaking;  // end() once the handshake is done
  };
  void shed_oldest_handshake();
  void record_refusal(const Tunnel& tunnel, telemetry::Refusal reason, telemetry::Flag flag,
                      const std::string& error);

  ProxyContext& context_;
  ConnectionSet connections_;
  Accept plaintext_;
  Accept tunnels_;
  std::unordered_map<Tunnel*, Open> open_;
  std::list<Tunnel*> shaking_;  // handshakes under way, the oldest first
};

}  // namespace meshnode::proxy
