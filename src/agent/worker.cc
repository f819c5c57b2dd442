#include "agent/worker.h"

#include <malloc.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "admin/server.h"
#include "agent/capture_request.h"
#include "agent/configuration.h"
#include "agent/departing.h"
#include "agent/listener_set.h"
#include "agent/load_watch.h"
#include "agent/policies_in_force.h"
#include "agent/proxy_threads.h"
#include "agent/reports.h"
#include "agent/status.h"
#include "agent/superseded.h"
#include "agent/undeclared.h"
#include "base/log.h"
#include "base/log_writer.h"
#include "identity/files.h"
#include "io/file_storage.h"
#include "io/interfaces.h"
#include "io/listening.h"
#include "io/loop.h"
#include "io/network.h"
#include "io/watch.h"
#include "snapshot/build.h"
#include "supervisor/worker_link.h"
#include "telemetry/hub.h"

namespace meshnode::agent {
namespace {

// Watches miss what happens on some file systems, and certificates expire without any event.
constexpr Duration kLookEvery = std::chrono::seconds(2);
// For all loops to say what their connections keep in memory.
constexpr Duration kSurveyPatience = std::chrono::seconds(1);
// So many sockets fewer than there were are worth a walk over the heaps.
constexpr std::size_t kBurst = 256;
constexpr Duration kListenersEvery = std::chrono::seconds(5);
constexpr Duration kAskIdleEvery = std::chrono::milliseconds(50);
constexpr unsigned kMaxThreads = supervisor::kMaxLoops;

/// Log and access log share one writer: lines of both stay whole.
class StderrSink final : public telemetry::AccessSink {
 public:
  void line(std::string_view text) override { writer_.line(text); }
  std::uint64_t dropped() const override { return writer_.dropped(); }

 private:
  log::LogWriter writer_;
};

std::string describe(const model::Match& match) {
  if (const auto* user = std::get_if<model::MatchUser>(&match)) {
    return "user " + user->user;
  }
  if (const auto* cgroup = std::get_if<model::MatchCgroup>(&match)) {
    return "cgroup " + cgroup->path;
  }
  if (const auto* at = std::get_if<model::MatchAddress>(&match)) {
    return "address " + at->address.text();
  }
  const auto& netns = std::get<model::MatchNetns>(match);
  return "netns " + (netns.pid != 0 ? std::to_string(netns.pid) : netns.path);
}

telemetry::AccessFormat access_format(model::NodeSpec::AccessLog setting) {
  switch (setting) {
    case model::NodeSpec::AccessLog::kOff:
      return telemetry::AccessFormat::kOff;
    case model::NodeSpec::AccessLog::kJson:
      return telemetry::AccessFormat::kJson;
    default:
      return telemetry::AccessFormat::kText;
  }
}

}  // namespace

class Worker {
 public:
  explicit Worker(const WorkerOptions& options);
  int run();

 private:
  void on_listeners(std::map<std::string, int> by_name, supervisor::WorkerHistory history,
                    const supervisor::Steering& steering);
  void on_space(std::uint16_t slot, const std::map<std::string, int>& by_name);
  void restore_slots(const supervisor::Steering& steering);
  void on_capture_report(supervisor::CaptureReport report);
  void take_namespaces(const std::map<std::string, std::vector<std::string>>& spaces);
  void on_drain();
  /// Looks at files, certificates and addresses; rebuilds what depends on what changed.
  void look();
  void rebuild();
  bool look_at_host();
  bool refresh_identities();
  void assign_slots();
  /// Tries again at every look until what is in force is kept.
  void save_slots();
  std::string slots_path() const { return options_.state_dir + "/slots"; }
  void report_configuration();
  void report_capture();
  void report_listeners();
  void send_capture();
  void send_settings();
  void return_memory();
  void relieve(std::uint64_t octets);
  void watch_load();
  void serve_admin(const std::map<std::string, int>& by_name);
  void ask_idle();
  admin::Response answer(const admin::Request& request);
  admin::Response answer_status();

