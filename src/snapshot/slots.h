#pragma once
/// Which capture slot each workload has: k of 127.15.0.k (design §6). A workload keeps its slot
/// across restarts and reloads, since connections in the listeners' queues carry it. Thread: one.

#include <meshnode/ids.h>
#include <meshnode/result.h>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace meshnode::snapshot {

class SlotTable {
 public:
  static constexpr std::uint16_t kFirst = 1;
  static constexpr std::uint16_t kLast = 65'000;

  /// Gives every workload a slot and takes the slots of all others back. A slot that was taken
  /// back comes round again only after every other free one has. kLimit, and nothing changes, when
  /// there are more workloads than slots.
  Status assign(const std::vector<WorkloadId>& workloads);
  /// 0 when the workload has none.
  std::uint16_t slot(const WorkloadId& workload) const;

  /// What the kernel steers by wins over what the table says: a workload gets the slot it has
  /// there, and another that claims that slot gets a new one. `next`: of the table whose slots
  /// these are; 0 when not known. kInvalid, and nothing changes, for a slot out of range or given
  /// twice.
  Status adopt(const std::map<WorkloadId, std::uint16_t>& steered, std::uint16_t next);
  /// The slot that the next new workload gets, if it is free.
  std::uint16_t next() const { return next_; }

  /// A line "next K", then a line "K namespace/name" each.
  std::string save() const;
  /// kInvalid, and nothing changes, when the text is not of save()'s form.
  Status restore(std::string_view saved);

 private:
  std::map<WorkloadId, std::uint16_t> slots_;
  std::uint16_t next_ = kFirst;
};

}  // namespace meshnode::snapshot
