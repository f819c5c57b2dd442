#pragma once
/// The Network seam over libuv: dialling and accepting on one loop. Thread: the loop's.

#include <meshnode/transport.h>
#include <cstdint>
#include <memory>

#include "io/loop.h"
#include "io/source_port.h"

namespace meshnode::io {

struct NetworkOptions {
  /// SO_MARK of every dialled socket; 0 sets none.
  std::uint32_t mark = 0;
  /// Which share of the transparent source ports is this loop's: `share` of `shares`.
  unsigned share = 0;
  unsigned shares = 1;
};

class UvNetwork final : public Network {
 public:
  UvNetwork(Loop& loop, const NetworkOptions& options);
  ~UvNetwork() override;
  std::unique_ptr<Dial> dial(const DialOptions& options, DialEvents* events) override;
  Result<std::unique_ptr<Listener>> listen(int descriptor, AcceptEvents* events) override;

 private:
  Loop& loop_;
  NetworkOptions options_;
  SourcePorts ports_;
};

}  // namespace meshnode::io
