#include "proxy/proxy_loop.h"

#include <utility>

namespace meshnode::proxy {

ProxyLoop::ProxyLoop(ProxyContext context)
    : context_(std::move(context)),
      pool_(context_),
      outbound_(context_, pool_),
      inbound_(context_) {}

ProxyLoop::~ProxyLoop() = default;

Status ProxyLoop::open(const ListenerSet& listeners) {
  const auto add = [this](const std::vector<int>& descriptors, AcceptEvents& events) -> Status {
    for (const int descriptor : descriptors) {
      auto listener = context_.network.listen(descriptor, &events);
      if (!listener) {
        return fail(listener.error());
      }
      listeners_.push_back(std::move(*listener));
    }
    return {};
  };
  if (auto added = add(listeners.outbound, outbound_); !added) {
    return added;
  }
  if (auto added = add(listeners.plaintext, inbound_.plaintext()); !added) {
    return added;
  }
  return add(listeners.tunnels, inbound_.tunnels());
}

void ProxyLoop::swap(std::shared_ptr<const snapshot::Snapshot> snapshot) {
  context_.snapshot = std::move(snapshot);
}

void ProxyLoop::drain() {
  listeners_.clear();
  pool_.drain();
  inbound_.drain();
}

bool ProxyLoop::idle() const {
  // An ended connection's last bytes may still be in its tunnel.
  return outbound_.active() == 0 && inbound_.active() == 0 && !pool_.ending() && !inbound_.ending();
}

}  // namespace meshnode::proxy
