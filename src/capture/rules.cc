#include "capture/rules.h"

#include <fmt/format.h>
#include <algorithm>
#include <iterator>

namespace meshnode::capture {
namespace {

// All text below is written as iptables-save prints it, so that what is there can be compared
// with what is wanted.
constexpr std::string_view kSyn = "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN";
constexpr std::string_view kReset = "-j REJECT --reject-with tcp-reset";
constexpr std::size_t kPortsARule = 15;  // xt_multiport takes no more

std::string mark(std::uint32_t value) { return fmt::format("{:#x}/{:#x}", value, kMarkMask); }

std::string with_own_mark() { return "-m mark --mark " + mark(kOwnMark); }

std::string comment(std::string_view what, std::string_view workload) {
  return fmt::format("-m comment --comment \"meshnode {}{}{}\"", what, workload.empty() ? "" : " ",
                     workload);
}

Jump jump(std::string chain, std::string_view matches, std::string_view to, bool first = true) {
  return {std::move(chain), fmt::format("{} -m comment --comment meshnode -j {}", matches, to),
          first};
}

std::string quote(std::string_view text) {
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '-';
  });
  if (plain) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\' || c == '\'') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string host(const IpAddress& ip) {
  return fmt::format("{}/{}", ip.text(), ip.is_v4() ? 32 : 128);
}

const IpAddress* own_address(const Enrolled& workload) {
  const auto* at = std::get_if<ByAddress>(&workload.owner);
  return at != nullptr ? &at->address : nullptr;
}

bool concerns(const Enrolled& workload, Family family) {
  const IpAddress* own = own_address(workload);
  return own == nullptr || own->family() == family;
}

/// A SYN that the workload's programs send.
std::string sends(const Enrolled& workload) {
  if (const IpAddress* own = own_address(workload)) {
    // A program that dials an address of its host without a bind() may get it as its source too.
    return fmt::format("-s {} ! -d {} {}", host(*own), host(*own), kSyn);
  }
  if (const auto* user = std::get_if<ByUser>(&workload.owner)) {
    return fmt::format("{} -m owner --uid-owner {}", kSyn, user->uid);
  }
  if (const auto* cgroup = std::get_if<ByCgroup>(&workload.owner)) {
    return fmt::format("{} -m cgroup --path {}", kSyn, quote(cgroup->path));
  }
  return std::string(kSyn);  // all of its namespace
}

/// A SYN for one of its declared ports, without those.
std::string comes_to(const Enrolled& workload) {
  const IpAddress* own = own_address(workload);
  return own == nullptr ? std::string(kSyn)
                        : fmt::format("-d {} {}", host(*own), kSyn);
}

std::vector<std::string> port_matches(const std::vector<std::uint16_t>& all) {
  std::vector<std::string> matches;
  for (std::size_t from = 0; from < all.size(); from += kPortsARule) {
    const std::size_t to = std::min(from + kPortsARule, all.size());
    std::string list;
    for (std::size_t i = from; i < to; ++i) {
      list += fmt::format("{}{}", i == from ? "" : ",", all[i]);
    }
    matches.push_back("-m multiport --dports " + list);
  }
  return matches;
}

/// What leaves the chain before anything of ours acts: `side` is "-s" for what comes in, "-d" for
/// what goes out.
void leave_out(OwnChain& chain, const Spec& spec, Family family, std::string_view side) {
  for (const IpPrefix& prefix : spec.exclude_cidrs) {
    if (prefix.family() == family) {
      chain.rules.push_back(fmt::format("{} {} -j RETURN", side, prefix.text()));
    }
  }
  for (const std::string& ports : port_matches(spec.exclude_ports)) {
    chain.rules.push_back(fmt::format("{} {} -j RETURN", kSyn, ports));
  }
}

bool can_bind(const Enrolled& workload, const HostFacts& facts) {
  const auto* cgroup = std::get_if<ByCgroup>(&workload.owner);
  return cgroup == nullptr || facts.exists(cgroup->path);
}

