#pragma once
/// Hears from the kernel when packet filter rules, routes or routing rules of a network namespace
/// change, so that nobody has to keep comparing them. Needs CAP_NET_ADMIN for the packet filter's.

#include <functional>
#include <memory>

namespace meshnode::io {

class Loop;

/// Of the one it is made in. Calls back once per burst (100 ms after its first event, and at most
/// once a second), also for our own changes and when events were lost. Thread: the loop's.
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

/// The same for whoever asks; afterwards the calling thread may be elsewhere. Thread: one.
class RuleChanges {
 public:
  RuleChanges();
  ~RuleChanges();
  RuleChanges(const RuleChanges&) = delete;
  RuleChanges& operator=(const RuleChanges&) = delete;
  /// As RuleEvents.
  bool hears() const;
  /// Whether anything changed since the last call, also by ourselves; two system calls if not.
  bool any();

 private:
  int filter_;
  int routes_;
};

}  // namespace meshnode::io
