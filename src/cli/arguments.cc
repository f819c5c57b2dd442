#include "cli/arguments.h"

#include <algorithm>
#include <CLI/CLI.hpp>
#include <functional>
#include <string_view>

#include "base/duration.h"
#include "base/escape.h"

namespace meshnode::cli {
namespace {

constexpr Duration kShortestLifetime = std::chrono::minutes(1);
constexpr Duration kLongestLifetime = std::chrono::hours(100 * 365 * 24);

void add_directories(::CLI::App& command, Invocation& to) {
  command.add_option("--config-dir", to.config_dir, "Where the resources (*.yaml) are")
      ->capture_default_str()
      ->type_name("DIR");
  command.add_option("--state-dir", to.state_dir, "What must survive a restart")
      ->capture_default_str()
      ->type_name("DIR");
  command.add_option("--run-dir", to.run_dir, "The admin socket and the lock")
      ->capture_default_str()
      ->type_name("DIR");
}

/// Refuses what `problem` has words for; the option is parsed after that.
using Problem = std::function<std::string(const std::string& text)>;

void add_output(::CLI::App& command, Invocation& to) {
  const Problem problem = [](const std::string& format) -> std::string {
    if (format == "text" || format == "json") return {};
    return meshnode::quoted(format) + " is not text or json";
  };
  command
      .add_option_function<std::string>(
          "-o,--output",
          [&to](const std::string& format) {
            to.output = format == "json" ? Output::kJson : Output::kText;
          },
          "text (default) or json")
      ->check(problem)
      ->type_name("FORMAT");
}

Result<Duration> parse_lifetime(const std::string& text) {
  return parse_duration(text, kShortestLifetime, kLongestLifetime);
}

void add_lifetime(::CLI::App& command, Invocation& to, Duration fallback) {
  const Problem problem = [](const std::string& text) {
    const auto lifetime = parse_lifetime(text);
    return lifetime ? std::string() : lifetime.error().message;
  };
  command
      .add_option_function<std::string>(
          "--ttl", [&to](const std::string& text) { to.lifetime = *parse_lifetime(text); },
          "How long it is good, such as 24h or 90m (default " + duration_text(fallback) + ")")
      ->check(problem)
      ->type_name("DURATION");
  command.parse_complete_callback([&to, fallback] {
    if (to.lifetime == Duration::zero()) to.lifetime = fallback;
  });
}

/// The tree of commands; holds the parser and what it fills.
class Parser {
 public:
  Parser() : app_("Identity, mutual TLS and routing for every workload on this host.", "meshnode") {
    app_.require_subcommand(1);
    app_.get_formatter()->column_width(34);
    app_.footer(
        "Exit codes: 0 done; 1 the answer is no, or the input is bad; 2 could not ask.\n"
        "`meshnode COMMAND --help` explains a command.");
    add_running();
    add_configuration();
    add_capture();
    add_authority();
    auto* version = leaf(app_, "version", "Print the version", Command::kVersion);
    add_directories(*version, asked_);
    add_output(*version, asked_);
  }

  Parsed parse(std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes a vector
    try {
      app_.parse(std::move(arguments));
    } catch (const ::CLI::CallForHelp&) {
      return {std::nullopt, 0, selected().help(parents()), ""};
    } catch (const ::CLI::ParseError& error) {
      return {std::nullopt, 2, "", usage_error(error.what())};
    }
    return {asked_, 0, "", ""};
  }

 private:
  ::CLI::App* leaf(::CLI::App& parent, const char* name, const char* does, Command command) {
    auto* added = parent.add_subcommand(name, does);
    added->callback([this, command] { asked_.command = command; });
    return added;
  }

  void add_running() {
    auto* agent = leaf(app_, "agent", "Run the agent in the foreground", Command::kAgent);
    add_directories(*agent, asked_);
    agent->footer(
        "SIGHUP reads the configuration again. SIGTERM removes all rules, lets open connections\n"
        "end for up to the Node's proxy.drainTimeout and exits; a second SIGTERM does not wait.\n"
        "READY=1 goes to $NOTIFY_SOCKET once traffic flows.");
    auto* worker = leaf(app_, "worker", "The agent's unprivileged half", Command::kWorker);
    add_directories(*worker, asked_);
    worker->group("");  // the supervisor's to start, not a user's
    auto* status = leaf(app_, "status", "Health of this node and what to do", Command::kStatus);
    add_directories(*status, asked_);
    add_output(*status, asked_);
    status->footer("Exits 1 when the node is degraded and 2 when no agent answers.");
  }

