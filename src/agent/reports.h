#pragma once
/// Where every part of the worker tells what an operator should know: the problem list behind
/// `status`, and the log. Thread: thread-safe.

#include <meshnode/time.h>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "proxy/context.h"
#include "telemetry/problems.h"

namespace meshnode::agent {

class Reports final : public proxy::ProxyReports {
 public:
  explicit Reports(std::function<WallTime()> wall_now) : wall_now_(std::move(wall_now)) {}

  void peer_refused(const IpAddress& peer, telemetry::Flag flag,
                    const std::string& reason) override;
  void limit_reached(const IpAddress& peer, const std::string& limit) override;
  void own_limit_reached(const IpAddress& peer, const std::string& limit) override;
  void descriptors_used_up() override;
  void handshakes_used_up() override;
  void tunnel_failed(const SocketAddress& to, const std::string& reason) override;

  /// A condition of ours that lasts until the next set() without it.
  struct Condition {
    std::string object, message, hint;
    bool degrades = true;
  };
  /// Exactly these conditions of `code` hold now.
  void set(const std::string& code, const std::vector<Condition>& conditions);
  /// Something that happened.
  void event(const telemetry::ProblemReport& report);

  std::vector<telemetry::Problem> list() { return problems_.snapshot(wall_now_()); }
  /// Problems that were not listed, as there are too many.
  std::uint64_t lost() const { return problems_.lost(); }
  bool degraded() { return problems_.degrading(wall_now_()) > 0; }

 private:
  /// Whether to log this one: the same again within a minute is only counted.
  bool worth_a_line(const telemetry::ProblemReport& report, WallTime now);

  static constexpr Duration kSameLine = std::chrono::minutes(1);
  static constexpr std::size_t kMaxLogged = 1'000;
  std::function<WallTime()> wall_now_;
  std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, WallTime> logged_;  // guarded by mutex_
  telemetry::ProblemLog problems_;
};

}  // namespace meshnode::agent
