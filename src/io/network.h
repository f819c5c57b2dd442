#pragma once
/// The Network seam over libuv: dialling and accepting on one loop. Thread: the loop's.

#include <meshnode/transport.h>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "io/descriptor_budget.h"
#include "io/loop.h"
#include "io/own_ports.h"
#include "io/source_port.h"
#include "io/space_sockets.h"

namespace meshnode::io {

/// By DialOptions::space. Those of other namespaces come with the first dial that needs them.
using SpacePorts = std::map<std::uint16_t, std::unique_ptr<SourcePorts>>;

struct NetworkOptions {
  /// SO_MARK of every dialled socket; 0 sets none.
  std::uint32_t mark = 0;
  /// Which share of the source ports is this loop's: `share` of `shares`.
  unsigned share = 0;
  unsigned shares = 1;
  /// Where among its share of them a loop begins: a random number, so that one that starts anew
  /// does not meet what its predecessor left.
  std::uint64_t first_port = 0;
  /// Accepting pauses while it is full; null counts nothing.
  DescriptorBudget* budget = nullptr;
  /// Accepting has paused for want of descriptors.
  std::function<void()> on_full;
  /// Where sockets in the network namespaces of workloads come from; without it, dials with
  /// DialOptions::space fail. Must outlive the network.
  SpaceSockets* spaces = nullptr;
};

class UvNetwork final : public Network {
 public:
  UvNetwork(Loop& loop, const NetworkOptions& options);
  ~UvNetwork() override;
  std::unique_ptr<Dial> dial(const DialOptions& options, DialEvents* events) override;
  Result<std::unique_ptr<Listener>> listen(int descriptor, AcceptEvents* events) override;
  /// The namespace of that slot is not its own any more: nothing kept for it is used again.
  void forget_space(std::uint16_t slot);
  bool full() const override { return options_.budget != nullptr && options_.budget->full(); }

 private:
  Loop& loop_;
  NetworkOptions options_;
  SpacePorts ports_;
  OwnPorts own_ports_;
};

}  // namespace meshnode::io
