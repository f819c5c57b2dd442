// What a taken-over worker may ask the supervisor to capture: whatever decodes is within the
// bounds, survives another round, and becomes rules in which no text of its own can be more than a
// name.

#include <cstdlib>
#include <meshnode/bytes.h>

#include "capture/rules.h"
#include "capture/save.h"

using namespace meshnode::capture;

namespace {

void require(bool held) {
  if (!held) std::abort();
}

void try_rules(const Spec& spec, meshnode::Family family) {
  HostFacts facts;
  for (const Enrolled& workload : spec.workloads) {
    if (const auto* cgroup = std::get_if<ByCgroup>(&workload.owner)) {
      facts.cgroups.push_back({cgroup->path, 1});
    }
  }
  const Ruleset all = rules(spec, facts, family);
  for (const OwnTable& table : all) {
    for (const OwnChain& chain : table.chains) {
      for (const std::string& rule : chain.rules) {
        require(rule.find('\n') == rule.npos);
        require(rule.size() < kMaxSaveLine);
        const std::string target = target_of(rule);
        require(target.empty() || target == "RETURN" || target == "REJECT" || target == "DNAT" ||
                target == "REDIRECT" || target == "TPROXY" || target == "CONNMARK" ||
                target == "MARK" || target == "DROP" || is_ours(target));
      }
    }
  }
  require(!restore_text({}, all).empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto spec = decode(meshnode::as_text({data, size}));
  if (!spec) return 0;
  require(check(*spec).has_value());
  const auto again = decode(encode(*spec));
  require(again.has_value() && *again == *spec);
  try_rules(*spec, meshnode::Family::kV4);
  try_rules(*spec, meshnode::Family::kV6);
  return 0;
}
