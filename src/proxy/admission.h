#pragma once
/// Whether the callee's policies let a connection in: at its beginning, and again when they have
/// changed. Pure. Thread: its loop's.

#include <memory>
#include <optional>
#include <string>

#include "policy/policies.h"
#include "snapshot/snapshot.h"
#include "telemetry/observed.h"

namespace meshnode::proxy {

class Admission {
 public:
  /// `caller` is who was proven to call, by a certificate or by the kernel of this host; null:
  /// plaintext.
  Admission(std::shared_ptr<const snapshot::LocalWorkload> callee, const SpiffeId* caller,
            const SocketAddress& source, const SocketAddress& destination);

  /// Who decides is the callee's policies as they were last seen.
  policy::Decision decide() const;
  /// Takes up the policies of `next`; whether they are others.
  bool follow(const snapshot::Snapshot& next);

  const snapshot::LocalWorkload& callee() const { return *callee_; }
  std::string explain(const policy::Decision& decision) const;
  telemetry::Call call() const;

 private:
  std::shared_ptr<const snapshot::LocalWorkload> callee_;
  std::optional<policy::Peer> peer_;
  SocketAddress source_;
  SocketAddress destination_;
};

}  // namespace meshnode::proxy
