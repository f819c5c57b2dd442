#include "cli/run.h"

#include <sys/prctl.h>
#include <nlohmann/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "agent/worker.h"
#include "cli/certificates.h"
#include "cli/commands.h"
#include "cli/validate.h"
#include "io/file_storage.h"
#include "io/host_kernel.h"
#include "io/loop.h"
#include "io/net_namespace.h"
#include "supervisor/spaces.h"
#include "supervisor/supervisor.h"
#include "supervisor/worker_link.h"

namespace meshnode::cli {
namespace {

Outcome run_agent(const Invocation& asked) {
  supervisor::Options options;
  options.config_dir = asked.config_dir;
  options.state_dir = asked.state_dir;
  options.run_dir = asked.run_dir;
  if (const char* socket = std::getenv("NOTIFY_SOCKET")) options.notify_socket = socket;
  const auto code = supervisor::run_supervisor(options);
  if (!code) return complaint("agent", code.error(), "see `meshnode agent --help`");
  return {*code, "", ""};
}

Outcome run_worker(const Invocation& asked) {
  // The program is started through /proc/self/exe and would be called "exe" in ps and top.
  ::prctl(PR_SET_NAME, "meshnode-worker", 0, 0, 0);
  const agent::WorkerOptions options{asked.config_dir, asked.state_dir, asked.run_dir,
                                     supervisor::kChannelDescriptor};
  return {agent::run_worker(options), "", ""};
}

Outcome certificates(const Invocation& asked) {
  io::FileStorage storage;
  const WallTime now = io::Loop().wall_now();
  return asked.command == Command::kCaInit ? ca_init(asked, storage, now)
                                           : ca_issue(asked, storage, now);
}

Outcome ask_status(const Invocation& asked) {
  const Ask ask = [](const std::string& path, const std::string& target) {
    return admin::get(path, target);
  };
  return status(asked, ask, io::Loop().wall_now());
}

Outcome capture_rules(const Invocation& asked, Kernel& kernel) {
  const auto others = [&kernel](const CapturePlaces::Visit& visit) {
    for (const std::string& name : io::find_namespaces()) {
      const auto place = io::NetNamespace::at(name);
      if (!place) continue;  // it has gone meanwhile
      io::NamespaceKernel inside(kernel, *place);
      visit(name, inside);
    }
  };
  const CapturePlaces places{kernel, others, supervisor::agent_mark()};
  return asked.command == Command::kCaptureShow ? capture_show(places, asked.output)
                                                : capture_remove(places);
}

Outcome perform(const Invocation& asked) {
  io::HostKernel kernel;
  switch (asked.command) {
    case Command::kAgent:
      return run_agent(asked);
    case Command::kWorker:
      return run_worker(asked);
    case Command::kStatus:
      return ask_status(asked);
    case Command::kValidate:
      return validate_files(asked.files, io::FileStorage(), asked.output);
    case Command::kCaptureShow:
    case Command::kCaptureRemove:
      return capture_rules(asked, kernel);
    case Command::kCaInit:
    case Command::kCaIssue:
      return certificates(asked);
    case Command::kVersion:
      return {kDone,
              asked.output == Output::kJson ? json_text({{"version", MESHNODE_VERSION}})
                                            : "meshnode " MESHNODE_VERSION "\n",
              ""};
  }
  return {kCouldNotAsk, "", ""};
}

void print(std::string_view text, std::FILE* to) {
  std::fwrite(text.data(), 1, text.size(), to);
  std::fflush(to);
}

}  // namespace

int run(const std::vector<std::string>& arguments) {
  const auto parsed = parse_arguments(arguments);
  Outcome outcome{parsed.exit_code, parsed.out, parsed.err};
  if (parsed.invocation) outcome = perform(*parsed.invocation);
  print(outcome.out, stdout);
  print(outcome.err, stderr);
  return outcome.exit_code;
}

}  // namespace meshnode::cli
