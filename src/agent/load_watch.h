#pragma once
/// Looks twice a second at what the process and the kernel's connection table use, and has new work
/// refused when that is too much. Thread: the control loop's.

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
  /// Memory is nearly used up: give back what is free, and cut connections for `octets` more.
  std::function<void(std::uint64_t octets)> on_pressure;
  /// overload().conditions() have begun or ended.
  std::function<void()> on_change;
};

class LoadWatch {
 public:
  LoadWatch(Clock& clock, const Storage& storage, proxy::Load& load, LoadEvents events);
  const Overload& overload() const { return overload_; }

 private:
  void look();

  const Storage& storage_;
  proxy::Load& load_;
  LoadEvents events_;
  Overload overload_;
  std::unique_ptr<Timer> timer_;
};

}  // namespace meshnode::agent
