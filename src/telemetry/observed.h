#pragma once
/// Who called whom of this node's workloads: what `policy suggest` and `policy diff` are made from.
/// Thread: everything is thread-safe; time comes in.

#include <meshnode/address.h>
#include <meshnode/ids.h>
#include <meshnode/time.h>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace meshnode::telemetry {

/// Connections that policies can't tell apart are one call.
struct Call {
  WorkloadId callee;
  std::string caller;  ///< the identity that was proven, as a URI; empty: plaintext
  IpAddress source;
  SocketAddress destination;  ///< as the caller knows the callee
  auto operator<=>(const Call&) const = default;
};

struct ObservedCall {
  Call call;
  std::uint64_t admitted = 0;
  std::uint64_t denied = 0;
  std::uint64_t open = 0;  ///< admitted and not over
  WallTime first{};
  WallTime last{};  ///< when the last one began, or ended
};

class Observed {
 public:
  static constexpr std::size_t kMaxCalls = 10'000;

  /// Counts a connection as open as long as it lives. Must not outlive the Observed.
  class Open {
   public:
    Open(Observed& all, Call call) : all_(all), call_(std::move(call)) {}
    Open(const Open&) = delete;
    Open& operator=(const Open&) = delete;
    ~Open() { all_.ended(call_); }

   private:
    Observed& all_;
    Call call_;
  };

  explicit Observed(std::function<WallTime()> now) : now_(std::move(now)) {}

  /// Null when there is no room.
  std::unique_ptr<Open> admitted(const Call& call);
  void denied(const Call& call);
  /// Those that are open, or were begun or ended since `since`; sorted.
  std::vector<ObservedCall> calls(WallTime since) const;
  /// Calls that were forgotten for newer ones, or found no room, as all were open.
  std::uint64_t forgotten() const;

 private:
  struct Seen {
    std::uint64_t admitted = 0;
    std::uint64_t denied = 0;
    std::uint64_t open = 0;
    WallTime first{};
    WallTime last{};
  };
  Seen* at(const Call& call, WallTime now);
  bool make_room();
  void ended(const Call& call);

  const std::function<WallTime()> now_;
  mutable std::mutex mutex_;
  std::map<Call, Seen> calls_;
  std::uint64_t forgotten_ = 0;
};

}  // namespace meshnode::telemetry