  void add_configuration() {
    auto* validate =
        leaf(app_, "validate", "Check resource files without applying them", Command::kValidate);
    validate->add_option("FILE", asked_.files, "YAML files, together as one configuration")
        ->required()
        ->type_name("");
    add_directories(*validate, asked_);
    add_output(*validate, asked_);
    validate->footer(
        "Prints `file:line:column: reason` for each finding; exits 1 if there is one.");
  }

  void add_capture() {
    auto* capture = app_.add_subcommand("capture", "The packet filter rules of this host");
    capture->require_subcommand(1);
    auto* show = leaf(*capture, "show", "Print the rules as applied", Command::kCaptureShow);
    add_directories(*show, asked_);
    add_output(*show, asked_);
    auto* remove = leaf(*capture, "remove", "Remove every rule", Command::kCaptureRemove);
    add_directories(*remove, asked_);
    remove->footer("Works without an agent. A running agent puts its rules back.");
  }

  void add_authority() {
    auto* ca = app_.add_subcommand("ca", "A small certificate authority in files");
    ca->require_subcommand(1);
    auto* init = leaf(*ca, "init", "Make a root: DIR/ca.crt and DIR/ca.key", Command::kCaInit);
    init->add_option("DIR", asked_.ca_dir, "Where the root goes; made if missing")
        ->required()
        ->type_name("");
    init->add_option("--trust-domain", asked_.trust_domain, "Such as example.internal")
        ->required()
        ->type_name("TD");
    add_lifetime(*init, asked_, std::chrono::hours(87'600));
    add_directories(*init, asked_);
    init->footer("Never overwrites a root.");

    auto* issue = leaf(*ca, "issue", "Issue a workload's certificate and key", Command::kCaIssue);
    issue->add_option("DIR", asked_.ca_dir, "Where `ca init` put the root")
        ->required()
        ->type_name("");
    issue->add_option("--namespace", asked_.ns, "The workload's namespace")
        ->required()
        ->type_name("NS");
    issue->add_option("--service-account", asked_.service_account, "The workload's account")
        ->required()
        ->type_name("SA");
    issue->add_option("--out", asked_.out, "Such as /etc/meshnode/certs")
        ->required()
        ->type_name("CERTS");
    add_lifetime(*issue, asked_, std::chrono::hours(24));
    add_directories(*issue, asked_);
    issue->footer(
        "Writes CERTS/ca.crt, CERTS/NS/SA/tls.crt and CERTS/NS/SA/tls.key. A running agent picks\n"
        "them up.");
  }

  /// The innermost command on the line: whose help is wanted.
  ::CLI::App& selected() {
    ::CLI::App* at = &app_;
    while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
    return *at;
  }
  /// The commands above it, as help prints them in front of its own name.
  std::string parents() {
    std::string names;
    for (::CLI::App* at = &app_; at != &selected(); at = at->get_subcommands().front()) {
      names += (names.empty() ? "" : " ") + at->get_name();
    }
    return names;
  }
  std::string usage_error(std::string_view why) {
    std::string unknown;
    const auto left = selected().remaining();
    const bool takes_command = selected().get_require_subcommand_min() > 0;
    if (takes_command && !left.empty()) {
      unknown = meshnode::quoted(left.front()) + " is not a command";
      why = unknown;
    } else if (takes_command) {
      why = "a command is missing";
    }
    while (!why.empty() && (why.back() == '\n' || why.back() == '.')) why.remove_suffix(1);
    const std::string above = parents();
    return "meshnode: usage: " + std::string(why) + "; see `" + above + (above.empty() ? "" : " ") +
           selected().get_name() + " --help`\n";
  }

  ::CLI::App app_;
  Invocation asked_;
};

}  // namespace

Parsed parse_arguments(std::vector<std::string> arguments) {
  return Parser().parse(std::move(arguments));
}

}  // namespace meshnode::cli
