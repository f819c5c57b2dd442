#pragma once
/// The network namespaces of enrolled workloads: listeners opened and rules kept inside each, from
/// outside. One that cannot be captured says why and keeps neither the host nor another from being
/// captured. One thread, which is not the supervisor's (space_thread.h): calls block as those of
/// Rules do, step() for one namespace at most.
///
/// Whoever is root inside a namespace can make everything slow that is done there. Programs run
/// there have kTurn together; where one failed or took longer than kSlowTurn, the next is a while
/// later, twice as long each time up to kLongestPause, and after the others. However long it took,
/// the next comes only after kRest times that.
///
/// A workload whose namespace is not there is waiting. One whose name leads elsewhere has lost it:
/// its listeners accept nothing from then on, the rules inside are taken out, since nobody there is
/// enrolled any more, and the namespace is let go, so that it can end. A process that ended names
/// nothing for good: whoever gets its number is another.

#include <meshnode/kernel.h>
#include <meshnode/time.h>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/net_namespace.h"
#include "supervisor/message.h"
#include "supervisor/rules.h"
#include "supervisor/sockets.h"

namespace meshnode::supervisor {

/// Programs of one turn in one namespace, together; the last may begin just before. What must be
/// put back has io::kProlonged more.
inline constexpr Duration kTurn = std::chrono::seconds(5);
/// One of them.
inline constexpr Duration kProgramInside = std::chrono::seconds(2);
inline constexpr std::size_t kOutputInside = std::size_t{4} << 20;
inline constexpr Duration kSlowTurn = std::chrono::seconds(2);
inline constexpr Duration kLongestPause = std::chrono::seconds(60);
/// So one namespace takes no more than a twelfth of the thread, in looks and in turns.
inline constexpr int kRest = 11;
/// What has not begun by then is left out of release() and remove().
inline constexpr Duration kReleaseWithin = std::chrono::seconds(5);
inline constexpr Duration kRemoveWithin = std::chrono::seconds(5);

/// A workload whose name cannot be followed holds back the removal of an earlier run's rules, since
/// any of them may be its own, for this long at most.
inline constexpr Duration kSweepHeldWithin = std::chrono::seconds(60);

/// In each, rules are compared with the kernel when it tells of a change there, at the next look().
/// Beside that they are compared this often, or, where it does not tell (iptables-legacy), at each
/// look(); with many it is less often, one at a look.
inline constexpr Duration kVerifySpaceEvery = std::chrono::seconds(5);

/// In each, who listens is asked no more often than this, and of no more listeners.
inline constexpr Duration kSpaceListenersEvery = std::chrono::seconds(5);
inline constexpr std::size_t kMaxSpaceListening = 4096;

struct TakenUp {
  std::string workload;
  std::uint16_t slot = 0;
  std::shared_ptr<const std::vector<OpenListener>> listeners;
};

struct SpaceEvents {
  std::function<void(const TakenUp& space)> on_taken_up;
  std::function<void(std::uint16_t slot)> on_gone;
  /// Rules inside have been applied: what our own dials from there are told by is in force.
  std::function<void(std::uint16_t slot, std::shared_ptr<const io::NetNamespace> place)>
      on_captured;
};

class Spaces {
 public:
  /// `kernel` must outlive this; what it runs is bounded by kProgramInside and kOutputInside.
  /// `marker`: a file that lies there while there may be rules in other
  /// namespaces; where an earlier run left it, all of them are looked through.
  Spaces(Kernel& kernel, std::string marker, SpaceEvents events);
  ~Spaces();
  Spaces(const Spaces&) = delete;
  Spaces& operator=(const Spaces&) = delete;

  /// What of `spec` is enrolled by a network namespace; takes effect with the next look().
  void want(const capture::Spec& spec);
  /// Whether each namespace is still the one that was taken up, and its facts as they were; runs no
  /// program. To be called once a second, and after want().
  void look(Instant now);
  /// Brings about or verifies the rules of one namespace that look() found to need it; whether
  /// there is another.
  bool step(Instant now);
  /// Everything wanted was tried.
  bool settled() const;
  /// Adds up: `report` may be of the host.
  void add_to(CaptureReport& report) const;

  /// As Rules, in all of them, several at once. Errors are logged with their namespace; the others
  /// are done anyhow. Nothing begins after `until`, or once `enough`: the rules inside stay.
  Status release(Instant until, const std::atomic<bool>& enough);
  Status remove(Instant until);

 private:
  struct Open;
  struct Space {
    capture::Enrolled workload;
    capture::Spec spec;
    std::unique_ptr<Open> open;
    bool waiting = true;
    bool surplus = false;  // beyond kMaxSpaces
    bool ended = false;    // it was a process's, and that has ended
    std::string error;     // why it was not taken up
    // Where its name leads while it is not taken up.
    std::optional<io::NamespaceId> place;
    bool unknown = false;  // it leads somewhere, and where is not known
  };

  void plan(const capture::Spec& wanted);
  void take_up(Space& space);
  Status take_up(Space& space, std::shared_ptr<const io::NetNamespace> place);
  std::unique_ptr<Open> adopt(const io::NetNamespace& place);
  Status open_inside(Open& open) const;
  static void look_inside(Space& space, Instant now);
  static void forget_listeners(Open& open);
  static void look_for_listeners(Space& space, Instant now);
  static void charge(Open& open, bool well, Duration took, Instant now);
  Space* next_due(Instant now);
  Status everywhere(std::vector<Open*> all, Instant until, const std::atomic<bool>& enough,
                    const std::function<Status(Rules&)>& act);
  void lose(Space& space);
  void leave(std::unique_ptr<Open> open);
  void let_go(std::unique_ptr<Open> open);
  static void count(const CaptureReport& inside, CaptureReport& into);
  void refresh(Space& space, Instant now);
  void choose_next(Instant now);
  Duration pause_of(const Open& open) const;
  void mark() const;
  void begin_sweep();
  void sweep_again(Instant now);
  void sweep_one();
  bool is_to_be_taken_up(io::NamespaceId place) const;

  Kernel& kernel_;
  std::string marker_;
  SpaceEvents events_;
  std::string agent_;
  std::optional<bool> kernel_tells_;     // of changed rules; known once some were applied
  std::map<std::string, Space> spaces_;  // by "namespace/name"
  std::optional<capture::Spec> wanted_;  // since the last look()
  bool known_ = false;                   // something was wanted in this run
  std::vector<std::unique_ptr<Open>> leaving_;   // not wanted; may be another's in this look()
  std::vector<std::unique_ptr<Open>> removing_;  // let go, but for the rules
  CaptureReport past_;                           // counters of what was let go
  std::vector<std::string> sweep_;  // may hold rules of an earlier run
  std::vector<std::string> held_;   // the same, and are not to be opened before the next look()
  bool struck_is_next_ = false;     // of those that are due
  bool sweep_is_next_ = false;      // before those that are due
  Instant sweep_held_until_{};      // at most, for workloads of which nobody knows where they are
};

/// What an agent's rules in other network namespaces carry (capture::HostFacts::agent).
std::string agent_mark();

}  // namespace meshnode::supervisor
