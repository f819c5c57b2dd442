#include "telemetry/observed.h"

#include <algorithm>
#include <utility>

namespace meshnode::telemetry {

std::unique_ptr<Observed::Open> Observed::admitted(const Call& call) {
  const WallTime now = now_();
  const std::lock_guard<std::mutex> lock(mutex_);
  Seen* seen = at(call, now);
  if (seen == nullptr) return nullptr;
  ++seen->admitted;
  ++seen->open;
  return std::make_unique<Open>(*this, call);
}

void Observed::denied(const Call& call) {
  const WallTime now = now_();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (Seen* seen = at(call, now)) ++seen->denied;
}

Observed::Seen* Observed::at(const Call& call, WallTime now) {
  auto found = calls_.find(call);
  if (found == calls_.end()) {
    if (calls_.size() >= kMaxCalls && !make_room()) {
      ++forgotten_;
      return nullptr;
    }
    found = calls_.emplace(call, Seen{0, 0, 0, now, now}).first;
  }
  found->second.last = now;
  return &found->second;
}

/// A tenth at once: to look through all of them is not for every connection.
bool Observed::make_room() {
  std::vector<std::pair<WallTime, const Call*>> over;
  for (const auto& [call, seen] : calls_) {
    if (seen.open == 0) over.emplace_back(seen.last, &call);
  }
  const std::size_t count = std::min(over.size(), kMaxCalls / 10);
  std::partial_sort(over.begin(), over.begin() + static_cast<std::ptrdiff_t>(count), over.end());
  for (std::size_t i = 0; i < count; ++i) calls_.erase(calls_.find(*over[i].second));
  forgotten_ += count;
  return count > 0;
}

void Observed::ended(const Call& call) {
  const WallTime now = now_();
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = calls_.find(call);
  if (found == calls_.end()) return;
  --found->second.open;
  found->second.last = now;
}

std::vector<ObservedCall> Observed::calls(WallTime since) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ObservedCall> out;
  for (const auto& [call, seen] : calls_) {
    if (seen.open == 0 && seen.last < since) continue;
    out.push_back({call, seen.admitted, seen.denied, seen.open, seen.first, seen.last});
  }
  return out;
}

std::uint64_t Observed::forgotten() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return forgotten_;
}

}  // namespace meshnode::telemetry
