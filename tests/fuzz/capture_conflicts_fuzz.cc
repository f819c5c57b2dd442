// Rules of others, made here with what they mean, or printed in any words: every one that capture
// cannot work with is told, nothing else, and never more than the bound.

#include <meshnode/bytes.h>

#include "capture/conflicts.h"
#include "fuzz/input.h"

using namespace meshnode;
using namespace meshnode::capture;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::uint16_t kExcluded = 9100;

Spec wanted() {
  Spec spec;
  spec.workloads = {{"shop/web", 1, ByUser{1000}, {80, 8080, kExcluded}},
                    {"shop/db", 2, ByUser{1001}, {5432}}};
  spec.exclude_ports = {kExcluded};
  return spec;
}

struct Ports {
  const char* text;
  std::size_t declared;  // of wanted(), but for the excluded one
};
constexpr Ports kPorts[] = {{"80", 1},          {"81", 0},   {"79:81", 1},  {"1:65535", 3},
                            {"22,80,8080", 2},  {"9100", 0}, {"x", 0},      {"80x", 0},
                            {"5000:6000,1", 1}, {"", 0},     {"90:70", 0},  {"99999999999", 0},
                            {"80:", 0},         {":90", 0},  {",,5432", 1}, {"80-90", 0}};

struct Made {
  std::string rule;
  std::size_t lines = 0;  // told of it
};

Made in_raw(Input& in, bool tcp, const std::string& chain) {
  const bool out = chain != "PREROUTING";
  switch (in.up_to(5)) {
    case 0:
      return {"-j NOTRACK", out && tcp ? 1U : 0U};
    case 1:
      return {"-j CT --notrack", out && tcp ? 1U : 0U};
    case 2:
      return {"-j CT --zone 5", out && tcp ? 1U : 0U};
    case 3:
      return {"-j CT --helper ftp", 0};
    case 4:
      return {"-m comment --comment \"-j NOTRACK\" -j ACCEPT", 0};
    default:
      return {"-j CT --zone-orig 5 --notrack", out && tcp ? 2U : 0U};
  }
}

Made in_nat(Input& in, bool tcp, const std::string& chain) {
  const Ports& ports = kPorts[in.up_to(std::size(kPorts) - 1)];
  const bool several = in.flag();
  const std::string match =
      std::string(several ? "-m multiport --dports " : "--dport ") + ports.text + " ";
  const bool counts = tcp && chain != "OUTPUT";
  switch (in.up_to(3)) {
    case 0:
      return {match + "-j DNAT --to-destination 10.0.0.9:80", counts ? ports.declared : 0};
    case 1:
      return {match + "-j REDIRECT --to-ports 3128", counts ? ports.declared : 0};
    case 2:
      return {match + "-j ACCEPT", 0};
    default:
      return {"-j DNAT --to-destination 10.0.0.9", 0};
  }
}

/// Tables whose conflicts are known.
Saved make_saved(Input& in, std::size_t& lines) {
  Saved saved;
  saved.other_backend = in.flag();
  lines = saved.other_backend ? 1 : 0;
  for (const std::string table : {"raw", "nat", "filter"}) {
    Table& into = saved.tables.emplace_back(Table{table, {}});
    for (std::size_t i = in.up_to(3); i > 0; --i) {
      const auto chain =
          in.one_of<std::string>({"PREROUTING", "OUTPUT", "MINE", "MESHNODE_OUTPUT"});
      Chain& rules = into.chains.emplace_back(Chain{chain, {}});
      for (std::size_t left = in.up_to(40); left > 0; --left) {
        const auto protocol = in.one_of<std::string>({"-p tcp ", "", "-p udp ", "-p 6 ", "-p 17 "});
        const bool tcp = protocol != "-p udp " && protocol != "-p 17 ";
        const Made made = table == "raw" ? in_raw(in, tcp, chain) : in_nat(in, tcp, chain);
        rules.rules.push_back({protocol + made.rule, 0});
        if (table != "filter" && !is_ours(chain)) lines += made.lines;
      }
    }
  }
  return saved;
}

void require_bounded(const std::vector<std::string>& lines, Family family) {
  require(lines.size() <= kMaxConflicts);
  for (const std::string& line : lines) {
    require(line.starts_with(family == Family::kV4 ? "iptables " : "ip6tables "));
    require(line.find(": ") != line.npos && line.find('\n') == line.npos);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  const Spec spec = wanted();
  const Family family = (size & 1) != 0 ? Family::kV4 : Family::kV6;
  if (in.octet() == 1) {
    std::size_t expected = 0;
    const Saved saved = make_saved(in, expected);
    const auto lines = conflicts(saved, spec, family);
    require_bounded(lines, family);
    require(lines.size() == std::min(expected, kMaxConflicts));
    return 0;
  }
  const auto saved = parse_save(as_text({data, size}));
  if (!saved) return 0;
  const auto lines = conflicts(*saved, spec, family);
  require_bounded(lines, family);
  // Chains of ours do not count.
  Saved others = *saved;
  for (Table& table : others.tables) {
    std::erase_if(table.chains, [](const Chain& chain) { return is_ours(chain.name); });
  }
  require(conflicts(others, spec, family) == lines);
  return 0;
}
