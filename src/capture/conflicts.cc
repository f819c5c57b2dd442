#include "capture/conflicts.h"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>
#include <optional>

namespace meshnode::capture {
namespace {

/// The word after `option`, as iptables-save prints it; empty without one.
std::string_view value_of(std::string_view rule, std::string_view option) {
  const std::string padded = fmt::format(" {} ", option);
  std::size_t at = rule.find(padded);
  if (at == rule.npos) {
    if (!rule.starts_with(padded.substr(1))) return {};
    at = 0;
  } else {
    ++at;
  }
  rule.remove_prefix(at + option.size() + 1);
  return rule.substr(0, rule.find(' '));
}

bool concerns_tcp(std::string_view rule) {
  const std::string_view protocol = value_of(rule, "-p");
  return protocol.empty() || protocol == "tcp" || protocol == "6";
}

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return {};
  return value;
}

/// Whether a port list of --dport or --dports, "80", "80:90" or "80,90:99", has the port.
bool lists(std::string_view ports, unsigned port) {
  while (!ports.empty()) {
    const std::string_view item = ports.substr(0, ports.find(','));
    const std::size_t colon = item.find(':');
    const auto from = number(item.substr(0, colon));
    const auto to = colon == item.npos ? from : number(item.substr(colon + 1));
    if (from && to && *from <= port && port <= *to) return true;
    ports.remove_prefix(std::min(item.size() + 1, ports.size()));
  }
  return false;
}

bool untracks(std::string_view rule) {
  const std::string target = target_of(rule);
  return target == "NOTRACK" || (target == "CT" && rule.find(" --notrack") != rule.npos);
}

/// Steering leads a connection over lo, where our part of it has no zone or another.
bool zones(std::string_view rule) {
  return target_of(rule) == "CT" && rule.find(" --zone") != rule.npos;
}

bool excluded(const Spec& spec, std::uint16_t port) {
  return std::find(spec.exclude_ports.begin(), spec.exclude_ports.end(), port) !=
         spec.exclude_ports.end();
}

class Finder {
 public:
  Finder(const Spec& spec, Family family)
      : spec_(spec), program_(family == Family::kV4 ? "iptables" : "ip6tables") {}

  void look_at(const Saved& saved) {
    if (saved.other_backend) {
      add(
          fmt::format("{} backend: the other one of iptables-nft and iptables-legacy holds tables "
                      "too; packets pass both, and only the rules of `{}` are looked after",
                      program_, program_));
    }
    for (const Table& table : saved.tables) {
      for (const Chain& chain : table.chains) {
        if (!is_ours(chain.name)) look_at(table.name, chain);
      }
    }
  }
  std::vector<std::string> take() { return std::move(lines_); }

 private:
  void look_at(const std::string& table, const Chain& chain) {
    for (const Rule& rule : chain.rules) {
      if (!concerns_tcp(rule.text)) continue;
      // What comes in is steered without tracking.
      if (table == "raw" && chain.name != "PREROUTING" && untracks(rule.text)) {
        add(
            fmt::format("{} raw {}: `{}` takes connections out of tracking; those that are to be "
                        "captured among them are refused, and over lo tunnels end in a timeout",
                        program_, chain.name, rule.text));
      }
      if (table == "raw" && chain.name != "PREROUTING" && zones(rule.text)) {
        add(
            fmt::format("{} raw {}: `{}` gives what leaves a tracking zone; captured connections "
                        "among it end in a timeout",
                        program_, chain.name, rule.text));
      }
      // In OUTPUT ours come first.
      if (table == "nat" && chain.name != "OUTPUT") look_at_translation(chain.name, rule.text);
    }
  }

  void look_at_translation(const std::string& chain, const std::string& rule) {
    const std::string target = target_of(rule);
    if (target != "DNAT" && target != "REDIRECT") return;
    for (const Enrolled& workload : spec_.workloads) {
      for (const std::uint16_t port : workload.ports) {
        if (excluded(spec_, port)) continue;
        if (!lists(value_of(rule, "--dport"), port) && !lists(value_of(rule, "--dports"), port)) {
          continue;
        }
        add(
            fmt::format("{} nat {} port {}: `{}` sends elsewhere what {} declares; connections "
                        "from other hosts that it matches are dropped",
                        program_, chain, port, rule, workload.name));
      }
    }
  }

  void add(std::string line) {
    if (lines_.size() < kMaxConflicts) lines_.push_back(std::move(line));
  }

  const Spec& spec_;
  std::string program_;
  std::vector<std::string> lines_;
};

}  // namespace

std::vector<std::string> conflicts(const Saved& saved, const Spec& spec, Family family) {
  Finder finder(spec, family);
  finder.look_at(saved);
  return finder.take();
}

}  // namespace meshnode::capture
