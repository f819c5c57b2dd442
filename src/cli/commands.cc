#include "cli/commands.h"

#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>
#include <vector>

#include "capture/applier.h"
#include "cli/status_text.h"

namespace meshnode::cli {
namespace {

/// "status: why; next step", by what stands between us and an answer.
Outcome no_answer(const std::string& socket_path, const Error& error) {
  switch (error.code) {
    case ErrorCode::kPermission:
      return complaint("status", error, "run it as root");
    case ErrorCode::kTimeout:
      return complaint("status", error, "see the agent's log, `journalctl -u meshnode`");
    case ErrorCode::kUnavailable:
      return complaint("status", {error.code, "no agent answers at " + socket_path},
                       "start it with `systemctl start meshnode` or `meshnode agent`, or name "
                       "its --run-dir");
    default: {
      // Whatever came, it was no answer about health.
      auto outcome = complaint("status", error, "see the agent's log, `journalctl -u meshnode`");
      outcome.exit_code = kCouldNotAsk;
      return outcome;
    }
  }
}

/// What failed in one namespace must not keep the others from being done.
void add(Outcome& outcome, const Outcome& complaint) {
  outcome.exit_code = complaint.exit_code;
  outcome.err += complaint.err;
}

/// The rules in one network namespace.
struct Shown {
  std::string ns;
  std::string rules;
};

std::string as_text(const std::vector<Shown>& all) {
  std::string text;
  for (const Shown& each : all) {
    text += (each.ns.empty() ? "" : "# network namespace " + each.ns + "\n") + each.rules;
  }
  return text.empty() ? "no rule of meshnode is in force\n" : text;
}

std::string as_json(const std::vector<Shown>& all) {
  nlohmann::json places = nlohmann::json::array();
  for (const Shown& each : all) {
    nlohmann::json rules = nlohmann::json::array();
    std::istringstream lines(each.rules);
    for (std::string line; std::getline(lines, line);) rules.push_back(line);
    places.push_back({{"namespace", each.ns}, {"rules", std::move(rules)}});
  }
  return json_text({{"places", std::move(places)}});
}

}  // namespace

Outcome status(const Invocation& asked, const Ask& ask, WallTime now) {
  const std::string path = asked.run_dir + "/admin.sock";
  const auto answer = ask(path, "/status");
  if (!answer) return no_answer(path, answer.error());
  if (answer->status != 200) {
    return no_answer(
        path, {ErrorCode::kInternal, "the agent answered " + std::to_string(answer->status)});
  }
  const auto page = status_page(answer->body, now);
  if (!page) return no_answer(path, page.error());
  std::string text = asked.output == Output::kJson ? answer->body : page->text;
  if (text.empty() || text.back() != '\n') text += '\n';
  return {page->healthy ? kDone : kNo, std::move(text), ""};
}

Outcome capture_show(const CapturePlaces& places, Output output) {
  auto rules = capture::show(places.here);
  if (!rules) return complaint("capture show", rules.error(), "run it as root");
  Outcome outcome;
  std::vector<Shown> all{{"", std::move(*rules)}};
  places.others([&](const std::string& name, Kernel& kernel) {
    const auto ours = capture::is_of_agent(kernel, places.agent);
    if (!ours) add(outcome, complaint("capture show: " + name, ours.error(), "run it as root"));
    if (!ours || !*ours) return;
    auto inside = capture::show(kernel);
    if (!inside) add(outcome, complaint("capture show: " + name, inside.error(), "run it as root"));
    if (inside) all.push_back({name, std::move(*inside)});
  });
  outcome.out = output == Output::kJson ? as_json(all) : as_text(all);
  return outcome;
}

Outcome capture_remove(const CapturePlaces& places) {
  Outcome outcome;
  // Whatever fails in one place, the others are not left behind closed doors.
  const auto remove_in = [&](const std::string& name, Kernel& kernel) {
    const std::string where = name.empty() ? "" : name + ": ";
    const auto removed = capture::remove(kernel);
    if (!removed) {
      const std::string what = name.empty() ? "capture remove" : "capture remove: " + name;
      return add(outcome, complaint(what, removed.error(), "run it as root"));
    }
    for (const auto& line : *removed) outcome.out += "removed " + where + line + "\n";
  };
  remove_in("", places.here);
  places.others([&](const std::string& name, Kernel& kernel) {
    const auto ours = capture::is_of_agent(kernel, places.agent);
    if (!ours) add(outcome, complaint("capture remove: " + name, ours.error(), "run it as root"));
    if (ours && *ours) remove_in(name, kernel);
  });
  if (outcome.out.empty() && outcome.exit_code == kDone) {
    outcome.out = "there was nothing to remove\n";
  }
  return outcome;
}

}  // namespace meshnode::cli