/// Depth in the cgroup tree; then users, and addresses last, which any program may bind to.
long specificity(const Enrolled& workload) {
  if (std::holds_alternative<ByAddress>(workload.owner)) return -1;
  const auto* cgroup = std::get_if<ByCgroup>(&workload.owner);
  if (cgroup == nullptr) return 0;
  return 1 + std::count(cgroup->path.begin(), cgroup->path.end(), '/');
}

std::vector<const Enrolled*> callers(const Spec& spec, const HostFacts& facts, Family family) {
  std::vector<const Enrolled*> bound;
  for (const Enrolled& workload : spec.workloads) {
    if (can_bind(workload, facts) && concerns(workload, family)) bound.push_back(&workload);
  }
  std::stable_sort(bound.begin(), bound.end(), [](const Enrolled* a, const Enrolled* b) {
    return specificity(*a) > specificity(*b);
  });
  return bound;
}

OwnTable mangle(const Spec& spec, const HostFacts& facts, Family family) {
  OwnTable table{"mangle", {}, {}};
  if (!facts.own_cgroup.empty()) {
    table.chains.push_back({"MESHNODE_FOREIGN",
                            {fmt::format("-m cgroup ! --path {} {} -j MARK --set-xmark 0x0/{:#x}",
                                         quote(facts.own_cgroup), comment("not our mark", ""),
                                         kMarkMask)}});
    table.jumps.push_back(
        jump("OUTPUT", fmt::format("{} {}", kSyn, with_own_mark()), "MESHNODE_FOREIGN"));
  }
  table.chains.push_back(
      {"MESHNODE_ANCHOR", {"-m conntrack --ctstate DNAT " + comment("anchor", facts.agent)}});
  OwnChain inbound{"MESHNODE_PREROUTING", {"-m addrtype ! --dst-type LOCAL -j RETURN"}};
  leave_out(inbound, spec, family, "-s");
  for (const Enrolled& workload : spec.workloads) {
    if (!concerns(workload, family)) continue;
    for (const std::string& ports : port_matches(workload.ports)) {
      inbound.rules.push_back(
          fmt::format("{} {} {} -j TPROXY --on-port {} --on-ip {} --tproxy-mark {}",
                      comes_to(workload), ports,
                      comment("in", workload.name), kInboundPort,
                      family == Family::kV4 ? "0.0.0.0" : "::", mark(kInboundMark)));
    }
  }
  table.chains.push_back(std::move(inbound));
  table.jumps.push_back(
      jump("PREROUTING", fmt::format("! -i lo {}", kSyn), "MESHNODE_PREROUTING", false));
  if (!spec.preserve_source) return table;
  // Two jumps rather than one: a bulk transfer's packets then fail one match each and go on.
  table.chains.push_back(
      {"MESHNODE_SOURCE",
       {fmt::format("{} -m addrtype ! --src-type LOCAL -m addrtype --dst-type LOCAL {} -j CONNMARK "
                    "--set-xmark {}",
                    kSyn, comment("preserved source", ""), mark(kReplyMark))}});
  table.chains.push_back(
      {"MESHNODE_REPLY",
       {fmt::format("{} -j MARK --set-xmark {}", comment("answer to a preserved source", ""),
                    mark(kReplyMark))}});
  table.jumps.push_back(
      jump("OUTPUT", fmt::format("{} {}", kSyn, with_own_mark()), "MESHNODE_SOURCE"));
  table.jumps.push_back(
      jump("OUTPUT",
           fmt::format("-p tcp -m connmark --mark {} -m conntrack --ctdir REPLY", mark(kReplyMark)),
           "MESHNODE_REPLY"));
  return table;
}

/// What we dial and what we steered never leaves lo, with addresses of elsewhere: no rule against
/// forged addresses is meant for it (wg-quick drops what comes to its address from there), and
/// without tracking it would not find back. Over lo a packet keeps its connection, even here.
OwnTable raw() {
  const std::string ours = with_own_mark();
  return {
      "raw",
      {{"MESHNODE_RAW",
        {ours + " -j ACCEPT",
         fmt::format("-m conntrack --ctstate DNAT --ctreplsrcport {} -j ACCEPT", kOutboundPort)}}},
      {jump("PREROUTING", "-i lo -p tcp", "MESHNODE_RAW"),
       jump("OUTPUT", "-o lo " + ours, "MESHNODE_RAW")}};
}

