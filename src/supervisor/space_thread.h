#pragma once
/// Spaces on a thread of its own, started when there is something to do for it: whoever is root in
/// a network namespace can make slow what is done there, and must not delay the host's own rules,
/// the watchdog or a worker's restart. docs/decisions/0013. All calls and callbacks are on the
/// supervisor's loop, which must not run any more once this is gone.

#include <meshnode/kernel.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "supervisor/spaces.h"

namespace meshnode::io {
class Loop;
}

namespace meshnode::supervisor {

/// A look that was not taken by then is a problem of every workload in a namespace: a path on a
/// file system that does not answer holds the thread for as long as it likes. Nor does anything
/// wait longer for the first tries: whoever starts agents gives one 90 s to be ready.
inline constexpr Duration kLookWithin = std::chrono::seconds(30);

/// For remove(): what runs when it is asked for, then what it begins itself.
inline constexpr Duration kRemoveAtMost = std::chrono::seconds(30);
static_assert(kRemoveAtMost >
              kRemoveWithin + 2 * (kTurn + io::kProlonged + 2 * kProgramInside));

class SpaceThread {
 public:
  /// As Spaces. `on_news`: settled() or what add_to() adds changed.
  SpaceThread(io::Loop& loop, Kernel& kernel, std::string marker, SpaceEvents events,
              std::function<void()> on_news, Duration look_within = kLookWithin);
  /// Waits for what the thread does now, also where it is held().
  ~SpaceThread();
  SpaceThread(const SpaceThread&) = delete;
  SpaceThread& operator=(const SpaceThread&) = delete;

  void want(const capture::Spec& spec);
  /// To be called once a second and after want(); returns at once.
  void look();
  /// Everything wanted was tried, or that takes too long.
  bool settled() const;
  void add_to(CaptureReport& report) const;

  /// `done` comes within kReleaseWithin and one turn; not when remove() came before.
  void release(std::function<void(Status)> done);
  /// Waits, for `at_most`. Nothing may follow.
  Status remove(Duration at_most = kRemoveAtMost);
  /// remove() has given up: only the end of the process gets rid of the thread.
  bool held() const { return held_; }

 private:
  struct Orders {
    std::optional<capture::Spec> wish;
    std::uint64_t wishes = 0;
    bool look = false;
    std::function<void(Status)> release;
    std::optional<std::promise<Status>> remove;
    bool stop = false;
  };
  struct News {
    CaptureReport part;
    bool settled = true;
    std::uint64_t wishes = 0;
    bool operator==(const News&) const = default;
  };

  void start();
  void order(const std::function<void(Orders&)>& change);
  Orders take(bool busy);
  void run();
  SpaceEvents posted();
  void tell(const Spaces& spaces, std::uint64_t wishes);
  bool stuck() const;
  void note_settling();

  io::Loop& loop_;
  Kernel& kernel_;
  std::string marker_;
  SpaceEvents events_;
  std::function<void()> on_news_;
  Duration look_within_;
  News news_;
  std::uint64_t wishes_ = 0;
  std::vector<std::string> wanted_;       // workloads in namespaces
  std::optional<Instant> looking_since_;  // asked for, and not taken yet
  std::optional<Instant> trying_since_;   // something wanted was not tried yet
  std::atomic<bool> enough_ = false;
  bool held_ = false;

  std::mutex mutex_;
  std::condition_variable ordered_;
  Orders orders_;  // guarded by mutex_
  News told_;      // the thread's own
  std::thread thread_;
};

}  // namespace meshnode::supervisor
