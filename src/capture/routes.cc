#include "capture/routes.h"

#include <fmt/format.h>
#include <algorithm>

#include "capture/rules.h"

namespace meshnode::capture {
namespace {

/// Removal gives up after so many equal routing rules; the kernel lets nobody add two.
constexpr int kMaxEqualRules = 8;

std::string flag_of(Family family) { return family == Family::kV4 ? "-4" : "-6"; }

struct Found {
  std::vector<std::string> lines;
  bool rule = false;
  bool table = false;
  bool prefix = false;
};

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
  std::string batch =
      fmt::format("rule list pref {}\nroute list table {}\n", kRoutePriority, kRouteTable);
  if (family == Family::kV6) batch += fmt::format("route list table 255 root {}\n", kPrefix6);
  auto ran = ip(kernel, {flag_of(family), "-N", "-force", "-batch", "-"}, batch);
  if (!ran) return fail(ran.error());
  Found found;
  for (std::string_view rest = ran->output; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string line(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    bool* kind = nullptr;
    if (line.find(mark_match()) != line.npos &&
        line.find(fmt::format("lookup {}", kRouteTable)) != line.npos) {
      kind = &found.rule;
    } else if (line.find("default dev lo ") != line.npos) {
      kind = &found.table;
    } else if (line.find(fmt::format("{} dev lo ", kPrefix6)) != line.npos) {
      kind = &found.prefix;
    }
    if (kind == nullptr) continue;
    *kind = true;
    found.lines.push_back(
        fmt::format("ip {} {}: {}", flag_of(family), kind == &found.rule ? "rule" : "route", line));
  }
  return found;
}

std::vector<std::string> rule_words(Family family, std::string_view verb) {
  return {flag_of(family),
          "rule",
          std::string(verb),
          "pref",
          std::to_string(kRoutePriority),
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
  if (preserve_source && !found->rule) {
    if (auto done = must(kernel, rule_words(family, "add")); !done) return fail(done.error());
    added.push_back(fmt::format("ip {} rule {}: missing", flag_of(family), mark_match()));
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
  for (int i = 0; i < kMaxEqualRules && found->rule; ++i) {
    if (auto done = must(kernel, rule_words(family, "del")); !done) return fail(done.error());
    if (found = find(kernel, family); !found) return fail(found.error());
  }
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