  WorkerOptions options_;
  StderrSink sink_;
  io::Loop loop_;
  io::UvNetwork network_;
  io::DescriptorBudget budget_{io::DescriptorBudget::default_limit()};
  io::FileStorage storage_;
  proxy::Load load_;
  proxy::Goodbyes goodbyes_;
  telemetry::Observed observed_{[] { return WallTime(std::chrono::system_clock::now()); }};
  Instant started_;
  Reports reports_;
  telemetry::Hub hub_;
  Configuration configuration_;
  std::unique_ptr<identity::FileIdentities> identities_;
  std::string identity_directory_;
  identity::FileIdentities::View credentials_;
  snapshot::SlotTable slots_;
  std::string saved_slots_;
  std::string slots_problem_;
  std::optional<std::vector<IpAddress>> addresses_;  // none until they could be listed once
  std::string addresses_problem_;
  std::map<WorkloadId, std::vector<IpAddress>> namespaces_;  // of workloads in them
  bool namespaces_changed_ = false;
  std::string host_name_;
  model::Catalog catalog_;
  PoliciesInForce policies_;
  std::optional<std::string> passwd_;  // none until it could be read once
  std::size_t most_sockets_ = 0;       // since memory was last returned
  bool ebbing_ = false;                // they were fewer at the last look than before
  CaptureRequest request_;
  bool request_sent_ = false;
  std::optional<supervisor::Settings> settings_sent_;
  Instant next_listeners_{};
  std::string listeners_problem_;
  CgroupOwners cgroups_;
  std::shared_ptr<const snapshot::Snapshot> snapshot_;
  Superseded superseded_;
  Departing departing_;
  std::uint64_t revision_ = 0;
  std::vector<std::pair<WorkloadId, std::string>> matches_;
  std::unique_ptr<supervisor::CaptureReport> capture_;
  supervisor::WorkerHistory history_;
  int exit_code_ = 0;
  std::set<std::string> catalog_codes_;
  std::uint64_t problems_lost_ = 0;

