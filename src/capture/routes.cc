#include "capture/routes.h"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "capture/rules.h"

namespace meshnode::capture {
namespace {

std::string flag_of(Family family) { return family == Family::kV4 ? "-4" : "-6"; }

struct Found {
  std::vector<std::string> lines;
  std::vector<int> rules;                        ///< priorities of ours
  int others = std::numeric_limits<int>::max();  ///< first priority of others after the local table
  bool table = false;
  bool prefix = false;
};

/// A rule added without a priority goes before all others but the local table's: a VPN that comes
/// up while the agent runs stands before ours, and would get the answers to preserved sources.
bool in_place(const Found& found) {
  if (found.rules.empty()) return false;
  const int first = *std::min_element(found.rules.begin(), found.rules.end());
  return first < found.others || first == 1;
}

int place(const Found& found) { return std::max(1, std::min(kRoutePriority, found.others - 1)); }

/// The priority that a line of `ip rule list` begins with.
std::optional<int> priority_of(const std::string& line) {
  int value = 0;
  const char* end = line.data() + line.size();
  const auto [at, error] = std::from_chars(line.data(), end, value);
  if (error != std::errc{} || end - at < 2 || *at != ':' || at[1] != '\t') return {};
  return value;
}

std::string mark_match() { return fmt::format("fwmark {:#x}/{:#x}", kReplyMark, kMarkMask); }

Result<CommandResult> ip(Kernel& kernel, std::vector<std::string> arguments,
                         const std::string& input = {}) {
  arguments.insert(arguments.begin(), "ip");
  auto ran = kernel.run(arguments, input);
  if (!ran && ran.error().code == ErrorCode::kUnavailable) {
    return fail(ErrorCode::kUnavailable,
                ran.error().message + "; ip is in the Debian package iproute2");
  }
  return ran;
}

Result<Found> find(Kernel& kernel, Family family) {
  // -N: numbers even where /etc/iproute2 has names. -force: a table without routes is an error.
  std::string batch = fmt::format("rule list\nroute list table {}\n", kRouteTable);
  if (family == Family::kV6) batch += fmt::format("route list table 255 root {}\n", kPrefix6);
  auto ran = ip(kernel, {flag_of(family), "-N", "-force", "-batch", "-"}, batch);
  if (!ran) return fail(ran.error());
  Found found;
  for (std::string_view rest = ran->output; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string line(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    bool* kind = nullptr;
    if (const auto priority = priority_of(line)) {
      if (line.find(mark_match()) != line.npos &&
          line.find(fmt::format("lookup {}", kRouteTable)) != line.npos) {
        found.rules.push_back(*priority);
        found.lines.push_back(fmt::format("ip {} rule: {}", flag_of(family), line));
      } else if (*priority > 0) {
        found.others = std::min(found.others, *priority);
      }
    } else if (line.find("default dev lo ") != line.npos) {
      kind = &found.table;
    } else if (line.find(fmt::format("{} dev lo ", kPrefix6)) != line.npos) {
      kind = &found.prefix;
    }
    if (kind == nullptr) continue;
    *kind = true;
    found.lines.push_back(fmt::format("ip {} route: {}", flag_of(family), line));
  }
  return found;
}

std::vector<std::string> rule_words(Family family, std::string_view verb, int priority) {
  return {flag_of(family),
          "rule",
          std::string(verb),
          "pref",
          std::to_string(priority),
          "fwmark",
          fmt::format("{:#x}/{:#x}", kReplyMark, kMarkMask),
          "lookup",
          std::to_string(kRouteTable)};
}

std::vector<std::string> prefix_words(std::string_view verb) {
  return {"-6", "route", std::string(verb), "local", std::string(kPrefix6), "dev", "lo"};
}

Status must(Kernel& kernel, const std::vector<std::string>& words) {
  auto ran = ip(kernel, words);
  if (!ran) return fail(ran.error());
  if (ran->exit_code == 0) return {};
  std::string command = "ip";
  for (const std::string& word : words) command += " " + word;
  std::string why = ran->error.substr(0, 200);
  while (!why.empty() && why.back() == '\n') why.pop_back();
  return fail(ErrorCode::kUnavailable,
              fmt::format("{}: {}; is lo up, with IPv6 if the host has it?", command, why));
}

Status remove_rules(Kernel& kernel, Family family, const Found& found) {
  for (const int priority : found.rules) {
    if (auto done = must(kernel, rule_words(family, "del", priority)); !done) return done;
  }
  return {};
}

}  // namespace

Result<std::vector<std::string>> ensure_routes(Kernel& kernel, Family family,
                                               bool preserve_source) {
  auto found = find(kernel, family);
  if (!found) return fail(found.error());
  std::vector<std::string> added;
  if (preserve_source && !found->table) {
    if (auto done = must(kernel, {flag_of(family), "route", "replace", "local", "default", "dev",
                                  "lo", "table", std::to_string(kRouteTable)});
        !done) {
      return fail(done.error());
    }
    added.push_back(fmt::format("ip {} route table {}: missing", flag_of(family), kRouteTable));
  }
  if (preserve_source && !in_place(*found)) {
    if (auto done = must(kernel, rule_words(family, "add", place(*found))); !done) {
      return fail(done.error());
    }
    if (auto done = remove_rules(kernel, family, *found); !done) return fail(done.error());
    added.push_back(fmt::format("ip {} rule {}: {}", flag_of(family), mark_match(),
                                found->rules.empty() ? "missing" : "not before those of others"));
  }
  if (family == Family::kV6 && !found->prefix) {
    if (auto done = must(kernel, prefix_words("replace")); !done) return fail(done.error());
    added.push_back(fmt::format("ip -6 route {}: missing", kPrefix6));
  }
  return added;
}

Result<std::vector<std::string>> remove_routes(Kernel& kernel, Family family) {
  auto found = find(kernel, family);
  if (!found) return fail(found.error());
  const std::vector<std::string> removed = found->lines;
  if (auto done = remove_rules(kernel, family, *found); !done) return fail(done.error());
  if (found->table) {
    if (auto done =
            must(kernel, {flag_of(family), "route", "flush", "table", std::to_string(kRouteTable)});
        !done) {
      return fail(done.error());
    }
  }
  if (found->prefix) {
    if (auto done = must(kernel, prefix_words("del")); !done) return fail(done.error());
  }
  return removed;
}

Result<std::vector<std::string>> list_routes(Kernel& kernel, Family family) {
  auto found = find(kernel, family);
  if (!found) return fail(found.error());
  return std::move(found->lines);
}

}  // namespace meshnode::capture