OwnTable nat(const Spec& spec, const HostFacts& facts, Family family) {
  OwnChain output{"MESHNODE_OUTPUT", {with_own_mark() + " -j RETURN"}};
  leave_out(output, spec, family, "-d");
  OwnChain local{"MESHNODE_LOCAL", {}};
  OwnChain declared{"MESHNODE_DECLARED", {}};
  OwnChain callers_chain{"MESHNODE_CALLERS", {}};
  for (const Enrolled* workload : callers(spec, facts, family)) {
    const SocketAddress to{capture_address(family, workload->slot), kOutboundPort};
    callers_chain.rules.push_back(fmt::format("{} {} -j DNAT --to-destination {}",
                                              sends(*workload), comment("out", workload->name),
                                              to.text()));
  }
  for (const Enrolled& workload : spec.workloads) {
    if (!concerns(workload, family)) continue;
    for (const std::string& ports : port_matches(workload.ports)) {
      local.rules.push_back(fmt::format("{} {} {} -g MESHNODE_DECLARED", comes_to(workload), ports,
                                        comment("local", workload.name)));
    }
  }
  declared.rules.push_back("-j MESHNODE_CALLERS");
  declared.rules.push_back(fmt::format("{} -j REDIRECT --to-ports {}", kSyn, kInboundPort));
  if (family == Family::kV6) output.rules.push_back("-d fe80::/10 -j RETURN");
  output.rules.push_back(spec.capture_loopback ? "-m addrtype --dst-type LOCAL -g MESHNODE_LOCAL"
                                               : "-m addrtype --dst-type LOCAL -j RETURN");
  output.rules.push_back("-j MESHNODE_CALLERS");
  OwnTable table{"nat", {std::move(callers_chain)}, {jump("OUTPUT", kSyn, "MESHNODE_OUTPUT")}};
  if (spec.capture_loopback) {
    table.chains.push_back(std::move(declared));
    table.chains.push_back(std::move(local));
  }
  table.chains.push_back(std::move(output));
  table.chains.push_back(
      {"MESHNODE_POSTROUTING",
       {with_own_mark() + " -j ACCEPT",
        fmt::format("-p tcp -m tcp --dport {} -m conntrack --ctstate DNAT -j ACCEPT",
                    kOutboundPort)}});
  table.jumps.push_back(jump("POSTROUTING", fmt::format("-o lo {}", kSyn), "MESHNODE_POSTROUTING"));
  return table;
}

OwnChain input_backstop(const Spec& spec, Family family) {
  const std::string own_ports =
      fmt::format("-m multiport --dports {},{}", kOutboundPort, kInboundPort);
  OwnChain chain{"MESHNODE_INPUT", {}};
  chain.rules.push_back(
      fmt::format("! -i lo {} {} {} {}", kSyn, own_ports, comment("bypass own-port", ""), kReset));
  chain.rules.push_back(fmt::format("{} {} -m conntrack ! --ctstate DNAT {} {}", kSyn, own_ports,
                                    comment("bypass own-port", ""), kReset));
  chain.rules.push_back(with_own_mark() + " -j RETURN");
  // The mark alone says only that TPROXY was met: on its way through br_netfilter a packet keeps
  // the mark and loses the socket, and would go to the program itself.
  chain.rules.push_back(
      fmt::format("! -i lo -m mark --mark {} -m socket --transparent --nowildcard -j RETURN",
                  mark(kInboundMark)));
  if (!spec.capture_loopback) chain.rules.push_back("-i lo -j RETURN");
  leave_out(chain, spec, family, "-s");
  for (const IpPrefix& prefix : spec.exclude_cidrs) {
    // A caller on this host, left alone for the sake of where it goes.
    if (prefix.family() == family) {
      chain.rules.push_back(fmt::format("-d {} -i lo -j RETURN", prefix.text()));
    }
  }
  for (const Enrolled& workload : spec.workloads) {
    if (!concerns(workload, family)) continue;
    for (const std::string& ports : port_matches(workload.ports)) {
      chain.rules.push_back(fmt::format("{} {} {} {}", comes_to(workload), ports,
                                        comment("bypass inbound", workload.name), kReset));
    }
  }
  return chain;
}

