#include "proxy/proxy_loop.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace meshnode::proxy {

ProxyLoop::ProxyLoop(ProxyContext context)
    : context_(std::move(context)),
      pool_(context_),
      outbound_(context_, pool_),
      inbound_(context_) {
  context_.limits = context_.snapshot->limits;
}

ProxyLoop::~ProxyLoop() = default;

Status ProxyLoop::open(std::uint16_t space, const ListenerSet& listeners) {
  close(space);
  if (draining_) {
    return {};
  }
  Accepting accepting{listeners, outbound_.accepting(space), inbound_.plaintext(space),
                      inbound_.tunnels(space), {}};
  const auto add = [&](const std::vector<int>& descriptors, AcceptEvents& events) -> Status {
    for (const int descriptor : descriptors) {
      auto listener = context_.network.listen(descriptor, &events);
      if (!listener) {
        return fail(listener.error());
      }
      accepting.listeners.push_back(std::move(*listener));
    }
    return {};
  };
  auto added = add(listeners.outbound, *accepting.outbound);
  if (added) {
    added = add(listeners.plaintext, *accepting.plaintext);
  }
  if (added) {
    added = add(listeners.tunnels, *accepting.tunnels);
  }
  if (added) {
    accepting_[space] = std::move(accepting);
  }
  return added;
}

void ProxyLoop::close(std::uint16_t space) {
  if (accepting_.erase(space) != 0) {
    pool_.leave(space);
    inbound_.leave(space);
  }
}

void ProxyLoop::swap(std::shared_ptr<const snapshot::Snapshot> snapshot) {
  context_.snapshot = std::move(snapshot);
  context_.limits = context_.snapshot->limits;
  inbound_.connections().follow(*context_.snapshot);
  outbound_.connections().follow(*context_.snapshot);
}

std::vector<std::pair<std::size_t, Connection*>> ProxyLoop::holders() {
  auto all = inbound_.connections().holders();
  const auto more = outbound_.connections().holders();
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

std::vector<std::size_t> ProxyLoop::holdings() {
  std::vector<std::size_t> sizes;
  for (const auto& [holds, connection] : holders()) {
    sizes.push_back(holds);
  }
  return sizes;
}

void ProxyLoop::relieve(std::size_t octets) {
  auto all = holders();
  std::sort(all.begin(), all.end(), std::greater<>());
  std::size_t freed = 0;
  for (const auto& [holds, connection] : all) {
    if (freed >= octets) {
      break;
    }
    freed += holds;
    context_.metrics.hit(telemetry::Limit::kMemory).add();
    connection->cut(telemetry::Flag::kOverload,
                    "cut: it kept the most in memory, which is used up; see proxy.maxMemory");
  }
}

void ProxyLoop::drain() {
  draining_ = true;
  accepting_.clear();
  pool_.drain();
  inbound_.drain();
}

bool ProxyLoop::idle() const {
  // An ended connection's last bytes may still be in its tunnel.
  return outbound_.active() == 0 && inbound_.active() == 0 && !pool_.ending() && !inbound_.ending();
}

}  // namespace meshnode::proxy
