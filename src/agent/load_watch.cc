#include "agent/load_watch.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "base/log.h"

namespace meshnode::agent {
namespace {

// A peer may bring 60 MB in this time as well, from half of the limit on.
constexpr Duration kLoadEvery = std::chrono::milliseconds(125);
// Near a limit: 10 Gbit/s for programs that do not read are 25 MB in this time, and 50,000 new
// connections a second 2,000 entries.
constexpr Duration kLoadEveryWhenNear = std::chrono::milliseconds(20);
// A walk over all heaps, with each locked in turn.
constexpr Duration kGiveBackEvery = std::chrono::milliseconds(100);
// Sooner when so large a part of the limit was taken since: that is no memory freed before.
constexpr std::uint64_t kGrowth = 16;
constexpr std::uint64_t kMaxFile = 64 * 1024;
constexpr unsigned kShare = 4;
// A quarter of a small machine would not hold the agent itself.
constexpr std::uint64_t kLeastMemory = std::uint64_t{64} << 20U;
const char* const kCgroups = "/sys/fs/cgroup";

bool half_used(std::uint64_t used, std::uint64_t limit) { return limit > 0 && 2 * used >= limit; }

std::optional<std::uint64_t> number(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end != text.data() ? std::optional(value) : std::nullopt;
}

std::uint64_t number_in(const Storage& storage, const std::string& path) {
  const auto text = storage.read(path, kMaxFile);
  return text ? number(*text).value_or(0) : 0;
}

/// proc_pid_statm(5): size, resident and shared pages.
std::uint64_t private_memory(const Storage& storage) {
  const auto text = storage.read("/proc/self/statm", kMaxFile);
  if (!text) {
    return 0;
  }
  const std::size_t resident = text->find(' ');
  const std::size_t shared = text->find(' ', resident + 1);
  if (resident == std::string::npos || shared == std::string::npos) {
    return 0;
  }
  const std::string_view all = *text;
  const std::uint64_t pages = number(all.substr(resident)).value_or(0);
  const std::uint64_t not_ours = number(all.substr(shared)).value_or(0);
  return (pages - std::min(pages, not_ours)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::uint64_t machine_memory(const Storage& storage) {
  constexpr std::string_view kKey = "MemTotal:";
  const auto text = storage.read("/proc/meminfo", kMaxFile);
  const std::size_t at = text ? text->find(kKey) : std::string::npos;
  if (at == std::string::npos) {
    return 0;
  }
  return number(std::string_view(*text).substr(at + kKey.size())).value_or(0) * 1024;
}

/// The least memory.max of the process's cgroup and those above it; 0 without one.
std::uint64_t cgroup_memory(const Storage& storage) {
  constexpr std::string_view kKey = "0::/";
  const auto text = storage.read("/proc/self/cgroup", kMaxFile);
  const std::size_t at = !text                     ? std::string::npos
                         : text->starts_with(kKey) ? 0
                                                   : text->find("\n0::/");
  if (at == std::string::npos) {
    return 0;
  }
  std::string path = text->substr(text->find('/', at));
  path.erase(std::min(path.find('\n'), path.size()));
  std::uint64_t least = 0;
  for (; path.size() > 1; path.erase(path.rfind('/'))) {
    const std::uint64_t max = number_in(storage, kCgroups + path + "/memory.max");
    if (max > 0 && (least == 0 || max < least)) {
      least = max;
    }
  }
  return least;
}

}  // namespace

LoadReading read_load(const Storage& storage, std::uint64_t max_memory) {
  LoadReading now;
  now.memory_used = private_memory(storage);
  now.memory_limit = max_memory;
  if (max_memory == 0) {
    std::uint64_t all = machine_memory(storage);
    if (const std::uint64_t cgroup = cgroup_memory(storage); cgroup > 0) {
      all = std::min(all, cgroup);
    }
    now.memory_limit = all == 0 ? 0 : std::max(all / kShare, kLeastMemory);
  }
  // Of this network namespace; missing without the module, and then there is no table.
  now.conntrack_used = number_in(storage, "/proc/sys/net/netfilter/nf_conntrack_count");
  now.conntrack_limit = number_in(storage, "/proc/sys/net/netfilter/nf_conntrack_max");
  return now;
}

LoadWatch::LoadWatch(Clock& clock, const Storage& storage, proxy::Load& load, LoadEvents events)
    : clock_(clock),
      storage_(storage),
      load_(load),
      events_(std::move(events)),
      timer_(clock.timer([this] { look(); })) {
  timer_->start(kLoadEvery);
}

void LoadWatch::look() {
  const std::uint64_t max_memory = events_.max_memory();
  LoadReading now = read_load(storage_, max_memory);
  if (overload_.short_of_memory(now)) {
    if (clock_.now() < next_giving_back_ &&
        now.memory_used < given_back_to_ + now.memory_limit / kGrowth) {
      // What only looks used must not be shed or cut for, nor what was cut already.
      timer_->start(kLoadEveryWhenNear);
      return;
    }
    next_giving_back_ = clock_.now() + kGiveBackEvery;
    events_.give_back();
    now = read_load(storage_, max_memory);
    given_back_to_ = now.memory_used;
  }
  const bool near = half_used(now.memory_used, now.memory_limit) ||
                    half_used(now.conntrack_used, now.conntrack_limit);
  timer_->start(near ? kLoadEveryWhenNear : kLoadEvery);
  const Overload::Verdict verdict = overload_.look(now);
  load_.set_shed(verdict.shed);
  if (verdict.cut > 0) {
    events_.cut(verdict.cut);
  }
  if (!verdict.changed) {
    return;
  }
  for (const Reports::Condition& condition : overload_.conditions()) {
    log::warn("load", condition.message, {{"object", condition.object}});
  }
  if (overload_.conditions().empty()) {
    log::info("load", "back to normal: nothing is refused for load");
  }
  events_.on_change();
}

}  // namespace meshnode::agent