  std::unique_ptr<LoadWatch> load_watch_;
  std::shared_ptr<const Survey> survey_;  // while it is open
  Instant survey_since_{};
  std::uint64_t surveys_ = 0;
  std::unique_ptr<Timer> look_timer_;
  std::unique_ptr<Timer> idle_timer_;
  std::unique_ptr<io::TreeWatch> config_watch_;
  std::unique_ptr<io::TreeWatch> identity_watch_;  // of identity_directory_
  std::vector<std::unique_ptr<admin::HttpServer>> servers_;
  std::unique_ptr<supervisor::Heartbeats> heartbeats_;  // outlives the threads
  std::unique_ptr<ProxyThreads> proxies_;
  std::unique_ptr<supervisor::WorkerLink> link_;
};

Worker::Worker(const WorkerOptions& options)
    : options_(options),
      network_(loop_, {}),
      started_(loop_.now()),
      reports_([] { return std::chrono::system_clock::now(); }),
      hub_({MESHNODE_VERSION, telemetry::AccessFormat::kText},
           {io::monotonic_now, [] { return WallTime(std::chrono::system_clock::now()); }}, &sink_),
      configuration_(storage_, options.config_dir, options.state_dir),
      host_name_(io::host_name()),
      look_timer_(loop_.timer([this] { look(); })),
      idle_timer_(loop_.timer([this] { ask_idle(); })) {
  link_ = std::make_unique<supervisor::WorkerLink>(
      loop_, options.channel_fd,
      supervisor::WorkerCallbacks{
          [this](std::map<std::string, int> by_name, supervisor::WorkerHistory history,
                 const supervisor::Steering& steering) {
            on_listeners(std::move(by_name), std::move(history), steering);
          },
          [this] { look(); }, [this] { on_drain(); },
          [this](supervisor::CaptureReport report) { on_capture_report(std::move(report)); },
          [this](const Error& why) {
            log::error("agent", "the supervisor is gone", {{"error", why.message}});
            exit_code_ = 1;
            loop_.stop();
          },
          [this](std::uint16_t slot, const std::map<std::string, int>& by_name) {
            on_space(slot, by_name);
          },
          [this](std::uint16_t slot) {
            if (proxies_) {
              proxies_->close(slot);
            }
          }});
}

int Worker::run() {
  loop_.run();
  proxies_.reset();
  return exit_code_;
}

void Worker::on_listeners(std::map<std::string, int> by_name, supervisor::WorkerHistory history,
                          const supervisor::Steering& steering) {
  history_ = std::move(history);
  hub_.agent().worker_restarts.add(history_.restarts);
  if (history_.restarts > 0) {
    reports_.event({"worker-restarted", "worker",
                    "restart " + std::to_string(history_.restarts) + ": the worker before ended: " +
                        history_.last_reason + "; its connections were cut",
                    "look for what the log says before that, and report it", false, false});
  }
  const auto page = by_name.find(supervisor::kHeartbeats);
  auto heartbeats = supervisor::Heartbeats::open(page == by_name.end() ? -1 : page->second);
  if (!heartbeats) {
    log::error("agent", "the supervisor cannot watch this worker, which ends",
               {{"error", heartbeats.error().message}});
    exit_code_ = 1;
    loop_.stop();
    return;
  }
  heartbeats_ = std::move(*heartbeats);
  restore_slots(steering);
  look();
  const unsigned wanted = catalog_.node.proxy_threads != 0 ? catalog_.node.proxy_threads
                                                           : io::available_cpus();
  const ProxyServices services{hub_,         hub_.agent(), reports_, budget_,
                               *heartbeats_, load_,        goodbyes_,
                               observed_,
                               options_.run_dir + "/sockets.sock"};
  proxies_ = std::make_unique<ProxyThreads>(std::clamp(wanted, 1U, kMaxThreads), services,
                                            listener_set(by_name), snapshot_);
  watch_load();
  serve_admin(by_name);
  send_settings();
  link_->send_ready();
  send_capture();
  config_watch_ = std::make_unique<io::TreeWatch>(loop_, options_.config_dir, [this] { look(); });
}

void Worker::on_space(std::uint16_t slot, const std::map<std::string, int>& by_name) {
  proxy::ListenerSet set = owning_listener_set(by_name);
  if (proxies_) {
    proxies_->open(slot, set);
  }
}

void Worker::restore_slots(const supervisor::Steering& steering) {
  const std::string path = slots_path();
  if (auto saved = storage_.read(path, Configuration::kMaxFile)) {
    if (auto restored = slots_.restore(*saved); !restored) {
      log::warn("agent", "starting with new capture slots",
                {{"file", path}, {"error", restored.error().message}});
    }
    saved_slots_ = std::move(*saved);
  }
  std::map<WorkloadId, std::uint16_t> steered;
  for (const auto& [name, slot] : steering.slots) {
    const std::size_t slash = name.find('/');
    steered[{name.substr(0, slash), name.substr(slash + 1)}] = slot;
  }
  // The file may be older than the rules: the disk was full, or read-only.
  if (auto adopted = slots_.adopt(steered, steering.next); !adopted) {
    log::warn("agent", "capture slots are as last saved", {{"error", adopted.error().message}});
  }
}

void Worker::save_slots() {
  std::string now = slots_.save();
  if (now == saved_slots_) {
    return;
  }
  auto saved = storage_.write_atomic(slots_path(), now, 0600);
  slots_problem_ = saved ? "" : saved.error().message;
  if (saved) {
    saved_slots_ = std::move(now);
  }
}

void Worker::look() {
  bool changed = configuration_.refresh();
  changed = look_at_host() || changed;
  changed = std::exchange(namespaces_changed_, false) || changed;
  if (changed || !snapshot_) {
    catalog_ = model::make_catalog(configuration_.set().accepted(),
                                   {host_name_, addresses_.value_or(std::vector<IpAddress>()),
                                    namespaces_});
    hub_.agent().reloads.add();
    hub_.set_access_log(access_format(catalog_.node.access_log));
    assign_slots();
  }
  if (changed || !snapshot_) {
    policies_.update(configuration_.set().accepted(), catalog_);
  }
  changed = refresh_identities() || changed;
  changed = departing_.forget(loop_.now()) || changed;
  if (changed || !snapshot_) {
    rebuild();
  }
  save_slots();
  report_configuration();
  report_capture();
  report_listeners();
  superseded_.release();
  return_memory();
  look_timer_->start(kLookEvery);
}

void Worker::return_memory() {
  // The C library keeps what was freed in the middle of its heaps: a burst would be paid for ever.
  const std::size_t open = budget_.open();
  most_sockets_ = std::max(most_sockets_, budget_.take_peak());
  ebbing_ = ebbing_ || most_sockets_ >= 2 * open + kBurst;
  if (ebbing_) {
    malloc_trim(0);
    ebbing_ = open < most_sockets_;  // the rest of it may follow
    most_sockets_ = open;
  }
}

void Worker::relieve(std::uint64_t octets) {
  // One survey at a time, or the same connections would be cut for twice.
  const Duration age = loop_.now() - survey_since_;
  if (survey_ && age < kSurveyPatience) {
    return;
  }
  const auto late = std::exchange(survey_, nullptr);
  if (late && age < 2 * kSurveyPatience) {
    // A loop does not answer. The others free something, but not all they have in its stead.
    const Holdings known = late->so_far();
    proxies_->relieve(share_out(known, std::min(octets, total_of(known) / 2)));
    return;
  }
  survey_since_ = loop_.now();
  survey_ = proxies_->ask_holdings([this, octets, number = ++surveys_] {
    loop_.post([this, octets, number] {
      if (survey_ && number == surveys_) {
        proxies_->relieve(share_out(std::exchange(survey_, nullptr)->so_far(), octets));
      }
    });
  });
}

void Worker::watch_load() {
  LoadEvents events;
  events.max_memory = [this] { return snapshot_->limits.max_memory; };
  events.give_back = [] { malloc_trim(0); };
  events.cut = [this](std::uint64_t octets) { relieve(octets); };
  events.on_change = [this] {
    report_configuration();
    report_capture();
  };
  load_watch_ = std::make_unique<LoadWatch>(loop_, storage_, load_, std::move(events));
}

bool Worker::look_at_host() {
  // What cannot be read now is as it was: a shortage of descriptors must not read as "no such
  // user", which would withdraw rules.
  bool changed = false;
  auto addresses = io::host_addresses();
  if (addresses && addresses_ != *addresses) {
    addresses_ = std::move(*addresses);
    changed = true;
  } else if (!addresses_) {
    addresses_problem_ = addresses.error().message;
  }
  if (auto passwd = storage_.read("/etc/passwd", Configuration::kMaxFile);
      passwd && (!passwd_ || *passwd != *passwd_)) {
    passwd_ = std::move(*passwd);
    changed = true;
  }
  return changed;
}

bool Worker::refresh_identities() {
  const model::NodeSpec& node = catalog_.node;
  std::set<SpiffeId> wanted;
  if (node.identity_source == model::NodeSpec::IdentitySource::kFiles) {
    if (!identities_ || identity_directory_ != node.identity_directory) {
      identity_directory_ = node.identity_directory;
      identities_ = std::make_unique<identity::FileIdentities>(&storage_, identity_directory_);
      identity_watch_ =
          std::make_unique<io::TreeWatch>(loop_, identity_directory_, [this] { look(); });
    }
    for (std::size_t i = 0; i < catalog_.workloads.size(); ++i) {
      wanted.insert(catalog_.members[i].identity);
    }
  } else {
    identities_.reset();
    identity_watch_.reset();
  }
  auto before = std::exchange(credentials_, {});
  if (identities_) {
    credentials_ = identities_->refresh(wanted, loop_.wall_now());
  }
  std::vector<Reports::Condition> rejected;
  std::vector<Reports::Condition> expiring;
  bool changed = before.identities.size() != credentials_.identities.size();
  for (const auto& [identity, state] : credentials_.identities) {
    const auto old = before.identities.find(identity);
    changed = changed || old == before.identities.end() ||
              old->second.credential != state.credential || old->second.problems != state.problems;
    for (const identity::Problem& problem : state.problems) {
      auto& list = problem.code == "certificate-expiring" ? expiring : rejected;
      list.push_back({identity.uri(), problem.message, problem.hint, true});
    }
  }
  reports_.set("certificate-rejected", rejected);
  reports_.set("certificate-expiring", expiring);
  return changed;
}

void Worker::assign_slots() {
  std::vector<WorkloadId> ids;
  matches_.clear();
  for (const model::CatalogWorkload& workload : catalog_.workloads) {
    ids.push_back(workload.id);
    matches_.emplace_back(workload.id, describe(workload.match));
  }
  if (auto assigned = slots_.assign(ids); !assigned) {
    log::error("agent", "not every workload can be captured",
               {{"error", assigned.error().message}});
  }
}

void Worker::rebuild() {
  snapshot::Credentials credentials;
  for (const auto& [identity, state] : credentials_.identities) {
    snapshot::CredentialState& at = credentials[identity];
    at.credential = state.credential;
    if (!state.problems.empty()) {
      at.problem = state.problems.front().message;
    }
  }
  auto next = snapshot::build(catalog_, slots_, credentials, policies_.in_force(), ++revision_);
  if (snapshot_) {
    departing_.compare(*snapshot_, *next, loop_.now());
  }
  next->departed = departing_.all();
  superseded_.keep(std::exchange(snapshot_, std::move(next)));
  hub_.agent().snapshot_revision.set(static_cast<std::int64_t>(revision_));
  if (proxies_) {
    // First who is known, then who is steered here: a caller never meets a stranger's snapshot. Who
    // is not any more is known until the rules have followed (departing_).
    proxies_->swap(snapshot_);
    send_capture();
    send_settings();
  }
  log::info("agent", "configuration in force",
            {{"revision", revision_},
             {"workloads", snapshot_->workloads.size()},
             {"routes", snapshot_->routes.size()},
             {"rejected", configuration_.set().rejected().size()}});
}

void Worker::send_capture() {
  if (!passwd_ || !addresses_ || !configuration_.known()) {
    return;  // rules of an earlier run stay closed until it is known who is who, and where
  }
  CaptureRequest request = make_capture_request(catalog_, slots_, *passwd_);
  const bool same = request_sent_ && request.spec == request_.spec;
  request_ = std::move(request);
  if (same) {
    return;
  }
  if (auto sent = link_->send_capture(request_.spec, slots_.next()); !sent) {
    request_.problems.emplace_back("capture", sent.error().message);
    log::error("capture", "the rules asked for are refused", {{"error", sent.error().message}});
    return;
  }
  request_sent_ = true;
}

void Worker::send_settings() {
  const supervisor::Settings now{snapshot_->limits.drain_timeout};
  if (settings_sent_ != now) {
    settings_sent_ = now;
    link_->send_settings(now);
  }
}

void Worker::report_configuration() {
  using Condition = Reports::Condition;
  const auto& rejected = configuration_.set().rejected();
  std::vector<Condition> conditions;
  conditions.reserve(rejected.size());
  for (const model::Rejection& rejection : rejected) {
    conditions.push_back({rejection.origin.text(), rejection.message,
                          "correct the file; what was last good stays in force", true});
  }
  reports_.set("resource-rejected", conditions);
  hub_.agent().resources_rejected.set(static_cast<std::int64_t>(rejected.size()));
  hub_.agent().resources_accepted.set(
      static_cast<std::int64_t>(configuration_.set().accepted().size()));

  conditions.clear();
  if (!configuration_.problem().empty()) {
    conditions.push_back({options_.config_dir, configuration_.problem(),
                          "make the directory readable; what was last good stays in force", true});
  }
  reports_.set("configuration-unreadable", conditions);
  conditions.clear();
  if (!configuration_.save_problem().empty()) {
    conditions.push_back({options_.state_dir, configuration_.save_problem(),
                          "free space or fix permissions: a restart could not fall back", true});
  }
  if (!slots_problem_.empty()) {
    conditions.push_back({slots_path(), slots_problem_,
                          "free space or fix permissions: after a reboot, callers would have new "
                          "capture slots",
                          true});
  }
  reports_.set("state-unwritable", conditions);

  std::map<std::string, std::vector<Condition>> by_code;
  for (const model::CatalogProblem& problem : catalog_.problems) {
    by_code[problem.code].push_back(
        {problem.object, problem.message, problem.hint, !problem.informational});
  }
  if (load_watch_) {
    const auto& overload = load_watch_->overload().conditions();
    auto& limits = by_code["limit-reached"];
    limits.insert(limits.end(), overload.begin(), overload.end());
  }
  // A code reported before must be able to end.
  for (const std::string& code : catalog_codes_) {
    by_code.try_emplace(code);
  }
  for (const auto& [code, list] : by_code) {
    reports_.set(code, list);
    catalog_codes_.insert(code);
  }
}

void Worker::report_listeners() {
  if (loop_.now() < next_listeners_ || !request_sent_) {
    return;
  }
  next_listeners_ = loop_.now() + kListenersEvery;
  std::map<std::string, std::string> found;
  if (capture_) {
    found = capture_->undeclared;
  }
  if (const auto sockets = io::listening_sockets()) {
    const capture::Spec here = capture::of_host(request_.spec);
    cgroups_.refresh(here, *sockets);
    found.merge(undeclared_listeners(here, *sockets, cgroups_));
  } else if (std::exchange(listeners_problem_, sockets.error().message) != listeners_problem_) {
    log::warn("agent", "undeclared listeners are not looked for", {{"error", listeners_problem_}});
  }
  std::vector<Reports::Condition> conditions;
  conditions.reserve(found.size());
  for (const auto& [workload, text] : found) {
    conditions.push_back({workload,
                          "listens at " + text +
                              ", which no Workload declares: what comes in there is neither "
                              "captured nor encrypted",
                          "declare the ports in the Workload, bind the program to loopback, or "
                          "list the ports in the Node's capture.excludePorts",
                          false});
  }
  reports_.set("undeclared-listener", conditions);
}

void Worker::report_capture() {
  std::vector<Reports::Condition> conditions;
  for (const auto& [object, message] : request_.problems) {
    conditions.push_back({object, message, "correct the Workload's match", true});
  }
  if (!addresses_) {
    conditions.push_back({"addresses",
                          "nothing new is captured until they can be listed: " + addresses_problem_,
                          "see what changes this host's addresses all the time", true});
  }
  if (capture_) {
    if (!capture_->ok && request_sent_ && !request_.spec.workloads.empty()) {
      conditions.push_back({"rules", capture_->error, "look at the agent's log", true});
    }
    for (const std::string& name : capture_->waiting) {
      conditions.push_back({name, "its cgroup or network namespace does not exist",
                            "start it, or correct the Workload's match", true});
    }
    for (const auto& [name, why] : capture_->failed) {
      conditions.push_back({name, why, "look at the agent's log", true});
    }
  }
  reports_.set("capture-incomplete", conditions);
  conditions.clear();
  if (capture_) {
    for (const std::string& line : capture_->conflicts) {
      const std::size_t colon = line.find(": ");
      if (colon == line.npos) continue;
      conditions.push_back({line.substr(0, colon), line.substr(colon + 2),
                            "change that rule, or leave the port out of the Workload; "
                            "docs/hosts.md has the arrangements that work",
                            false});
    }
  }
  reports_.set("capture-conflict", conditions);
  hub_.agent().problems.set(reports_.degraded() ? 1 : 0);
  const std::uint64_t lost = reports_.lost();
  hub_.agent().hit(telemetry::Limit::kProblems).add(lost - std::exchange(problems_lost_, lost));
}

void Worker::on_capture_report(supervisor::CaptureReport report) {
  const std::uint64_t before = capture_ ? capture_->repaired : 0;
  if (report.repaired > before) {
    hub_.agent().capture_repaired.add(report.repaired - before);
    reports_.event({"capture-repaired", "rules", report.last_repair,
                    "find out what flushes or replaces iptables rules on this host", false, false});
  }
  for (const auto& [name, count] : report.bypass_by_workload) {
    const std::uint64_t known = capture_ && capture_->bypass_by_workload.contains(name)
                                    ? capture_->bypass_by_workload.at(name)
                                    : 0;
    if (count > known) {
      reports_.event(
          {"capture-bypassed", name, "connections that went around the capture were rejected",
           "look for published container ports, bridges or rules before ours", false, false});
    }
  }
  for (const auto& [reason, count] : report.bypass) {
    hub_.agent().set_capture_bypassed(reason, count);
  }
  take_namespaces(report.spaces);
  if (report.undeclared != (capture_ ? capture_->undeclared : decltype(report.undeclared){})) {
    next_listeners_ = {};
  }
  capture_ = std::make_unique<supervisor::CaptureReport>(std::move(report));
  report_capture();
  report_listeners();
  if (namespaces_changed_) {
    look();
  }
}

void Worker::take_namespaces(const std::map<std::string, std::vector<std::string>>& spaces) {
  std::map<WorkloadId, std::vector<IpAddress>> known;
  for (const auto& [name, addresses] : spaces) {
    const std::size_t slash = name.find('/');
    auto& into = known[{name.substr(0, slash), name.substr(slash + 1)}];
    for (const std::string& text : addresses) {
      if (const auto address = IpAddress::parse(text)) {
        into.push_back(*address);
      }
    }
  }
  namespaces_changed_ = known != namespaces_;
  namespaces_ = std::move(known);
}

void Worker::on_drain() {
  if (!proxies_) {
    link_->send_drained();
    loop_.stop();
    return;
  }
  proxies_->drain();
  ask_idle();
}

void Worker::ask_idle() {
  proxies_->ask_idle([this](bool idle) {
    loop_.post([this, idle] {
      if (idle) {
        link_->send_drained();
        loop_.stop();
      } else {
        idle_timer_->start(kAskIdleEvery);
      }
    });
  });
}

void Worker::serve_admin(const std::map<std::string, int>& by_name) {
  const auto serve = [&](const char* prefix, bool families, admin::Handler handler) {
    auto server = std::make_unique<admin::HttpServer>(network_, loop_, loop_, std::move(handler));
    const std::vector<std::string> suffixes =
        families ? std::vector<std::string>{"4", "6"} : std::vector<std::string>{""};
    for (const std::string& suffix : suffixes) {
      if (const auto found = by_name.find(prefix + suffix); found != by_name.end()) {
        if (auto listening = server->listen(found->second); !listening) {
          log::error("admin", "a port is not served",
                     {{"listener", found->first}, {"error", listening.error().message}});
        }
      }
    }
    servers_.push_back(std::move(server));
  };
  serve("metrics", true, [this](const admin::Request& request) -> admin::Response {
    if (request.path != "/metrics" && request.path != "/stats/prometheus") {
      return {404, "text/plain; charset=utf-8", "metrics are at /metrics\n"};
    }
    return {200, "text/plain; version=0.0.4; charset=utf-8", hub_.expose()};
  });
  serve("ready", true, [this](const admin::Request& request) -> admin::Response {
    if (request.path != "/healthz/ready") {
      return {404, "text/plain; charset=utf-8", "readiness is at /healthz/ready\n"};
    }
    const bool ready = proxies_ && request_sent_ &&
                       (request_.spec.workloads.empty() || (capture_ && capture_->ok));
    return {ready ? 200 : 503, "text/plain; charset=utf-8", ready ? "ready\n" : "not ready\n"};
  });
  serve("admin", false, [this](const admin::Request& request) { return answer(request); });
}

admin::Response Worker::answer(const admin::Request& request) {
  if (request.method == "GET" && request.path == "/status") {
    return answer_status();
  }
  return {404, "text/plain; charset=utf-8", "no such thing: " + request.path + "\n"};
}

admin::Response Worker::answer_status() {
  StatusInput input;
  input.node_name = catalog_.node_name;
  input.address = catalog_.addresses.empty() ? "" : catalog_.addresses.front().text();
  input.pid = getppid();
  input.uptime = loop_.now() - started_;
  input.snapshot = snapshot_.get();
  input.matches = &matches_;
  input.capture = capture_.get();
  input.wanted = &request_.spec;
  input.degraded = reports_.degraded();
  input.problems = reports_.list();
  input.connections = hub_.totals();
  input.tunnels_inbound = hub_.agent().tunnels_open(telemetry::Direction::kInbound).value();
  input.tunnels_outbound = hub_.agent().tunnels_open(telemetry::Direction::kOutbound).value();
  input.resources_accepted = configuration_.set().accepted().size();
  input.rejected = &configuration_.set().rejected();
  return {200, "application/json", status_json(input)};
}

int run_worker(const WorkerOptions& options) {
  // A core dump or a debugger would carry the workloads' private keys.
  prctl(PR_SET_DUMPABLE, 0);
  // A peer that is gone is an error of its write, not the end of everybody's connections.
  signal(SIGPIPE, SIG_IGN);
  Worker worker(options);
  return worker.run();
}

}  // namespace meshnode::agent
