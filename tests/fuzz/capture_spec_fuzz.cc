// What a taken-over worker may ask the supervisor to capture: whatever decodes is within the
// bounds, survives another round, and becomes rules in which no text of its own can be more than a
// name. The first octet says how the input is read: as a spec's values, as faults in a valid spec's
// text, or, anything else included, as the text itself.

#include <meshnode/bytes.h>

#include "capture/rules.h"
#include "capture/save.h"
#include "fuzz/capture_specs.h"
#include "fuzz/json_faults.h"

using namespace meshnode::capture;
using meshnode::fuzz::Input;
using meshnode::fuzz::require;

namespace {

/// Where what is ours passes over lo before others have a say.
bool passes_first(std::string_view chain) {
  return chain == "MESHNODE_RAW" || chain == "MESHNODE_POSTROUTING";
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
                target == "MARK" || target == "DROP" || is_ours(target) ||
                (target == "ACCEPT" && passes_first(chain.name)));
      }
    }
  }
  require(!restore_text({}, all).empty());
}

void try_rules(const Spec& spec) {
  for (const meshnode::Family family : {meshnode::Family::kV4, meshnode::Family::kV6}) {
    try_rules(of_host(spec), family);
    for (const Enrolled& workload : spec.workloads) {
      if (std::holds_alternative<ByNamespace>(workload.owner)) {
        try_rules(of_namespace(spec, workload), family);
        break;
      }
    }
  }
}

void try_text(std::string_view text) {
  const auto spec = decode(text);
  if (!spec) return;
  require(check(*spec).has_value());
  const auto again = decode(encode(*spec));
  require(again.has_value() && *again == *spec);
  try_rules(*spec);
}

void try_values(Input& in) {
  const bool valid = in.flag();
  const Spec spec = meshnode::fuzz::make_spec(in, valid);
  const bool accepted = check(spec).has_value();
  require(accepted || !valid);
  const auto again = decode(encode(spec));
  require(!accepted || (again.has_value() && *again == spec));
  if (!again) return;
  try_rules(*again);
  for (const Enrolled& workload : again->workloads) {
    require(slot_of(capture_address(meshnode::Family::kV4, workload.slot)) == workload.slot);
    require(slot_of(capture_address(meshnode::Family::kV6, workload.slot)) == workload.slot);
  }
}

void try_faults(Input& in) {
  const std::string text = encode(meshnode::fuzz::make_spec(in, true));
  const std::vector<std::size_t> values = meshnode::fuzz::json_values(text);
  if (values.size() > 300) return;
  for (const std::size_t value : values) {
    for (const std::string_view fault : meshnode::fuzz::kJsonFaults) {
      try_text(meshnode::fuzz::with_fault(text, value, fault));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  switch (in.octet()) {
    case 1:
      try_values(in);
      break;
    case 2:
      try_faults(in);
      break;
    case 3: {
      const meshnode::Bytes address = in.take(16);
      if (address.size() < 16) break;
      std::array<std::uint8_t, 16> raw{};
      std::copy(address.begin(), address.end(), raw.begin());
      const auto ip = meshnode::IpAddress::v6(raw);
      if (const auto slot = slot_of(ip)) require(capture_address(ip.family(), *slot) == ip);
      break;
    }
    default:
      try_text(meshnode::as_text({data, size}));
  }
  return 0;
}
