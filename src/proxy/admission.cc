#include "proxy/admission.h"

#include <utility>

#include "policy/explain.h"

namespace meshnode::proxy {

Admission::Admission(std::shared_ptr<const snapshot::LocalWorkload> callee, const SpiffeId* caller,
                     const SocketAddress& source, const SocketAddress& destination)
    : callee_(std::move(callee)), source_(source), destination_(destination) {
  if (caller != nullptr && !caller->trust_domain().empty()) {
    peer_.emplace(*caller);
  }
}

policy::Decision Admission::decide() const {
  policy::Attributes attributes;
  attributes.peer = peer_ ? &*peer_ : nullptr;
  attributes.source = attributes.remote = source_.ip;
  attributes.destination = destination_;
  return callee_->policies->decide(attributes);
}

bool Admission::follow(const snapshot::Snapshot& next) {
  const auto found = next.by_id.find(callee_->id);
  if (found == next.by_id.end() || found->second->policies == callee_->policies) {
    return false;
  }
  callee_ = found->second;
  return true;
}

telemetry::Call Admission::call() const {
  return {callee_->id, peer_ ? peer_->uri : std::string(), source_.ip, destination_};
}

std::string Admission::explain(const policy::Decision& decision) const {
  return policy::explain(decision, callee_->policies->mode(destination_.port));
}

}  // namespace meshnode::proxy
