#pragma once
/// The privileged parent: owns the rules and the listeners, starts and replaces workers, and parses
/// no byte that comes from a peer.

#include <meshnode/clock.h>
#include <meshnode/kernel.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <memory>
#include <string>
#include <vector>

#include "io/rule_events.h"
#include "io/watch.h"
#include "supervisor/channel.h"
#include "supervisor/heartbeats.h"
#include "supervisor/message.h"
#include "supervisor/restart_policy.h"
#include "supervisor/rules.h"
#include "supervisor/run_directory.h"
#include "supervisor/socket_service.h"
#include "supervisor/sockets.h"
#include "supervisor/space_offers.h"
#include "supervisor/space_thread.h"
#include "supervisor/spawn.h"

namespace meshnode::supervisor {

/// How long a worker may serve on after SIGTERM, until one has said what the configuration wants.
/// With the start of the next agent it stays below the 15 s that callers wait for one that said
/// goodbye; and meanwhile new connections of this host go in the clear.
inline constexpr Duration kDrainDeadline = std::chrono::seconds(10);
/// Draining waits this long for the steering to end in network namespaces: in those where it takes
/// longer, connections then still come to a worker that drains.
inline constexpr Duration kReleasePatience = std::chrono::seconds(2);
/// Rules are compared with the kernel, and repaired, this often.
inline constexpr Duration kLookEvery = std::chrono::seconds(1);
/// Rules are read back when the kernel tells of a change, and at every this many looks; at each
/// look where the kernel does not tell (iptables-legacy).
inline constexpr int kLooksBetweenVerifications = 5;
/// A worker that is not ready by then is complained about, again and again.
inline constexpr Duration kReadyComplaint = std::chrono::seconds(10);

struct Options {
  std::string config_dir = "/etc/meshnode";
  std::string state_dir = "/var/lib/meshnode";
  std::string run_dir = "/run/meshnode";
  /// sd_notify(3): the value of $NOTIFY_SOCKET; empty when nobody asked.
  std::string notify_socket;
  /// The worker's program and arguments, argv[0] included; empty arguments mean this program's
  /// `worker` command with the directories above.
  std::string worker_program = "/proc/self/exe";
  std::vector<std::string> worker_arguments;
  Duration drain_deadline = kDrainDeadline;
  int hung_after_looks = kHungAfterLooks;
  Duration spaces_removed_within = kRemoveAtMost;
};

/// Everything lives on one loop, but for the threads of SpaceThread and SocketService;
/// run_supervisor() is the ordinary way to use it.
class Supervisor {
 public:
  /// `inside`: for what is run in other network namespaces, as Spaces wants it.
  Supervisor(io::Loop& loop, Options options, Kernel& kernel, Kernel& inside);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  /// Claims the directories, opens the listeners and starts the first worker; an error means that
  /// nothing was started. The loop is stopped when the agent is to end.
  Status start();
  /// 0, or 1 when rules could not be removed.
  int exit_code() const { return exit_code_; }
  /// Destruction would wait for a thread that only the end of the process ends: after close(),
  /// _exit(2) is the way out.
  bool is_held() const { return spaces_.held(); }
  /// Ends the worker and leaves no file behind. Nothing may follow but destruction.
  void close();

 private:
  struct Worker {
    Worker(HeartbeatPage page, int hung_after)
        : heartbeats(std::move(page)), watchdog(hung_after) {}
    WorkerProcess process;
    Instant started;
    bool ready = false;
    HeartbeatPage heartbeats;
    Watchdog watchdog;
    std::string verdict;  // why we killed it; empty when it died by itself
    std::unique_ptr<Channel> channel;
    std::unique_ptr<io::FdWatch> death;
  };

  Result<std::vector<OpenListener>> open_patiently();
  void watch_signals();
  void start_worker();
  void send(const ToWorker& message);
  void send_listeners();
  void receive(const std::string& body);
  void distrust(const Error& why);
  void watch_worker();
  void on_death();
  void remember_death(const std::string& reason);
  void on_terminate();
  void drain();
  void on_reload();
  void finish();
  void end_worker();

  void schedule_refresh();
  void look();
  void refresh_rules();
  bool may_apply() const;
  void look_at_spaces();
  void report_capture();
  SpaceEvents space_events();
  OfferTakers offer_takers();
  void tell_readiness();
  void complain();

  io::Loop& loop_;
  Options options_;
  Kernel& kernel_;
  Rules rules_;
  std::unique_ptr<SocketService> sockets_;
  SpaceOffers offers_;
  SpaceThread spaces_;
  CaptureReport reported_;
  std::unique_ptr<RunDirectory> directory_;
  std::vector<OpenListener> listeners_;
  std::unique_ptr<Worker> worker_;
  WorkerHistory history_;
  RestartPolicy restarts_;

  std::unique_ptr<Timer> restart_;
  std::unique_ptr<Timer> look_;
  std::unique_ptr<io::RuleEvents> events_;
  bool kernel_tells_ = false;
  int looks_ = 0;
  std::unique_ptr<Timer> complaint_;
  std::unique_ptr<Timer> deadline_;
  std::unique_ptr<Timer> patience_;  // drain() at the latest
  std::vector<std::unique_ptr<io::SignalWatch>> signals_;

  bool refresh_posted_ = false;
  bool told_ready_ = false;
  bool ending_ = false;
  bool draining_ = false;
  bool finished_ = false;
  int exit_code_ = 0;
};

/// Runs until SIGTERM or SIGINT: rules are removed, the worker drains for at most
/// Options::drain_deadline, a second signal ends it at once. SIGHUP makes the worker read its
/// configuration again. Returns the exit code; an error means that nothing was started.
Result<int> run_supervisor(Options options);

}  // namespace meshnode::supervisor
