#include "telemetry/problems.h"

#include <algorithm>
#include <tuple>

namespace meshnode::telemetry {
namespace {

// Room is made for many at once, so that a flood of strangers costs little each.
constexpr std::size_t kMakeRoom = ProblemLog::kMaxProblems / 10;

// Cut between characters, so that UTF-8 stays UTF-8.
std::string bounded(std::string_view text) {
  std::size_t end = std::min(text.size(), ProblemLog::kMaxText);
  while (end < text.size() && end > 0 && (static_cast<unsigned>(text[end]) & 0xc0U) == 0x80) --end;
  return std::string(text.substr(0, end));
}

}  // namespace

void ProblemLog::report(const ProblemReport& report, WallTime now) {
  std::lock_guard lock(mutex_);
  Key key(bounded(report.code), bounded(report.object));
  auto found = problems_.find(key);
  if (found == problems_.end()) {
    if (problems_.size() >= kMaxProblems) expire(now);
    if (problems_.size() >= kMaxProblems && !make_room(report.degrades)) {
      ++lost_;
      return;
    }
    found = problems_.try_emplace(std::move(key)).first;
    found->second.first_seen = now;
  }
  Problem& problem = found->second;
  problem.code = found->first.first;
  problem.object = found->first.second;
  problem.message = bounded(report.message);
  problem.hint = bounded(report.hint);
  problem.active = report.lasting;
  problem.degrades = report.degrades;
  problem.last_seen = now;
  ++problem.count;
}

void ProblemLog::clear(std::string_view code, std::string_view object, WallTime now) {
  std::lock_guard lock(mutex_);
  auto found = problems_.find(Key(bounded(code), bounded(object)));
  if (found == problems_.end() || !found->second.active) return;
  found->second.active = false;
  found->second.degrades = false;
  found->second.last_seen = now;
}

void ProblemLog::retain(std::string_view code, const std::vector<std::string>& objects,
                        WallTime now) {
  std::vector<std::string> kept;
  kept.reserve(objects.size());
  for (const std::string& object : objects) kept.push_back(bounded(object));
  std::sort(kept.begin(), kept.end());
  std::lock_guard lock(mutex_);
  for (auto& [key, problem] : problems_) {
    if (key.first != code || !problem.active) continue;
    if (std::binary_search(kept.begin(), kept.end(), key.second)) continue;
    problem.active = false;
    problem.degrades = false;
    problem.last_seen = now;
  }
}

std::vector<Problem> ProblemLog::snapshot(WallTime now) {
  std::lock_guard lock(mutex_);
  expire(now);
  std::vector<Problem> out;
  out.reserve(problems_.size());
  for (const auto& [key, problem] : problems_) {
    out.push_back(problem);
    // A condition is seen for as long as it lasts.
    if (problem.active) out.back().last_seen = std::max(now, problem.last_seen);
  }
  std::stable_sort(out.begin(), out.end(), [](const Problem& a, const Problem& b) {
    return std::tie(b.active, b.degrades, b.last_seen) <
           std::tie(a.active, a.degrades, a.last_seen);
  });
  return out;
}

std::size_t ProblemLog::degrading(WallTime now) {
  std::lock_guard lock(mutex_);
  expire(now);
  return static_cast<std::size_t>(std::count_if(
      problems_.begin(), problems_.end(), [](const auto& entry) { return entry.second.degrades; }));
}

std::uint64_t ProblemLog::lost() const {
  std::lock_guard lock(mutex_);
  return lost_;
}

void ProblemLog::expire(WallTime now) {
  std::erase_if(problems_, [&](const auto& entry) {
    return !entry.second.active && now - entry.second.last_seen > kKept;
  });
}

bool ProblemLog::make_room(bool for_degrading) {
  std::vector<std::tuple<bool, WallTime, const Key*>> candidates;
  for (const auto& [key, problem] : problems_) {
    if (problem.active || (problem.degrades && !for_degrading)) continue;
    candidates.emplace_back(problem.degrades, problem.last_seen, &key);
  }
  std::size_t count = std::min(candidates.size(), kMakeRoom);
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count),
                    candidates.end());
  for (std::size_t i = 0; i < count; ++i) problems_.erase(*std::get<2>(candidates[i]));
  return count > 0;
}

}  // namespace meshnode::telemetry
