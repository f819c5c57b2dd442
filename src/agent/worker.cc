#include "agent/worker.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <utility>

#include "admin/http_server.h"
#include "agent/capture_request.h"
#include "agent/configuration.h"
#include "agent/proxy_threads.h"
#include "agent/reports.h"
#include "agent/status.h"
#include "base/line_writer.h"
#include "base/log.h"
#include "identity/files.h"
#include "io/file_storage.h"
#include "io/interfaces.h"
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
constexpr Duration kAskIdleEvery = std::chrono::milliseconds(50);
constexpr unsigned kMaxThreads = 64;

WallTime system_now() { return io::Loop::system_now(); }

/// One line writer for log and access log: lines of both stay whole.
class StderrSink final : public telemetry::AccessSink {
 public:
  StderrSink()
      : writer_(STDERR_FILENO, [](std::uint64_t lost) {
          return std::to_string(lost) + " log lines were dropped: stderr is slow";
        }) {
    log::set_sink([this](std::string_view text) { writer_.line(text); });
  }
  ~StderrSink() override { log::set_sink({}); }
  void line(std::string_view text) override { writer_.line(text); }
  std::uint64_t dropped() const override { return writer_.dropped(); }

 private:
  LineWriter writer_;
};

std::string describe(const model::Match& match) {
  if (const auto* user = std::get_if<model::MatchUser>(&match)) {
    return "user " + user->user;
  }
  return "cgroup " + std::get<model::MatchCgroup>(match).path;
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
  void on_listeners(std::map<std::string, int> by_name, supervisor::WorkerHistory history);
  void on_capture_report(supervisor::CaptureReport report);
  void on_drain();
  /// Looks at files, certificates and addresses; rebuilds what depends on what changed.
  void look();
  void rebuild();
  void assign_slots();
  void report_configuration();
  void report_identities();
  void send_capture();
  void serve_admin(const std::map<std::string, int>& by_name);
  void ask_idle();
  admin::Response answer(const admin::Request& request);
  admin::Response answer_status();

  WorkerOptions options_;
  StderrSink sink_;
  io::Loop loop_;
  io::UvNetwork network_;
  io::FileStorage storage_;
  Instant started_;
  Reports reports_;
  telemetry::Hub hub_;
  Configuration configuration_;
  std::unique_ptr<identity::FileIdentities> identities_;
  std::string identity_directory_;
  std::string trust_domain_;
  snapshot::SlotTable slots_;
  std::vector<IpAddress> addresses_;
  std::string host_name_;
  model::Catalog catalog_;
  std::string passwd_;
  CaptureRequest request_;
  bool request_sent_ = false;
  std::shared_ptr<const snapshot::Snapshot> snapshot_;
  std::uint64_t revision_ = 0;
  std::vector<std::pair<WorkloadId, std::string>> matches_;
  std::unique_ptr<supervisor::CaptureReport> capture_;
  bool ready_ = false;
  int exit_code_ = 0;

  std::unique_ptr<Timer> look_timer_;
  std::unique_ptr<Timer> idle_timer_;
  std::unique_ptr<io::TreeWatch> config_watch_;
  std::unique_ptr<io::TreeWatch> identity_watch_;
  std::vector<std::unique_ptr<admin::HttpServer>> servers_;
  std::vector<std::unique_ptr<Listener>> admin_listeners_;
  std::unique_ptr<ProxyThreads> proxies_;
  std::unique_ptr<supervisor::WorkerLink> link_;
};

}  // namespace meshnode::agent
