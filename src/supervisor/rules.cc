#include "supervisor/rules.h"

#include <set>
#include <utility>

#include "base/log.h"

namespace meshnode::supervisor {
namespace {

constexpr const char* kScope = "capture";

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

}  // namespace

Status Rules::recall() {
  auto found = capture::steered(kernel_);
  if (!found) return fail(found.error());
  std::map<std::uint16_t, std::set<std::string>> names;
  std::map<std::string, std::uint16_t> slots;
  for (const capture::Steered& each : *found) {
    names[each.slot].insert(each.workload);
    slots.emplace(each.workload, each.slot);
  }
  steering_ = {};
  for (const auto& [workload, slot] : slots) {
    // A slot of two names is a slot of none.
    if (names[slot].size() > 1 || steering_.slots.size() == capture::kMaxWorkloads) continue;
    steering_.slots.emplace(workload, slot);
  }
  if (!names.empty()) {
    const std::uint16_t last = names.rbegin()->first;
    steering_.next = last == capture::kMaxSlot ? 1 : static_cast<std::uint16_t>(last + 1);
  }
  return {};
}

void Rules::steer(const capture::Spec& all, std::uint16_t next_slot) {
  // What is wanted and not yet in force counts as well: slots in force mean the same in it, and
  // those it gives out anew are not given to others.
  steering_.next = next_slot;
  steering_.slots.clear();
  for (const capture::Enrolled& each : all.workloads) steering_.slots[each.name] = each.slot;
}

void Rules::want(capture::Spec spec) {
  if (!stale_ && wanted_ == spec) return;
  wanted_ = std::move(spec);
  stale_ = true;
}

bool Rules::refresh() {
  if (!wanted_) return false;
  const CaptureReport before = report_;
  const bool verifying = !stale_;
  auto now = bring_about();
  if (now) {
    stale_ = false;
    take_over(*now, verifying);
  } else {
    report_.ok = false;
    report_.error = now.error().message;
    // A verification that failed says nothing about what is in the kernel: apply again.
    stale_ = true;
    if (report_.error != before.error) {
      log::error(kScope, "rules are not in force", {{"where", where_}, {"error", report_.error}});
    }
  }
  return report_ != before;
}

Result<capture::Report> Rules::bring_about() {
  if (wanted_->workloads.empty() && !installed_) {
    if (!stale_) return capture::Report{};
    // Whatever an earlier run left behind serves no connection of this one.
    auto removed = applier_.remove();
    if (!removed) return fail(removed.error());
    if (!removed->empty()) {
      log::info(kScope, "rules of an earlier run removed", {{"removed", removed->size()}});
    }
    return capture::Report{};
  }
  if (!stale_) return applier_.verify_and_repair();
  auto applied = applier_.apply(*wanted_);
  if (applied) {
    installed_ = true;
    log::info(kScope, "rules applied",
              {{"where", where_},
               {"workloads", wanted_->workloads.size()},
               {"waiting", applied->waiting.size()},
               {"ipv4", applied->v4},
               {"ipv6", applied->v6}});
  }
  return applied;
}

void Rules::take_over(const capture::Report& now, bool verified) {
  report_.ok = true;
  report_.error.clear();
  report_.v4 = now.v4;
  report_.v6 = now.v6;
  report_.conflicts = now.conflicts;
  report_.waiting = now.waiting;
  if (verified && !now.repaired.empty()) {
    report_.repaired += 1;
    report_.last_repair = joined(now.repaired);
    log::warn(kScope, "rules had gone missing and were put back",
              {{"where", where_},
               {"differences", now.repaired.size()}, {"first", now.repaired.front()}});
  }
  report_.bypass.clear();
  report_.bypass_by_workload.clear();
  for (const auto& hit : applier_.counters()) {
    if (hit.packets == 0) continue;
    report_.bypass[hit.reason] += hit.packets;
    if (!hit.workload.empty()) report_.bypass_by_workload[hit.workload] += hit.packets;
  }
}

Status Rules::release() {
  if (!installed_) return {};
  auto applied = applier_.apply({});
  if (!applied) return fail(applied.error());
  return {};
}

Status Rules::remove() {
  auto removed = applier_.remove();
  if (!removed) return fail(removed.error());
  log::info(kScope, "rules removed", {{"where", where_}, {"removed", removed->size()}});
  return {};
}

}  // namespace meshnode::supervisor
