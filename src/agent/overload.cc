#include "agent/overload.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <tuple>
#include <utility>

namespace meshnode::agent {
namespace {

std::uint64_t per_cent(std::uint64_t of, unsigned how_much) { return of / 100 * how_much; }

bool holds(bool before, const Hysteresis& at, std::uint64_t used, std::uint64_t limit) {
  return limit > 0 && used >= per_cent(limit, before ? at.ends : at.begins);
}

Reports::Condition memory_condition(const LoadReading& now) {
  return {"memory",
          fmt::format("the agent uses {} of the {} MiB it may: new connections are refused, and "
                      "at the limit, or if this lasts, those that keep the most are cut",
                      now.memory_used >> 20U, now.memory_limit >> 20U),
          "find out who opens so many connections or reads so slowly, or raise the Node's "
          "proxy.maxMemory",
          true};
}

Reports::Condition conntrack_condition(const LoadReading& now, bool shedding) {
  return {"conntrack",
          fmt::format("{} of the {} entries of the kernel's connection table are used{}; when it "
                      "is full, packets are dropped without a word",
                      now.conntrack_used, now.conntrack_limit,
                      shedding ? ": connections that need a further one are refused" : ""),
          "raise net.netfilter.nf_conntrack_max (a captured connection takes two entries), or "
          "find out with `conntrack -L` who holds so many",
          true};
}

}  // namespace

std::uint64_t total_of(const Holdings& holdings) {
  std::uint64_t total = 0;
  for (const auto& loop : holdings) {
    total = std::accumulate(loop.begin(), loop.end(), total);
  }
  return total;
}

std::vector<std::size_t> share_out(const Holdings& holdings, std::uint64_t octets) {
  std::vector<std::pair<std::size_t, std::size_t>> all;  // size, loop
  for (std::size_t loop = 0; loop < holdings.size(); ++loop) {
    for (const std::size_t size : holdings[loop]) {
      all.emplace_back(size, loop);
    }
  }
  std::sort(all.begin(), all.end(), std::greater<>());
  std::vector<std::size_t> shares(holdings.size());
  std::uint64_t freed = 0;
  for (const auto& [size, loop] : all) {
    if (freed >= octets) {
      break;
    }
    freed += size;
    shares[loop] += size;
  }
  return shares;
}

bool Overload::short_of_memory(const LoadReading& now) const {
  return holds(memory_, kShedMemory, now.memory_used, now.memory_limit);
}

Overload::Verdict Overload::look(const LoadReading& now) {
  const auto before = std::make_tuple(memory_, conntrack_told_, conntrack_);
  memory_ = short_of_memory(now);
  conntrack_told_ = holds(conntrack_told_, kTellConntrack, now.conntrack_used, now.conntrack_limit);
  conntrack_ = holds(conntrack_, kShedConntrack, now.conntrack_used, now.conntrack_limit);
  conditions_.clear();
  if (memory_) {
    conditions_.push_back(memory_condition(now));
  }
  if (conntrack_told_) {
    conditions_.push_back(conntrack_condition(now, conntrack_));
  }
  Verdict verdict;
  verdict.changed = before != std::make_tuple(memory_, conntrack_told_, conntrack_);
  verdict.shed = memory_      ? proxy::Shed::kMemory
                 : conntrack_ ? proxy::Shed::kConntrack
                              : proxy::Shed::kNothing;
  looks_ = memory_ ? looks_ + 1 : 0;
  if (looks_ >= kPatience) {
    looks_ = 0;
    verdict.cut = now.memory_used - per_cent(now.memory_limit, kShedMemory.ends);
  } else if (memory_ && now.memory_used >= now.memory_limit) {
    verdict.cut = now.memory_used - per_cent(now.memory_limit, kCutMemoryTo);
  }
  return verdict;
}

}  // namespace meshnode::agent
