#pragma once
/// What supervisor and worker say to each other, as values, and their JSON form. The supervisor
/// does not trust the worker: everything decoded from it is checked, and a capture spec only ever
/// fills the fixed rule templates of the capture room. Thread: values.

#include <meshnode/result.h>
#include <meshnode/time.h>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>
#include "capture/spec.h"

namespace meshnode::supervisor {

/// Descriptors that travel with one message (Linux allows 253, SCM_MAX_FD).
inline constexpr std::size_t kMaxListeners = 32;
/// Network namespaces of workloads that are taken up at once.
inline constexpr std::size_t kMaxSpaces = 256;
/// Addresses of one that are told.
inline constexpr std::size_t kMaxSpaceAddresses = 64;
/// However taken over a worker is, SIGTERM ends it within this.
inline constexpr Duration kLongestDrain = std::chrono::minutes(10);
/// Any text inside a message: names, reasons, errors.
inline constexpr std::size_t kMaxText = 4096;

/// How often the worker had to be replaced; the new one shows it in status as `worker-restarted`.
struct WorkerHistory {
  std::uint64_t restarts = 0;
  std::string last_reason;  ///< "killed by signal 9 (Killed)", "exited with code 1"
  WallTime first{};         ///< of the first and last death; milliseconds survive the channel
  WallTime last{};
  bool operator==(const WorkerHistory&) const = default;
};

/// Which slot of capture/spec.h names whom to the rules that are in the kernel. Connections that
/// they steered wait in the listeners, so a new worker must read slots as they do.
struct Steering {
  std::map<std::string, std::uint16_t> slots;  ///< of "namespace/name"; each slot once
  /// The first slot to give out that no rule has used lately; 0 when nothing is known.
  std::uint16_t next = 0;
  bool operator==(const Steering&) const = default;
};

/// The first message: the listening sockets, one descriptor a name, in this order. The names are
/// those of capture/listeners.h and supervisor/sockets.h. kHeartbeats is no socket: heartbeats.h.
struct Listeners {
  std::vector<std::string> names;
  WorkerHistory history;
  Steering steering;
  bool operator==(const Listeners&) const = default;
};
/// Listening sockets inside the network namespace of the workload of this slot, before any rule
/// there leads to them. What they accept is that workload's, whatever capture address it came to.
struct SpaceListeners {
  std::uint16_t slot = 0;
  std::vector<std::string> names;  ///< those of capture/listeners.h
  bool operator==(const SpaceListeners&) const = default;
};
/// The namespace is not the workload's any more: its listeners accept nothing from now on.
struct SpaceGone {
  std::uint16_t slot = 0;
  bool operator==(const SpaceGone&) const = default;
};
/// Read the configuration again (SIGHUP).
struct Reload {
  bool operator==(const Reload&) const = default;
};
/// Accept nothing new, let what runs end, then say Drained and exit.
struct Drain {
  bool operator==(const Drain&) const = default;
};
/// What is in the kernel now. Sent after every change of it, and at most once a second. `ok`,
/// `error`, `v4` and `v6` are of the agent's own network namespace, the rest is of all.
struct CaptureReport {
  bool ok = false;    ///< the rules of the last accepted spec are in force
  std::string error;  ///< why they are not, with the next step
  bool v4 = false;    ///< rules exist for the family
  bool v6 = false;
  std::vector<std::string> conflicts;  ///< capture/conflicts.h, both families
  std::uint64_t repaired = 0;        ///< how often rules had gone missing and were put back
  std::string last_repair;           ///< what had, one line each; empty when nothing ever
  std::vector<std::string> waiting;  ///< enrolled workloads ("namespace/name") without a rule yet:
                                     ///< their cgroup or network namespace does not exist
  /// Workloads whose network namespace has not the rules it should have: why, and the next step.
  std::map<std::string, std::string> failed;
  /// Workloads in network namespaces: the addresses there, loopback and link-local ones left out.
  std::map<std::string, std::vector<std::string>> spaces;
  /// Of those, who listens inside at ports that nobody declares: where (capture/undeclared.h).
  std::map<std::string, std::string> undeclared;
  /// Packets that a backstop rejected: by reason ("inbound", "outbound", "own-port"), and by
  /// workload ("namespace/name") where the reason has one.
  std::map<std::string, std::uint64_t> bypass;
  std::map<std::string, std::uint64_t> bypass_by_workload;
  bool operator==(const CaptureReport&) const = default;
};

/// Connections are being accepted and served.
struct Ready {
  bool operator==(const Ready&) const = default;
};
/// The rules the configuration asks for; without workloads, all rules are removed.
struct CaptureRequest {
  capture::Spec spec;
  std::uint16_t next_slot = 1;  ///< Steering::next of the workers to come
  bool operator==(const CaptureRequest&) const = default;
};
/// What the configuration says about the supervisor itself. Sent before Ready, and when it changes.
struct Settings {
  Duration drain_timeout{};  ///< whole milliseconds survive the channel; at most kLongestDrain
  bool operator==(const Settings&) const = default;
};
/// The answer to Drain: nothing is left, the process is about to exit.
struct Drained {
  bool operator==(const Drained&) const = default;
};

using ToWorker = std::variant<Listeners, Reload, Drain, CaptureReport, SpaceListeners, SpaceGone>;
using ToSupervisor = std::variant<Ready, CaptureRequest, Settings, Drained>;

std::string encode(const ToWorker& message);
std::string encode(const ToSupervisor& message);
/// kInvalid for anything but one well-formed message within the bounds above.
Result<ToWorker> decode_to_worker(std::string_view text);
Result<ToSupervisor> decode_to_supervisor(std::string_view text);

}  // namespace meshnode::supervisor
