#include "capture/applier.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>

#include "capture/conflicts.h"
#include "capture/own_words.h"
#include "capture/routes.h"
#include "capture/save.h"

namespace meshnode::capture {
namespace {

/// A cgroup that keeps being re-created while we bind to it is tried so often a call.
constexpr int kMaxBindings = 3;

std::string program(Family family, std::string_view backend, std::string_view suffix) {
  return fmt::format("{}{}-{}", family == Family::kV4 ? "iptables" : "ip6tables", backend, suffix);
}

std::string family_name(Family family) { return family == Family::kV4 ? "IPv4" : "IPv6"; }

std::vector<Family> families(bool ipv6) {
  if (ipv6) return {Family::kV4, Family::kV6};
  return {Family::kV4};
}

std::string first_lines(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 400)) {
    out += c == '\n' ? ' ' : (c < 0x20 || c > 0x7e ? '?' : c);
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

/// The line of `input` that iptables-restore complains about; it says only its number.
std::string blamed_line(std::string_view complaint, std::string_view input) {
  const std::size_t at = complaint.find("line");
  if (at == complaint.npos) return {};
  std::size_t number = 0;
  for (std::size_t i = complaint.find_first_of("0123456789", at);
       i < complaint.size() && complaint[i] >= '0' && complaint[i] <= '9' && number < 1'000'000;
       ++i) {
    number = number * 10 + static_cast<std::size_t>(complaint[i] - '0');
  }
  for (std::size_t line = 1; !input.empty(); ++line) {
    const std::size_t end = std::min(input.find('\n'), input.size());
    if (line == number) return std::string(input.substr(0, std::min(end, std::size_t{300})));
    input.remove_prefix(std::min(end + 1, input.size()));
  }
  return {};
}

Error with_package(const Error& error) {
  if (error.code != ErrorCode::kUnavailable) return error;
  return {error.code, error.message + "; it is in the Debian package iptables"};
}

Result<Saved> save(Kernel& kernel, Family family, std::string_view backend) {
  const std::string name = program(family, backend, "save");
  auto ran = kernel.run({name, "-c"}, "");
  if (!ran) return fail(with_package(ran.error()));
  if (ran->exit_code != 0) {
    return fail(ErrorCode::kPermission,
                fmt::format("{} failed: {}; capture needs root or CAP_NET_ADMIN, and a kernel with "
                            "netfilter",
                            name, first_lines(ran->error)));
  }
  auto parsed = parse_save(ran->output);
  if (!parsed) {
    return fail(parsed.error().code, fmt::format("{}: {}", name, parsed.error().message));
  }
  if (ran->error.find("tables present, use") != std::string::npos) parsed->other_backend = true;
  return parsed;
}

Status restore(Kernel& kernel, Family family, std::string_view backend, const std::string& text) {
  if (text.empty()) return {};
  const std::string name = program(family, backend, "restore");
  if (kernel.foreign() && !in_own_words(text)) {
    return fail(ErrorCode::kInvalid,
                "rules in this network namespace look like meshnode's and are not: chains or rules "
                "that lead into MESHNODE_ chains were made by somebody inside; remove them there");
  }
  // -w: wait for another program's lock for so many seconds, well within those of Kernel::run(),
  // which in a namespace of others' are fewer.
  auto ran = kernel.run({name, "--noflush", "-w", kernel.foreign() ? "1" : "5"}, text);
  if (!ran) return fail(with_package(ran.error()));
  if (ran->exit_code == 0) return {};
  const std::string line = blamed_line(ran->error, text);
  return fail(
      ErrorCode::kUnavailable,
      fmt::format("{} refused the capture rules: {}{}{}; check that the kernel has what the "
                  "rule names (xt_TPROXY, xt_owner, xt_cgroup, xt_multiport, xt_addrtype, "
                  "xt_conntrack, xt_connmark, xt_mark, xt_socket, ipt_REJECT)",
                  name, first_lines(ran->error), line.empty() ? "" : " at: ", line));
}

bool has_ipv6(const Kernel& kernel) {
  auto addresses = kernel.read("/proc/net/if_inet6");
  return addresses && !addresses->empty();
}

bool is_of_namespace(const Spec& spec) {
  return std::any_of(spec.workloads.begin(), spec.workloads.end(), [](const Enrolled& workload) {
    return std::holds_alternative<ByNamespace>(workload.owner);
  });
}

/// cgroups(7): "0::/path" is the line of the unified hierarchy.
Result<std::string> own_cgroup(const Kernel& kernel) {
  constexpr std::string_view kUnified = "0::/";
  auto all = kernel.read("/proc/self/cgroup");
  if (!all) return fail(all.error());
  for (std::string_view rest = *all; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    if (line.starts_with(kUnified)) return std::string(line.substr(kUnified.size()));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
  }
  return std::string();
}

std::string describe(const CgroupFact& before, const CgroupFact& now) {
  if (before.inode == 0) return fmt::format("cgroup {}: appeared", now.path);
  if (now.inode == 0) return fmt::format("cgroup {}: was removed", now.path);
  return fmt::format("cgroup {}: was created again", now.path);
}

/// `before` and `now` are of one Spec.
std::vector<std::string> describe(const HostFacts& before, const HostFacts& now) {
  std::vector<std::string> lines;
  if (before.own_cgroup != now.own_cgroup) lines.push_back("the agent's cgroup changed");
  if (before.ipv6 != now.ipv6) lines.push_back(now.ipv6 ? "IPv6 appeared" : "IPv6 went away");
  for (std::size_t i = 0; i < now.cgroups.size() && i < before.cgroups.size(); ++i) {
    if (before.cgroups[i] != now.cgroups[i]) {
      lines.push_back(describe(before.cgroups[i], now.cgroups[i]));
    }
  }
  return lines;
}

/// What is not installed, or not in this kernel, holds no rules; but being refused by the one
/// backend that is in use must not pass for "nothing there".
bool may_be_missing(const Kernel& kernel, Family family, std::string_view backend,
                    const Error& error) {
  if (error.code == ErrorCode::kUnavailable) return true;
  return error.code == ErrorCode::kPermission &&
         (!backend.empty() || (family == Family::kV6 && !has_ipv6(kernel)));
}

Result<std::vector<std::string>> remove_backend(Kernel& kernel, Family family,
                                                std::string_view backend) {
  std::vector<std::string> removed;
  auto saved = save(kernel, family, backend);
  if (!saved && may_be_missing(kernel, family, backend, saved.error())) return removed;
  if (!saved) return fail(saved.error());
  const std::string text = restore_text(*saved, {});
  if (text.empty()) return removed;
  for (const OwnTable& table : own_part(*saved)) {
    removed.push_back(fmt::format("{} {}: {} chains, {} jumps", program(family, backend, "save"),
                                  table.name, table.chains.size(), table.jumps.size()));
  }
  if (auto done = restore(kernel, family, backend, text); !done) return fail(done.error());
  return removed;
}

}  // namespace

Result<HostFacts> Applier::look(const Spec& spec) const {
  HostFacts facts;
  facts.agent = agent_;
  facts.ipv6 = has_ipv6(kernel_);
  if (is_of_namespace(spec)) {
    auto own = own_cgroup(kernel_);
    if (!own) return fail(own.error());
    facts.own_cgroup = std::move(*own);
  }
  for (const Enrolled& workload : spec.workloads) {
    const auto* cgroup = std::get_if<ByCgroup>(&workload.owner);
    if (cgroup == nullptr) continue;
    auto inode = kernel_.cgroup_inode(cgroup->path);
    if (!inode && inode.error().code != ErrorCode::kNotFound) return fail(inode.error());
    facts.cgroups.push_back({cgroup->path, inode ? *inode : 0});
  }
  return facts;
}

Result<Saved> Applier::dump(Family family) {
  auto saved = save(kernel_, family, "");
  if (!saved) return saved;
  count(family, *saved);
  return saved;
}

Result<Report> Applier::apply(const Spec& spec) {
  if (auto ok = check(spec); !ok) return fail(ok.error());
  return install(spec);
}

Result<Report> Applier::install(const Spec& spec) {
  for (int attempt = 1;; ++attempt) {
    auto facts = look(spec);
    if (!facts) return fail(facts.error());
    if (auto done = install_once(spec, *facts); !done) return fail(done.error());
    // A cgroup that was re-created between the look and the rule would be bound to its old self.
    auto after = look(spec);
    if (!after) return fail(after.error());
    if (*after == applied_->facts || attempt == kMaxBindings) return report();
  }
}

Status Applier::install_once(const Spec& spec, const HostFacts& facts) {
  std::map<Family, Saved> before;
  for (const Family family : families(facts.ipv6)) {
    auto saved = dump(family);
    if (!saved) return fail(saved.error());
    before[family] = std::move(*saved);
  }
  for (const Family family : families(facts.ipv6)) {
    auto routes = ensure_routes(kernel_, family, spec.preserve_source);
    if (!routes) return fail(routes.error());
  }
  // The same text may be bound to a cgroup that is gone: by us before, or by an earlier run.
  const bool again = !applied_ || applied_->facts.cgroups != facts.cgroups;
  Applied next{spec, facts, {}};
  for (const auto& [family, saved] : before) {
    auto expected = install_family(family, spec, facts, saved, again);
    if (!expected) return fail(roll_back(expected.error(), before));
    next.expected[family] = std::move(*expected);
  }
  applied_ = std::move(next);
  return {};
}

Result<Ruleset> Applier::install_family(Family family, const Spec& spec, const HostFacts& facts,
                                        const Saved& before, bool again) {
  Saved current = before;
  const Spec kept = applied_ ? common(applied_->spec, spec) : spec;
  if (applied_ && kept != applied_->spec) {
    // Backstops of what is withdrawn go first, or they would reject what is no longer steered.
    Ruleset backstops = own_part(current);
    std::erase_if(backstops, [](const OwnTable& table) { return table.name == "filter"; });
    for (OwnTable& table : rules(kept, facts, family)) {
      if (table.name == "filter") backstops.push_back(std::move(table));
    }
    if (auto done = restore(kernel_, family, "", restore_text(current, backstops)); !done) {
      return fail(done.error());
    }
    auto saved = dump(family);
    if (!saved) return fail(saved.error());
    current = std::move(*saved);
  }
  const Ruleset wanted = rules(spec, facts, family);
  if (auto done = restore(kernel_, family, "", restore_text(current, wanted, again)); !done) {
    return fail(done.error());
  }
  auto saved = dump(family);
  if (!saved) return fail(saved.error());
  conflicts_[family] = conflicts(*saved, spec, family);
  return adopt(*saved, wanted);
}

Error Applier::roll_back(Error cause, const std::map<Family, Saved>& before) {
  kernel_.prolong();
  for (const auto& [family, saved] : before) {
    auto now = dump(family);
    Status done = now ? restore(kernel_, family, "", restore_text(*now, own_part(saved)))
                      : Status(fail(now.error()));
    if (!done) {
      cause.message += fmt::format("; and the former {} rules could not be put back: {}",
                                   family_name(family), done.error().message);
    }
  }
  return cause;
}

Result<Report> Applier::verify_and_repair() {
  if (!applied_) return report();
  auto facts = look(applied_->spec);
  if (!facts) return fail(facts.error());
  std::vector<std::string> repaired = describe(applied_->facts, *facts);
  if (!repaired.empty()) {
    const Spec spec = applied_->spec;
    auto done = install(spec);
    if (!done) return done;
  }
  for (const auto& [family, expected] : applied_->expected) {
    auto fixed = repair(family, expected);
    if (!fixed) return fail(fixed.error());
    for (const std::string& line : *fixed) {
      repaired.push_back(fmt::format("{} {}", family_name(family), line));
    }
    auto routes = ensure_routes(kernel_, family, applied_->spec.preserve_source);
    if (!routes) return fail(routes.error());
    repaired.insert(repaired.end(), routes->begin(), routes->end());
  }
  Report now = report();
  now.repaired = std::move(repaired);
  return now;
}

bool Applier::facts_changed() {
  if (!applied_) return false;
  const auto facts = look(applied_->spec);
  return !facts || *facts != applied_->facts;
}

Result<std::vector<std::string>> Applier::repair(Family family, const Ruleset& expected) {
  auto saved = dump(family);
  if (!saved) return fail(saved.error());
  conflicts_[family] = conflicts(*saved, applied_->spec, family);
  std::vector<std::string> wrong = differences(*saved, expected);
  if (wrong.empty()) return wrong;
  if (auto done = restore(kernel_, family, "", restore_text(*saved, expected)); !done) {
    return fail(done.error());
  }
  return wrong;
}

Result<std::vector<std::string>> Applier::remove() {
  applied_.reset();
  return capture::remove(kernel_);
}

void Applier::count(Family family, const Saved& saved) {
  std::map<std::string, std::uint64_t> seen;
  if (const Table* filter = saved.find("filter")) {
    for (const Chain& chain : filter->chains) {
      if (!is_ours(chain.name)) continue;
      for (const Rule& rule : chain.rules) {
        const std::string comment = comment_of(rule.text);
        if (!backstop_of(comment).reason.empty()) seen[comment] += rule.packets;
      }
    }
  }
  for (auto& [key, count] : counts_) {
    // A counter that went back belongs to a rule that was written anew.
    if (key.first != family) continue;
    const auto now = seen.find(key.second);
    const std::uint64_t value = now == seen.end() ? 0 : now->second;
    if (value < count.now) count.earlier += count.now;
    count.now = value;
    if (now != seen.end()) seen.erase(now);
  }
  for (const auto& [comment, packets] : seen) counts_[{family, comment}] = {0, packets};
}

std::vector<Bypass> Applier::counters() const {
  std::map<std::string, std::uint64_t> sums;
  for (const auto& [key, count] : counts_) sums[key.second] += count.earlier + count.now;
  std::vector<Bypass> hits;
  for (const auto& [comment, packets] : sums) {
    Backstop backstop = backstop_of(comment);
    hits.push_back({std::move(backstop.reason), std::move(backstop.workload), packets});
  }
  return hits;
}

Report Applier::report() const {
  Report now;
  if (!applied_) return now;
  now.v4 = true;
  now.v6 = applied_->facts.ipv6;
  now.waiting = waiting(applied_->spec, applied_->facts);
  for (const Family family : families(now.v6)) {
    const auto found = conflicts_.find(family);
    if (found == conflicts_.end()) continue;
    now.conflicts.insert(now.conflicts.end(), found->second.begin(), found->second.end());
  }
  return now;
}

Result<std::vector<std::string>> remove(Kernel& kernel) {
  std::vector<std::string> removed;
  for (const Family family : families(true)) {
    for (const std::string_view backend : {"", "-nft", "-legacy"}) {
      auto done = remove_backend(kernel, family, backend);
      if (!done) return done;
      removed.insert(removed.end(), done->begin(), done->end());
    }
    if (family == Family::kV6 && !has_ipv6(kernel)) continue;
    auto routes = remove_routes(kernel, family);
    if (!routes) return routes;
    removed.insert(removed.end(), routes->begin(), routes->end());
  }
  return removed;
}

Result<bool> is_of_agent(Kernel& kernel, std::string_view agent) {
  // The likely places first: a machine has hundreds of namespaces that are none of ours.
  for (const auto& [family, backend] :
       {std::pair{Family::kV4, ""}, {Family::kV6, ""}, {Family::kV4, "-nft"},
        {Family::kV4, "-legacy"}}) {
    auto saved = save(kernel, family, backend);
    if (!saved && may_be_missing(kernel, family, backend, saved.error())) continue;
    if (!saved) return fail(saved.error());
    if (agent_of(*saved) == agent) return true;
  }
  return false;
}

Result<std::vector<Steered>> steered(Kernel& kernel) {
  std::vector<Steered> all;
  for (const Family family : families(true)) {
    for (const std::string_view backend : {"", "-nft", "-legacy"}) {
      auto saved = save(kernel, family, backend);
      if (!saved && may_be_missing(kernel, family, backend, saved.error())) continue;
      if (!saved) return fail(saved.error());
      for (Steered& each : steered(*saved)) {
        if (std::find(all.begin(), all.end(), each) == all.end()) all.push_back(std::move(each));
      }
    }
  }
  return all;
}

Result<bool> kernel_tells(Kernel& kernel) {
  const auto version = kernel.run({"iptables", "-V"}, "");
  if (!version) return fail(version.error());
  return version->output.find("nf_tables") != std::string::npos;
}

Result<std::string> show(Kernel& kernel) {
  std::string text;
  for (const Family family : families(has_ipv6(kernel))) {
    auto saved = save(kernel, family, "");
    if (!saved) return fail(saved.error());
    const std::string ours = show_ours(*saved);
    if (!ours.empty()) text += fmt::format("# {}\n{}", family_name(family), ours);
    auto routes = list_routes(kernel, family);
    if (!routes) return fail(routes.error());
    for (const std::string& line : *routes) text += fmt::format("# {}\n", line);
  }
  return text;
}

}  // namespace meshnode::capture
