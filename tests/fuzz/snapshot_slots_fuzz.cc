// Anything in place of the saved slots: refused whole, or kept and saved as the same. What a
// predecessor's rules say is taken over them, and no slot is ever given twice.

#include <set>

#include "fuzz/input.h"
#include "snapshot/slots.h"

using namespace meshnode;
using namespace meshnode::snapshot;
using fuzz::Input;
using fuzz::require;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  SlotTable table;
  if (!table.restore(as_text({data, size}))) {
    require(table.save() == SlotTable().save());
  }
  SlotTable again;
  require(again.restore(table.save()).has_value() && again.save() == table.save());

  Input in(data, size);
  std::map<WorkloadId, std::uint16_t> steered;
  std::vector<WorkloadId> workloads;
  for (std::size_t i = in.up_to(4); i > 0; --i) {
    workloads.push_back({"n", "w" + std::to_string(in.up_to(9))});
    if (in.flag()) steered[workloads.back()] = in.pair();
  }
  static_cast<void>(table.adopt(steered, in.pair()));
  require(table.assign(workloads).has_value());
  std::set<std::uint16_t> given;
  for (const WorkloadId& id : std::set<WorkloadId>(workloads.begin(), workloads.end())) {
    require(given.insert(table.slot(id)).second && table.slot(id) >= SlotTable::kFirst &&
            table.slot(id) <= SlotTable::kLast);
  }
  require(again.restore(table.save()).has_value() && again.save() == table.save());
  return 0;
}
