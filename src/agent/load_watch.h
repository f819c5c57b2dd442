#pragma once
/// Looks at what the process and the kernel's connection table use, eight times a second and from
/// half of a limit on fifty times, and has new work refused when it is too much. Thread: the
/// control loop's.

#include <meshnode/clock.h>
#include <meshnode/storage.h>
#include <cstdint>
#include <functional>
#include <memory>

#include "agent/overload.h"
#include "proxy/load.h"

namespace meshnode::agent {

/// What is used now. `max_memory`: Node.spec.proxy.maxMemory; 0 takes a quarter of the machine's
/// memory, or of the least memory.max of the process's cgroups.
LoadReading read_load(const Storage& storage, std::uint64_t max_memory);

struct LoadEvents {
  /// Node.spec.proxy.maxMemory now.
  std::function<std::uint64_t()> max_memory;
  /// Memory is nearly used up: give back to the system what is free. Only what is used after that
  /// counts.
  std::function<void()> give_back;
  /// Memory is used up: cut connections that keep about so much.
  std::function<void(std::uint64_t octets)> cut;
  /// overload().conditions() have begun or ended.
  std::function<void()> on_change;
};

class LoadWatch {
 public:
  LoadWatch(Clock& clock, const Storage& storage, proxy::Load& load, LoadEvents events);
  const Overload& overload() const { return overload_; }

 private:
  void look();

  Clock& clock_;
  const Storage& storage_;
  proxy::Load& load_;
  LoadEvents events_;
  Overload overload_;
  Instant next_giving_back_{};
  std::uint64_t given_back_to_ = 0;  // octets used after it
  std::unique_ptr<Timer> timer_;
};

}  // namespace meshnode::agent
