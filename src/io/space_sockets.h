#pragma once
/// Sockets inside the network namespaces of workloads, asked of the supervisor (io/
/// space_protocol.h) and kept in small reserves, so that most dials need not wait for one. Thread:
/// one loop.

#include <meshnode/result.h>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "io/descriptor_budget.h"
#include "io/space_protocol.h"

namespace meshnode::io {

class Loop;

/// Kept of one (slot, kind): twice as many each time a dial had to wait, up to kMaxSpaceSockets;
/// none after ten to twenty seconds without a dial.
inline constexpr std::size_t kFirstReserve = 2;
/// Kept by one loop in all.
inline constexpr std::size_t kMaxReserved = 1024;
/// Callers that wait; more are refused.
inline constexpr std::size_t kMaxSpaceWaiters = 4096;

class SpaceSockets {
 public:
  /// `path`: the supervisor's sockets.sock, connected to at the first need.
  /// `budget`: what is kept counts there, and nothing more is kept while it is full; null counts
  /// nothing.
  SpaceSockets(Loop& loop, std::string path, DescriptorBudget* budget = nullptr);
  ~SpaceSockets();
  SpaceSockets(const SpaceSockets&) = delete;
  SpaceSockets& operator=(const SpaceSockets&) = delete;

  /// One of the reserve, the caller's from then on; -1 when there is none.
  int take_reserved(std::uint16_t slot, SpaceSocket kind);

  /// A caller that waits; destroying it calls it off.
  class Wait {
   public:
    ~Wait();
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;

   private:
    friend class SpaceSockets;
    struct State;
    explicit Wait(std::shared_ptr<State> state);
    std::shared_ptr<State> state_;
  };
  /// `taken` comes once, later: with a socket, which is the receiver's, or with why there is none.
  /// It may destroy the Wait. How long to wait is the caller's matter.
  std::unique_ptr<Wait> take(std::uint16_t slot, SpaceSocket kind,
                             std::function<void(Result<int>)> taken);

  /// Closes the reserve of a slot whose namespace is not its own any more; callers that wait are
  /// answered with an error.
  void forget(std::uint16_t slot);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace meshnode::io
