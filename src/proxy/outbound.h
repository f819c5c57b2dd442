#pragma once
/// Captured outbound connections (port 15001): who calls, where to, and the bytes in between.
/// Thread: one loop.

#include <memory>
#include <unordered_map>

#include "proxy/connection.h"
#include "proxy/context.h"
#include "proxy/pool.h"

namespace meshnode::proxy {

class Outbound final : public AcceptEvents {
 public:
  Outbound(ProxyContext& context, Pool& pool);
  ~Outbound() override;
  void on_accept(std::unique_ptr<Stream> stream) override;
  std::size_t active() const { return connections_.size(); }

 private:
  class Captured;

  ProxyContext& context_;
  Pool& pool_;
  ConnectionSet connections_;
  std::unordered_map<std::uint64_t, std::uint64_t> turns_;  // by Route::id
};

}  // namespace meshnode::proxy
