#pragma once
/// Everything of the proxy that lives on one loop: listeners, tunnels, connections. Sibling loops
/// share the listeners' descriptors and nothing else. Thread: its loop's.

#include <memory>
#include <vector>

#include "proxy/context.h"
#include "proxy/inbound.h"
#include "proxy/outbound.h"
#include "proxy/pool.h"

namespace meshnode::proxy {

/// Descriptors of the shared listeners, by job; owned by the caller.
struct ListenerSet {
  std::vector<int> outbound;
  std::vector<int> plaintext;
  std::vector<int> tunnels;
};

class ProxyLoop {
 public:
  explicit ProxyLoop(ProxyContext context);
  ~ProxyLoop();
  /// Accepts from here on.
  Status open(const ListenerSet& listeners);
  /// For new connections; those that live keep what they were planned with.
  void swap(std::shared_ptr<const snapshot::Snapshot> snapshot);
  /// No new connections, GOAWAY on every tunnel; idle() when the last connection has ended.
  void drain();
  bool idle() const;

 private:
  ProxyContext context_;
  Pool pool_;
  Outbound outbound_;
  Inbound inbound_;
  std::vector<std::unique_ptr<Listener>> listeners_;
};

}  // namespace meshnode::proxy
