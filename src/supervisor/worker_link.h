#pragma once
/// The worker's end of the channel to its supervisor. Lives on one loop, the worker's control loop;
/// every callback comes on it and none before the constructor has returned.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "supervisor/message.h"

namespace meshnode::io {
class Loop;
}

namespace meshnode::supervisor {

/// The descriptor number under which a worker finds its end of the channel after exec.
inline constexpr int kChannelDescriptor = 3;

struct WorkerCallbacks {
  /// Once, before any other. Bound, listening, non-blocking sockets by the names of
  /// capture/listeners.h ("outbound4", ...), and "metrics4", "metrics6", "ready4", "ready6" and
  /// "admin"; those of an address family the host lacks are missing; kHeartbeats. They belong to
  /// the receiver and normally stay open until the process ends. `steering` is how connections
  /// that wait in them are to be read.
  std::function<void(std::map<std::string, int> by_name, WorkerHistory history, Steering steering)>
      on_listeners;
  std::function<void()> on_reload;
  std::function<void()> on_drain;
  std::function<void(CaptureReport report)> on_capture_report;
  /// The channel closed or broke; nothing comes after it. There is no point in living on: the
  /// kernel kills the worker with its supervisor, and a fresh supervisor brings fresh workers.
  std::function<void(Error why)> on_supervisor_gone;
  /// Listening sockets inside the network namespace of the workload of `slot`, named as for
  /// on_listeners; the receiver's, as those are, until on_space_gone(). Comes for a slot again only
  /// after that. What they accept is that workload's. May be empty: the sockets are closed then.
  std::function<void(std::uint16_t slot, std::map<std::string, int> by_name)> on_space{};
  /// To be closed; they accept nothing any more.
  std::function<void(std::uint16_t slot)> on_space_gone{};
};

class WorkerLink {
 public:
  /// Takes the descriptor. All callbacks but those of spaces must be set; they may destroy anything
  /// but the link.
  WorkerLink(io::Loop& loop, int channel_fd, WorkerCallbacks callbacks);
  ~WorkerLink();
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  /// Once listeners are being served; the supervisor applies no rule before that.
  void send_ready();
  /// kInvalid when capture::check() refuses it. Send only when it differs from the last one.
  /// `next_slot`: the slot that the next new workload would get.
  Status send_capture(const capture::Spec& spec, std::uint16_t next_slot);
  void send_drained();
  /// Send only when they differ from the last ones.
  void send_settings(const Settings& settings);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace meshnode::supervisor
