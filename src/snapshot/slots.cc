#include "snapshot/slots.h"

#include <fmt/format.h>
#include <charconv>
#include <optional>
#include <set>

namespace meshnode::snapshot {
namespace {

std::uint16_t after(std::uint16_t slot) {
  return slot >= SlotTable::kLast ? SlotTable::kFirst : static_cast<std::uint16_t>(slot + 1);
}

std::optional<std::uint16_t> parse_slot(std::string_view text) {
  std::uint16_t slot = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), slot);
  if (error != std::errc{} || end != text.data() + text.size()) return {};
  if (slot < SlotTable::kFirst || slot > SlotTable::kLast) return {};
  return slot;
}

std::string_view take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

std::optional<WorkloadId> parse_id(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return {};
  const std::string_view ns = text.substr(0, slash);
  const std::string_view name = text.substr(slash + 1);
  if (!is_dns_label(ns) || !is_dns_label(name)) return {};
  return WorkloadId{std::string(ns), std::string(name)};
}

}  // namespace

Status SlotTable::assign(const std::vector<WorkloadId>& workloads) {
  const std::set<WorkloadId> wanted(workloads.begin(), workloads.end());
  if (wanted.size() > kLast - kFirst + 1U) {
    return fail(ErrorCode::kLimit, fmt::format("{} workloads on one node, at most {} are possible",
                                               wanted.size(), kLast - kFirst + 1));
  }
  std::set<std::uint16_t> used;
  for (auto it = slots_.begin(); it != slots_.end();) {
    if (wanted.count(it->first) == 0) {
      it = slots_.erase(it);
    } else {
      used.insert(it->second);
      ++it;
    }
  }
  for (const WorkloadId& id : wanted) {
    if (slots_.count(id) != 0) continue;
    while (used.count(next_) != 0) next_ = after(next_);
    slots_.emplace(id, next_);
    used.insert(next_);
    next_ = after(next_);
  }
  return {};
}

std::uint16_t SlotTable::slot(const WorkloadId& workload) const {
  const auto it = slots_.find(workload);
  return it == slots_.end() ? std::uint16_t{0} : it->second;
}

Status SlotTable::adopt(const std::map<WorkloadId, std::uint16_t>& steered, std::uint16_t next) {
  std::set<std::uint16_t> taken;
  for (const auto& [id, slot] : steered) {
    if (slot < kFirst || slot > kLast || !taken.insert(slot).second) {
      return fail(ErrorCode::kInvalid,
                  fmt::format("slot {} of {} is out of range or given twice", slot, id.text()));
    }
  }
  if (next > kLast) return fail(ErrorCode::kInvalid, fmt::format("slot {} is none", next));
  std::erase_if(slots_, [&](const auto& entry) { return taken.count(entry.second) != 0; });
  for (const auto& [id, slot] : steered) slots_.insert_or_assign(id, slot);
  // The later of the two, as serial numbers go (RFC 1982): an old table gives out used slots.
  const unsigned ahead = (unsigned{kLast} + next - next_) % kLast;
  if (next != 0 && ahead <= kLast / 2U) next_ = next;
  return {};
}

std::string SlotTable::save() const {
  std::string out = fmt::format("next {}\n", next_);
  for (const auto& entry : slots_) out += fmt::format("{} {}\n", entry.second, entry.first.text());
  return out;
}

Status SlotTable::restore(std::string_view saved) {
  static constexpr std::string_view kNext = "next ";
  std::map<WorkloadId, std::uint16_t> slots;
  std::set<std::uint16_t> used;
  const std::string_view head = take_line(saved);
  const auto next = head.substr(0, kNext.size()) == kNext ? parse_slot(head.substr(kNext.size()))
                                                          : std::optional<std::uint16_t>();
  if (!next) return fail(ErrorCode::kInvalid, "saved slots: the first line is not 'next K'");
  for (unsigned number = 2; !saved.empty(); ++number) {
    const std::string_view line = take_line(saved);
    const std::size_t blank = line.find(' ');
    const auto slot = parse_slot(line.substr(0, blank));
    const auto id = blank == std::string_view::npos ? std::optional<WorkloadId>()
                                                    : parse_id(line.substr(blank + 1));
    if (!slot || !id || !used.insert(*slot).second || !slots.emplace(*id, *slot).second) {
      return fail(ErrorCode::kInvalid,
                  fmt::format("saved slots: line {} is not 'K namespace/name', or repeats another",
                              number));
    }
  }
  slots_ = std::move(slots);
  next_ = *next;
  return {};
}

}  // namespace meshnode::snapshot
