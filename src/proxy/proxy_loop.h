#pragma once
/// Everything of the proxy that lives on one loop: listeners, tunnels, connections. Sibling loops
/// share the listeners' descriptors and nothing else. Thread: its loop's.

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "proxy/context.h"
#include "proxy/inbound.h"
#include "proxy/outbound.h"
#include "proxy/pool.h"

namespace meshnode::proxy {

/// Descriptors of the shared listeners, by job.
struct ListenerSet {
  std::vector<int> outbound;
  std::vector<int> plaintext;
  std::vector<int> tunnels;
  std::shared_ptr<const void> open;  ///< keeps them so; null when they outlive every loop
};

class ProxyLoop {
 public:
  explicit ProxyLoop(ProxyContext context);
  ~ProxyLoop();
  /// Accepts from here on, in the network namespace `space` (DialOptions::space), in place of what
  /// was open there. On an error nothing is.
  Status open(std::uint16_t space, const ListenerSet& listeners);
  /// No new connections there; those that live go on.
  void close(std::uint16_t space);
  /// For new connections; those that live keep what they were planned with, but for their callee's
  /// policies: one that these do not allow any more is cut.
  void swap(std::shared_ptr<const snapshot::Snapshot> snapshot);
  /// No new connections, GOAWAY on every tunnel; idle() when the last connection has ended.
  void drain();
  /// What each connection keeps in memory that keeps much (kWorthCutting), in octets.
  std::vector<std::size_t> holdings();
  /// Cuts those that keep the most, until about `octets` are free.
  void relieve(std::size_t octets);
  bool idle() const;

 private:
  std::vector<std::pair<std::size_t, Connection*>> holders();

  ProxyContext context_;
  Pool pool_;
  Outbound outbound_;
  Inbound inbound_;
  struct Accepting {
    ListenerSet set;
    std::unique_ptr<AcceptEvents> outbound;
    std::unique_ptr<AcceptEvents> plaintext;
    std::unique_ptr<AcceptEvents> tunnels;
    std::vector<std::unique_ptr<Listener>> listeners;
  };
  std::map<std::uint16_t, Accepting> accepting_;  // by space
  bool draining_ = false;
};

}  // namespace meshnode::proxy
