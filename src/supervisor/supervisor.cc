#include "supervisor/supervisor.h"

#include <sys/resource.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>
#include <optional>
#include <utility>

#include "base/escape.h"
#include "base/log.h"
#include "base/log_writer.h"
#include "io/host_kernel.h"
#include "io/loop.h"
#include "supervisor/notify.h"

namespace meshnode::supervisor {
namespace {

constexpr const char* kScope = "supervisor";

std::string admin_socket_path(const Options& options) { return options.run_dir + "/admin.sock"; }

std::vector<std::string> worker_arguments(const Options& options) {
  if (!options.worker_arguments.empty()) return options.worker_arguments;
  return {"meshnode",    "worker",          "--config-dir", options.config_dir,
          "--state-dir", options.state_dir, "--run-dir",    options.run_dir};
}

/// A line feed would start another assignment of the protocol.
std::string one_line(std::string_view text) {
  std::string line;
  append_escaped(line, text);
  return line;
}

}  // namespace

Supervisor::Supervisor(io::Loop& loop, Options options, Kernel& kernel, Kernel& inside)
    : loop_(loop),
      options_(std::move(options)),
      kernel_(kernel),
      rules_(kernel),
      offers_(offer_takers()),
      spaces_(loop, inside, options_.run_dir + "/namespaces-captured", space_events(), [this] {
        report_capture();
        tell_readiness();
      }) {}

Supervisor::~Supervisor() { close(); }

void Supervisor::close() {
  end_worker();
  if (directory_) ::unlink(admin_socket_path(options_).c_str());
  sockets_.reset();
  directory_.reset();
}

Status Supervisor::start() {
  auto directory = RunDirectory::claim(options_.run_dir, options_.state_dir);
  if (!directory) return fail(directory.error());
  auto listeners = open_patiently();
  if (!listeners) return fail(listeners.error());
  auto admin = open_admin_socket(admin_socket_path(options_));
  if (!admin) return fail(admin.error());
  auto sockets = SocketService::open(options_.run_dir + "/sockets.sock");
  if (!sockets) return fail(sockets.error());
  sockets_ = std::move(*sockets);
  directory_ = std::make_unique<RunDirectory>(std::move(*directory));
  listeners_ = std::move(*listeners);
  listeners_.push_back(std::move(*admin));

  // Rules of an earlier run steer connections into the listeners already.
  if (auto ok = rules_.recall(); !ok) {
    log::warn(kScope, "rules of an earlier run could not be read; slots are as last saved",
              {{"error", ok.error().message}});
  }
  restart_ = loop_.timer([this] { start_worker(); });
  look_ = loop_.timer([this] { look(); });
  events_ = std::make_unique<io::RuleEvents>(loop_, [this] { schedule_refresh(); });
  kernel_tells_ = events_->hears() && capture::kernel_tells(kernel_).value_or(false);
  complaint_ = loop_.timer([this] { complain(); });
  deadline_ = loop_.timer([this] {
    log::warn(kScope, "the worker did not drain in time and is ended; its connections are cut");
    finish();
  });
  patience_ = loop_.timer([this] { drain(); });
  watch_signals();
  look_->start(kLookEvery);
  start_worker();
  return {};
}

Result<std::vector<OpenListener>> Supervisor::open_patiently() {
  // The lock was free, so no supervisor lives; but the worker of one that was killed this moment
  // may be going down and still hold its ports.
  constexpr int kAttempts = 40;
  constexpr auto kPause = std::chrono::milliseconds(50);
  const auto pause = loop_.timer([this] { loop_.stop(); });
  for (int attempt = 1;; ++attempt) {
    auto opened = open_listeners(agent_listeners());
    if (opened || opened.error().code != ErrorCode::kUnavailable || attempt == kAttempts) {
      return opened;
    }
    pause->start(kPause);
    loop_.run();
  }
}

void Supervisor::watch_signals() {
  for (const int number : {SIGTERM, SIGINT}) {
    signals_.push_back(
        std::make_unique<io::SignalWatch>(loop_, number, [this] { on_terminate(); }));
  }
  signals_.push_back(std::make_unique<io::SignalWatch>(loop_, SIGHUP, [this] { on_reload(); }));
}

void Supervisor::start_worker() {
  auto ends = make_channel();
  auto heartbeats = ends ? HeartbeatPage::make() : Result<HeartbeatPage>(fail(ends.error()));
  auto process = heartbeats ? spawn_worker(options_.worker_program, worker_arguments(options_),
                                           ends->second.get())
                            : Result<WorkerProcess>(fail(heartbeats.error()));
  if (!process) {
    log::error(kScope, "no worker could be started; trying again",
               {{"error", process.error().message}});
    restart_->start(RestartPolicy::kLongestDelay);
    return;
  }
  worker_ = std::make_unique<Worker>(std::move(*heartbeats), options_.hung_after_looks);
  worker_->process = std::move(*process);
  worker_->started = loop_.now();
  worker_->channel = std::make_unique<Channel>(
      loop_, std::move(ends->first), Channel::Descriptors::kRefuse,
      Channel::Callbacks{
          [this](const std::string& body, const std::vector<Descriptor>&) { receive(body); },
          [this](const Error& why) {
            log::debug(kScope, "channel closed", {{"error", why.message}});
            ::kill(worker_->process.pid, SIGKILL);
          }});
  worker_->death =
      std::make_unique<io::FdWatch>(loop_, worker_->process.pidfd.get(), [this] { on_death(); });
  log::info(kScope, "worker started", {{"pid", worker_->process.pid}});
  sockets_->serve(worker_->process.pid);
  send_listeners();
  offers_.new_worker();
  reported_ = {};
  report_capture();
  complaint_->start(kReadyComplaint);
}

void Supervisor::send_listeners() {
  Listeners message;
  std::vector<int> descriptors;
  for (const auto& listener : listeners_) {
    message.names.push_back(listener.name);
    descriptors.push_back(listener.socket.get());
  }
  message.names.emplace_back(kHeartbeats);
  descriptors.push_back(worker_->heartbeats.descriptor());
  message.history = history_;
  message.steering = rules_.steering();
  if (auto ok = worker_->channel->send(encode(ToWorker(message)), descriptors); !ok) {
    log::error(kScope, "the worker got no listeners", {{"error", ok.error().message}});
  }
}

void Supervisor::send(const ToWorker& message) {
  if (!worker_) return;
  if (auto ok = worker_->channel->send(encode(message)); !ok) {
    log::warn(kScope, "a message to the worker was dropped", {{"error", ok.error().message}});
  }
}

void Supervisor::receive(const std::string& body) {
  if (!worker_->verdict.empty()) return;  // it is being replaced; what it said behind is void
  auto message = decode_to_supervisor(body);
  if (!message) return distrust(message.error());
  if (auto* request = std::get_if<CaptureRequest>(&*message)) {
    rules_.steer(request->spec, request->next_slot);
    spaces_.want(request->spec);
    rules_.want(capture::of_host(request->spec));
    schedule_refresh();
  } else if (std::holds_alternative<Ready>(*message)) {
    worker_->ready = true;
    schedule_refresh();
  } else if (const auto* settings = std::get_if<Settings>(&*message)) {
    options_.drain_deadline = settings->drain_timeout;
  } else {
    log::info(kScope, "worker drained", {{"pid", worker_->process.pid}});
  }
}

void Supervisor::distrust(const Error& why) {
  // A worker that speaks nonsense is broken or taken over; a fresh one is neither.
  log::error(kScope, "the worker sent what it must not and is replaced", {{"error", why.message}});
  worker_->verdict = "it sent what it must not: " + why.message;
  ::kill(worker_->process.pid, SIGKILL);
}

void Supervisor::watch_worker() {
  if (!worker_ || !worker_->verdict.empty()) return;
  const auto verdict = worker_->watchdog.look(loop_.now(), worker_->heartbeats.read());
  if (!verdict) return;
  worker_->verdict = *verdict;
  log::error(kScope, "the worker hangs and is replaced",
             {{"pid", worker_->process.pid}, {"verdict", *verdict}});
  ::kill(worker_->process.pid, SIGKILL);
}

void Supervisor::on_death() {
  const auto dead = std::move(worker_);
  const std::string end = reap(dead->process.pid);
  const std::string& reason = dead->verdict.empty() ? end : dead->verdict;
  dead->death.reset();
  complaint_->stop();
  sockets_->serve(-1);
  if (ending_) return finish();
  remember_death(reason);
  const Duration delay = restarts_.next_delay(loop_.now() - dead->started);
  log::error(kScope, "the worker died and is replaced; its connections are cut",
             {{"pid", dead->process.pid},
              {"reason", reason},
              {"restarts", history_.restarts},
              {"delay_ms", delay / std::chrono::milliseconds(1)}});
  // Not through a timer when there is nothing to wait for: every millisecond is an outage.
  if (delay == Duration::zero()) return start_worker();
  restart_->start(delay);
}

void Supervisor::remember_death(const std::string& reason) {
  const WallTime now = loop_.wall_now();
  if (history_.restarts == 0) history_.first = now;
  history_.restarts += 1;
  history_.last = now;
  history_.last_reason = reason;
}

void Supervisor::on_reload() {
  if (ending_) return;
  log::info(kScope, "reload asked for by SIGHUP");
  send(Reload{});
}

void Supervisor::on_terminate() {
  if (ending_) {
    log::warn(kScope, "second signal to end: not waiting for connections");
    return finish();
  }
  ending_ = true;
  static_cast<void>(notify(options_.notify_socket, "STOPPING=1"));
  restart_->stop();
  look_->stop();
  complaint_->stop();
  // First the steering: from here on new connections take the direct path, while those in the
  // worker keep what they need until finish() removes the rest.
  if (auto ok = rules_.release(); !ok) {
    log::error(kScope, "capture could not be ended", {{"error", ok.error().message}});
  }
  // From now, and not from when this turn of the loop began: ending the capture takes its time.
  loop_.post([this] {
    if (finished_) return;
    deadline_->start(options_.drain_deadline);
    if (!draining_) patience_->start(std::min(kReleasePatience, options_.drain_deadline / 2));
  });
  spaces_.release([this](const Status& released) {
    if (!released) {
      log::error(kScope, "capture could not be ended", {{"error", released.error().message}});
    }
    drain();
  });
}

void Supervisor::drain() {
  if (finished_ || std::exchange(draining_, true)) return;
  patience_->stop();
  if (!worker_) return finish();
  log::info(kScope, "draining",
            {{"deadline_ms", options_.drain_deadline / std::chrono::milliseconds(1)}});
  send(Drain{});
}

void Supervisor::finish() {
  if (std::exchange(finished_, true)) return;
  deadline_->stop();
  patience_->stop();
  end_worker();
  if (auto ok = rules_.remove(); !ok) {
    log::error(kScope, "rules could not be removed; run `meshnode capture remove`",
               {{"error", ok.error().message}});
    exit_code_ = 1;
  }
  if (auto ok = spaces_.remove(options_.spaces_removed_within); !ok) {
    log::error(kScope, "rules could not be removed; run `meshnode capture remove`",
               {{"error", ok.error().message}});
    exit_code_ = 1;
  }
  loop_.stop();
}

void Supervisor::end_worker() {
  if (!worker_) return;
  worker_->death.reset();
  ::kill(worker_->process.pid, SIGKILL);
  reap(worker_->process.pid);
  worker_.reset();
}

void Supervisor::schedule_refresh() {
  // Several messages read together cost one round of the packet filter's tools.
  if (std::exchange(refresh_posted_, true)) return;
  loop_.post([this] {
    refresh_posted_ = false;
    refresh_rules();
    look_at_spaces();
  });
}

void Supervisor::look() {
  look_->start(kLookEvery);
  watch_worker();
  if (!kernel_tells_ || ++looks_ % kLooksBetweenVerifications == 0 || rules_.due()) {
    refresh_rules();
  }
  look_at_spaces();
}

bool Supervisor::may_apply() const {
  // Until some worker serves the listeners, rules would lead nowhere; once there are rules they
  // are kept in repair also while a worker is being replaced (closed, not open).
  const bool serving = worker_ && worker_->ready;
  return !ending_ && (serving || told_ready_);
}

void Supervisor::refresh_rules() {
  if (!may_apply()) return;
  if (rules_.refresh()) report_capture();
  tell_readiness();
}

void Supervisor::look_at_spaces() {
  if (!may_apply()) return;
  spaces_.look();
  offers_.try_again();
  report_capture();
  tell_readiness();
}

void Supervisor::report_capture() {
  // What is merely not done yet would read as a problem.
  if (!spaces_.settled()) return;
  CaptureReport now = rules_.report();
  spaces_.add_to(now);
  offers_.add_to(now);
  if (!worker_ || now == reported_) return;
  send(now);
  reported_ = std::move(now);
}

SpaceEvents Supervisor::space_events() {
  return {[this](const TakenUp& space) { offers_.taken_up(space); },
          [this](std::uint16_t slot) { offers_.gone(slot); },
          [this](std::uint16_t slot, std::shared_ptr<const io::NetNamespace> place) {
            offers_.captured(slot, std::move(place));
          }};
}

OfferTakers Supervisor::offer_takers() {
  return {[this](const SpaceListeners& message, const std::vector<int>& sockets) -> Status {
            if (!worker_) return fail(ErrorCode::kUnavailable, "it is being replaced");
            return worker_->channel->send(encode(ToWorker(message)), sockets);
          },
          [this](SpaceGone message) { send(message); },
          [this](std::uint16_t slot, std::shared_ptr<const io::NetNamespace> place) {
            return sockets_->grant(slot, std::move(place));
          },
          [this](std::uint16_t slot) { sockets_->revoke(slot); }};
}

void Supervisor::tell_readiness() {
  if (!worker_ || !worker_->ready || !rules_.settled() || !spaces_.settled()) return;
  complaint_->stop();
  if (std::exchange(told_ready_, true)) return;
  log::info(kScope, "ready: traffic flows");
  if (auto ok = notify(options_.notify_socket, "READY=1"); !ok) {
    log::error(kScope, "readiness not reported", {{"error", ok.error().message}});
  }
}

void Supervisor::complain() {
  const std::string& capture = rules_.report().error;
  std::string_view missing = "the worker asked for no rules yet";
  if (!worker_ || !worker_->ready) {
    missing = "the worker does not serve yet; its own log lines say why";
  } else if (!capture.empty()) {
    missing = capture;
  }
  log::warn(kScope, "not ready", {{"missing", missing}});
  static_cast<void>(notify(options_.notify_socket, "STATUS=not ready: " + one_line(missing)));
  complaint_->start(kReadyComplaint);
}

namespace {

/// Each network namespace costs eleven descriptors; common soft limits are below what 256 need.
void use_all_descriptors() {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
}

}  // namespace

Result<int> run_supervisor(Options options) {
  use_all_descriptors();
  // A log whose reader went away must not end the agent.
  ::signal(SIGPIPE, SIG_IGN);
  // And one who is slow must not keep it from replacing a worker, or from ending.
  std::optional<log::LogWriter> writer(std::in_place);
  io::Loop loop;
  io::HostKernel kernel;
  io::HostKernel inside({static_cast<int>(kProgramInside / std::chrono::milliseconds(1)),
                         kOutputInside});
  Supervisor supervisor(loop, std::move(options), kernel, inside);
  if (auto ok = supervisor.start(); !ok) return fail(ok.error());
  loop.run();
  if (supervisor.is_held()) {
    supervisor.close();
    writer.reset();
    ::_exit(supervisor.exit_code());
  }
  return supervisor.exit_code();
}

}  // namespace meshnode::supervisor
