#pragma once
/// Captured outbound connections (port 15001): who calls, where to, and the bytes in between.
/// Thread: one loop.

#include <memory>
#include <unordered_map>

#include "proxy/connection.h"
#include "proxy/context.h"
#include "proxy/pool.h"

namespace meshnode::proxy {

class Outbound final {
 public:
  Outbound(ProxyContext& context, Pool& pool);
  ~Outbound();
  /// What takes connections of a listener in the network namespace `space` (DialOptions::space).
  /// Must not outlive this.
  std::unique_ptr<AcceptEvents> accepting(std::uint16_t space);
  std::size_t active() const { return connections_.size(); }
  ConnectionSet& connections() { return connections_; }

 private:
  class Captured;
  class Accept;

  void accept(std::unique_ptr<Stream> stream, std::uint16_t space);

  ProxyContext& context_;
  Pool& pool_;
  ConnectionSet connections_;
  std::unordered_map<std::uint64_t, std::uint64_t> turns_;  // by Route::id
};

}  // namespace meshnode::proxy
