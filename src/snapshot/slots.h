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

  /// A line "next K", then a line "K namespace/name" each.
  std::string save() const;
  /// kInvalid, and nothing changes, when the text is not of save()'s form.
  Status restore(std::string_view saved);

 private:
  std::map<WorkloadId, std::uint16_t> slots_;
  std::uint16_t next_ = kFirst;
};

}  // namespace meshnode::snapshot
