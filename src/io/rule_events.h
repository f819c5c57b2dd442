#pragma once
/// Hears from the kernel when packet filter rules, routes or routing rules of this network
/// namespace change, so that nobody has to keep asking. Thread: the loop's.

#include <functional>
#include <memory>

namespace meshnode::io {

class Loop;

/// Calls back once per burst (100 ms after its first event, and at most once a second), also for
/// our own changes and when events were lost. Needs CAP_NET_ADMIN for the packet filter's.
class RuleEvents {
 public:
  RuleEvents(Loop& loop, std::function<void()> on_change);
  ~RuleEvents();
  RuleEvents(const RuleEvents&) = delete;
  RuleEvents& operator=(const RuleEvents&) = delete;
  /// Whether both kinds are heard. Rules of iptables-legacy never are: it tells nobody.
  bool hears() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace meshnode::io
