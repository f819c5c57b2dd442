// Anything in place of what iptables-save prints: refused, or turned into a text that changes only
// what is ours and leaves nothing to change.

#include <meshnode/bytes.h>
#include <cstdlib>

#include "capture/restore.h"
#include "capture/spec.h"

using namespace meshnode::capture;

namespace {

void require(bool held) {
  if (!held) std::abort();
}

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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto saved = parse_save(meshnode::as_text({data, size}));
  if (!saved) return 0;
  static const Ruleset kWanted = {
      {"nat",
       {{"MESHNODE_A", {"-j RETURN"}}},
       {{"OUTPUT", "-j MESHNODE_A", true}, {"INPUT", "-j MESHNODE_A", false}}}};
  require_ours_only(restore_text(*saved, kWanted));
  require_ours_only(restore_text(*saved, {}));
  require(restore_text(*saved, kWanted).empty() == differences(*saved, kWanted).empty());
  require(restore_text(*saved, own_part(*saved)).empty());
  (void)adopt(*saved, kWanted);
  for (const Steered& each : steered(*saved)) {
    require(each.slot >= 1 && each.slot <= kMaxSlot && is_workload_name(each.workload));
  }
  (void)show_ours(*saved);
  return 0;
}
