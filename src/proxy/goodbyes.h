#pragma once
/// The far agents that have said goodbye (GOAWAY without an error) and may be back soon, with a new
/// version or configuration: those who call them wait for that, instead of being refused at once.
/// Shared by a node's loops, as one without a tunnel hears no goodbye. Thread-safe. As many are
/// kept as agents have said goodbye within kComesBackWithin.

#include <meshnode/address.h>
#include <meshnode/clock.h>
#include <map>
#include <mutex>

namespace meshnode::proxy {

inline constexpr Duration kComesBackWithin = std::chrono::seconds(15);

class Goodbyes {
 public:
  void note(const SocketAddress& agent, Instant now);
  /// It is there again.
  void forget(const SocketAddress& agent);
  bool may_come_back(const SocketAddress& agent, Instant now) const;

 private:
  mutable std::mutex mutex_;
  std::map<SocketAddress, Instant> said_;  // the last one, not older than kComesBackWithin
};

}  // namespace meshnode::proxy