OwnChain output_backstop(const Spec& spec, const HostFacts& facts, Family family) {
  OwnChain chain{"MESHNODE_OUTPUT", {with_own_mark() + " -j RETURN"}};
  chain.rules.push_back("-m conntrack --ctstate DNAT -j RETURN");
  leave_out(chain, spec, family, "-d");
  if (family == Family::kV6) chain.rules.push_back("-d fe80::/10 -j RETURN");
  chain.rules.push_back("-m addrtype --dst-type LOCAL -j RETURN");
  for (const Enrolled* workload : callers(spec, facts, family)) {
    chain.rules.push_back(fmt::format("{} {} {}", sends(*workload),
                                      comment("bypass outbound", workload->name), kReset));
  }
  return chain;
}

OwnTable filter(const Spec& spec, const HostFacts& facts, Family family) {
  OwnTable table{"filter", {}, {}};
  table.chains.push_back(input_backstop(spec, family));
  table.chains.push_back(output_backstop(spec, facts, family));
  table.jumps.push_back(jump("INPUT", kSyn, "MESHNODE_INPUT"));
  if (family == Family::kV6) {
    // 127.0.0.0/8 from outside is dropped by the kernel; our IPv6 prefix has no such rule.
    table.chains.push_back({"MESHNODE_PREFIX", {"-j DROP"}});
    table.jumps.push_back(jump("INPUT", fmt::format("-d {} ! -i lo", kPrefix6), "MESHNODE_PREFIX"));
  }
  table.jumps.push_back(jump("OUTPUT", kSyn, "MESHNODE_OUTPUT"));
  return table;
}

}  // namespace

bool HostFacts::exists(std::string_view path) const {
  return std::any_of(cgroups.begin(), cgroups.end(),
                     [&](const CgroupFact& fact) { return fact.path == path && fact.inode != 0; });
}

std::vector<std::string> waiting(const Spec& spec, const HostFacts& facts) {
  std::vector<std::string> names;
  for (const Enrolled& workload : spec.workloads) {
    if (!can_bind(workload, facts)) names.push_back(workload.name);
  }
  return names;
}

Ruleset rules(const Spec& spec, const HostFacts& facts, Family family) {
  return {raw(), mangle(spec, facts, family), nat(spec, facts, family),
          filter(spec, facts, family)};
}

Spec common(const Spec& a, const Spec& b) {
  Spec both;
  std::set_union(a.exclude_ports.begin(), a.exclude_ports.end(), b.exclude_ports.begin(),
                 b.exclude_ports.end(), std::back_inserter(both.exclude_ports));
  std::set_union(a.exclude_cidrs.begin(), a.exclude_cidrs.end(), b.exclude_cidrs.begin(),
                 b.exclude_cidrs.end(), std::back_inserter(both.exclude_cidrs));
  both.capture_loopback = a.capture_loopback && b.capture_loopback;
  both.preserve_source = a.preserve_source && b.preserve_source;
  for (const Enrolled& workload : a.workloads) {
    const auto same = std::find_if(b.workloads.begin(), b.workloads.end(), [&](const Enrolled& w) {
      return w.name == workload.name && w.owner == workload.owner;
    });
    if (same == b.workloads.end()) continue;
    Enrolled kept = workload;
    std::erase_if(kept.ports, [&](std::uint16_t port) {
      return std::find(same->ports.begin(), same->ports.end(), port) == same->ports.end();
    });
    both.workloads.push_back(std::move(kept));
  }
  return both;
}

Backstop backstop_of(std::string_view comment) {
  constexpr std::string_view kPrefix = "meshnode bypass ";
  if (!comment.starts_with(kPrefix)) return {};
  comment.remove_prefix(kPrefix.size());
  const std::size_t space = comment.find(' ');
  if (space == comment.npos) return {std::string(comment), {}};
  return {std::string(comment.substr(0, space)), std::string(comment.substr(space + 1))};
}

}  // namespace meshnode::capture
