#pragma once
/// The proxy loops, each on a thread of its own. Thread: the control loop's, but for the loops'
/// own threads, which see nothing of this but their ProxyLoop.

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
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
  telemetry::Observed& observed;
  /// Of the supervisor's socket service: io/space_sockets.h.
  std::string sockets_path{};
};

/// The answers of the loops, as they come. Thread-safe.
class Survey {
 public:
  explicit Survey(std::size_t loops) : left_(loops), holdings_(loops) {}
  /// Of a loop that has not answered nothing is known.
  Holdings so_far() const;
  /// Whether that was the last one.
  bool add(std::size_t loop, std::vector<std::size_t> holdings);

 private:
  mutable std::mutex mutex_;
  std::size_t left_;
  Holdings holdings_;
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
  /// Asks every loop what its connections keep in memory (ProxyLoop::holdings); `done` runs on
  /// some loop's thread, once all have said so. What has been said may be used before.
  std::shared_ptr<const Survey> ask_holdings(const std::function<void()>& done);
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
