#pragma once
/// One libuv event loop: the Clock and Executor seams for everything that lives on its thread.
/// Constructed, run and destroyed on one thread; post() alone may be called from others.

#include <meshnode/bytes.h>
#include <meshnode/clock.h>
#include <meshnode/executor.h>
#include <mutex>
#include <unordered_set>
#include <vector>

struct uv_loop_s;

namespace meshnode::io {

class UvStream;

/// The monotonic clock of Loop::now(), for any thread.
Instant monotonic_now();

/// CPUs this process may run on: its affinity mask, not what the machine has.
unsigned available_cpus();

class Loop final : public Clock, public Executor {
 public:
  Loop();
  /// Everything on the loop must be gone by now; a leaked handle aborts.
  ~Loop() override;
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  /// Until stop(). May be called again.
  void run();
  /// Loop thread only; from elsewhere, post() it.
  void stop();

  Instant now() const override;
  WallTime wall_now() const override;
  std::unique_ptr<Timer> timer(std::function<void()> on_fire) override;
  void post(std::function<void()> task) override;
  void defer(std::function<void()> task) override;
  void retire(std::unique_ptr<Retirable> object) override;

  /// Streams that do not read are checked every two seconds; for io/stream.h.
  void reads_no_more(UvStream& stream);
  void reads_again(UvStream& stream);

  uv_loop_s* raw() const;
  /// Shared by every stream of this loop; valid until the next read. kReadHeadroom writable bytes
  /// lie before it.
  MutableBytes read_scratch();

 private:
  struct Handles;
  void run_posted();
  void reap();
  void check_paused();

  std::unique_ptr<Handles> handles_;
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
  std::vector<std::function<void()>> deferred_;
  std::vector<std::unique_ptr<Retirable>> retired_;
  std::unordered_set<UvStream*> paused_;
  std::unique_ptr<Timer> paused_timer_;
  std::unique_ptr<std::uint8_t[]> scratch_;
};

}  // namespace meshnode::io
