// Anything in place of what iptables-save prints: refused, or turned into a text that changes only
// what is ours, that the packet filter takes, and that leaves nothing to change.

#include <meshnode/bytes.h>

#include "capture/fake_kernel.h"
#include "capture/restore.h"
#include "capture/spec.h"
#include "fuzz/input.h"

using namespace meshnode::capture;
using meshnode::fuzz::require;

namespace {

/// Every line of the text names a chain of ours, or a rule that leads to one.
void require_ours_only(std::string_view text) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    require(end != text.npos);
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    if (line.starts_with("*") || line == "COMMIT") continue;
    require(line.find(kChainPrefix) != line.npos);
  }
}

/// The rules that are not ours, in their order.
std::vector<std::string> foreign(const Saved& saved) {
  std::vector<std::string> rules;
  for (const Table& table : saved.tables) {
    for (const Chain& chain : table.chains) {
      if (is_ours(chain.name)) continue;
      for (const Rule& rule : chain.rules) {
        if (jumps_to_ours(rule.text)) continue;
        rules.push_back(table.name + " " + chain.name + " " + rule.text);
      }
    }
  }
  return rules;
}

/// Restores over `saved` what is wanted, as the packet filter would.
void require_restores(const Saved& saved, const Ruleset& wanted) {
  meshnode::capture::test::FakeKernel kernel;
  kernel.filter("iptables") = saved;
  const std::string text = restore_text(saved, wanted);
  require(kernel.run({"iptables-restore"}, text)->exit_code == 0);
  const Saved& now = kernel.filter("iptables");
  require(differences(now, wanted).empty());
  require(foreign(now) == foreign(saved));
  require(adopt(now, wanted).has_value());
  // What the packet filter prints is read as the same.
  const auto printed = parse_save(test::FakeKernel::print(now));
  require(printed && printed->tables == now.tables);
}

bool has_chains_of(const Saved& saved, const Ruleset& wanted) {
  for (const OwnTable& table : wanted) {
    const Table* there = saved.find(table.name);
    for (const Jump& jump : table.jumps) {
      if (there == nullptr || there->find(jump.chain) == nullptr) return false;
    }
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto saved = parse_save(meshnode::as_text({data, size}));
  if (!saved) return 0;
  static const Ruleset kWanted = {
      {"nat",
       {{"MESHNODE_A", {"-j RETURN"}}, {"MESHNODE_B", {"-p tcp -j MESHNODE_A", "-j RETURN"}}},
       {{"OUTPUT", "-j MESHNODE_A", true}, {"INPUT", "-j MESHNODE_B", false}}}};
  require_ours_only(restore_text(*saved, kWanted));
  require_ours_only(restore_text(*saved, kWanted, true));
  require_ours_only(restore_text(*saved, {}));
  require(restore_text(*saved, kWanted).empty() == differences(*saved, kWanted).empty());
  require(restore_text(*saved, own_part(*saved)).empty());
  static_cast<void>(adopt(*saved, kWanted));
  require_restores(*saved, {});
  if (has_chains_of(*saved, kWanted)) require_restores(*saved, kWanted);
  for (const Steered& each : steered(*saved)) {
    require(each.slot >= 1 && each.slot <= kMaxSlot && is_workload_name(each.workload));
  }
  require(agent_of(*saved).size() <= size);
  const auto ours = parse_save(show_ours(*saved));
  require(!ours || show_ours(*ours) == show_ours(*saved));
  return 0;
}
