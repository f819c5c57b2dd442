#pragma once
/// The proxy loops, each on a thread of its own. Thread: the control loop's, but for the loops'
/// own threads, which see nothing of this but their ProxyLoop.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/overload.h"
#include "io/descriptor_budget.h"
#include "proxy/proxy_loop.h"
#include "supervisor/heartbeats.h"

namespace meshnode::agent {

/// Shared by all loops; thread-safe, and outlives them.
struct ProxyServices {
  telemetry::Telemetry& telemetry;
  telemetry::AgentMetrics& metrics;
  proxy::ProxyReports& reports;
  io::DescriptorBudget& budget;
  supervisor::Heartbeats& heartbeats;
  proxy::Load& load;
  proxy::Goodbyes& goodbyes;
  /// Of the supervisor's socket service: io/space_sockets.h.
  std::string sockets_path{};
};

class ProxyThreads {
 public:
  ProxyThreads(unsigned count, const ProxyServices& services, const proxy::ListenerSet& listeners,
               const std::shared_ptr<const snapshot::Snapshot>& snapshot);
  /// Ends all loops; connections that live are cut.
  ~ProxyThreads();

  /// Accepts in another network namespace too (DialOptions::space), or no longer.
  void open(std::uint16_t space, const proxy::ListenerSet& listeners);
  void close(std::uint16_t space);
  void swap(const std::shared_ptr<const snapshot::Snapshot>& snapshot);
  void drain();
  /// Asks every loop what its connections keep in memory (ProxyLoop::holdings); `answer` runs on
  /// some loop's thread, once all have said so.
  void ask_holdings(const std::function<void(const Holdings&)>& answer);
  /// ProxyLoop::relieve() for each loop, octets in their order.
  void relieve(const std::vector<std::size_t>& octets);
  /// Asks every loop whether its connections have ended; `answer` runs on some loop's thread, once
  /// all have said so.
  void ask_idle(const std::function<void(bool idle)>& answer);

 private:
  class Thread;
  std::vector<std::unique_ptr<Thread>> threads_;
};

}  // namespace meshnode::agent
