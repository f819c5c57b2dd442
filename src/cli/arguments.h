#pragma once
/// The command line as a value. Pure apart from being slow to compile: arguments.cc alone includes
/// the parser's library.

#include <meshnode/time.h>
#include <optional>
#include <string>
#include <vector>

namespace meshnode::cli {

enum class Command {
  kAgent,
  kWorker,
  kStatus,
  kValidate,
  kCaptureShow,
  kCaptureRemove,
  kCaInit,
  kCaIssue,
  kVersion,
};

enum class Output { kText, kJson };

/// What was asked for; fields that the command does not have keep their defaults.
struct Invocation {
  Command command = Command::kVersion;
  std::string config_dir = "/etc/meshnode";
  std::string state_dir = "/var/lib/meshnode";
  std::string run_dir = "/run/meshnode";
  Output output = Output::kText;
  std::vector<std::string> files;  ///< validate
  std::string ca_dir;              ///< ca init, ca issue
  std::string trust_domain;        ///< ca init
  std::string ns;                  ///< ca issue
  std::string service_account;     ///< ca issue
  std::string out;                 ///< ca issue
  Duration lifetime{};             ///< ca init, ca issue
};

/// Either an invocation, or text for standard output or error and an exit code: help asked for (0)
/// or bad usage (2).
struct Parsed {
  std::optional<Invocation> invocation;
  int exit_code = 0;
  std::string out;
  std::string err;
};

/// `arguments` without the program's name.
Parsed parse_arguments(std::vector<std::string> arguments);

}  // namespace meshnode::cli
