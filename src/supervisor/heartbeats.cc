#include "supervisor/heartbeats.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>

namespace meshnode::supervisor {
namespace {

// A look that comes sooner or later than this says nothing: the machine was asleep, or we were
// stopped, or kept waiting by the packet filter's tools.
constexpr Duration kSoonest = kBeatEvery / 2;
constexpr Duration kLatest = 3 * kBeatEvery;

/// One cache line each: loops do not slow each other down.
struct alignas(64) Counter {
  std::atomic<std::uint64_t> beats;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
constexpr std::size_t kPageSize = kMaxLoops * sizeof(Counter);

Error failed(const char* call) {
  return {ErrorCode::kUnavailable,
          std::string(call) + ": " + std::strerror(errno) + "; is memory or a descriptor short?"};
}

}  // namespace

std::optional<std::string> Watchdog::look(Instant now, const Beats& beats) {
  const Duration since = looked_ ? now - *looked_ : kBeatEvery;
  if (since < kSoonest) return std::nullopt;
  looked_ = now;
  const int regular = since <= kLatest ? 1 : 0;
  bool begun = false;
  for (std::size_t loop = 0; loop < beats.size(); ++loop) {
    begun = begun || beats[loop] != 0;
    const bool moved = beats[loop] != last_[loop] || beats[loop] == 0;
    still_[loop] = moved ? 0 : still_[loop] + regular;
  }
  last_ = beats;
  unbegun_ = begun ? 0 : unbegun_ + regular;
  if (unbegun_ >= kLooksToBegin) {
    return "hung: no proxy loop began within " + std::to_string(kLooksToBegin) + " s";
  }
  const auto worst = std::max_element(still_.begin(), still_.end());
  if (*worst < hung_after_) return std::nullopt;
  return "hung: proxy loop " + std::to_string(worst - still_.begin()) + " did not come round for " +
         std::to_string(*worst) + " s";
}

Result<HeartbeatPage> HeartbeatPage::make() {
  Descriptor memory(::memfd_create("meshnode-heartbeats", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory) return fail(failed("memfd_create"));
  if (::ftruncate(memory.get(), kPageSize) != 0) return fail(failed("ftruncate"));
  // Reading beyond the end of a page that the worker cut off would be SIGBUS here.
  if (::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail(failed("F_ADD_SEALS"));
  }
  const void* page = ::mmap(nullptr, kPageSize, PROT_READ, MAP_SHARED, memory.get(), 0);
  if (page == MAP_FAILED) return fail(failed("mmap"));
  return HeartbeatPage(std::move(memory), page);
}

void HeartbeatPage::Unmap::operator()(const void* page) const {
  ::munmap(const_cast<void*>(page), kPageSize);
}

Beats HeartbeatPage::read() const {
  const auto* counters = static_cast<const Counter*>(page_.get());
  Beats beats{};
  for (std::size_t loop = 0; loop < kMaxLoops; ++loop) {
    beats[loop] = counters[loop].beats.load(std::memory_order_relaxed);
  }
  return beats;
}

Result<std::unique_ptr<Heartbeats>> Heartbeats::open(int descriptor) {
  void* page = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (page == MAP_FAILED) return fail(failed("mmap of the heartbeats"));
  return std::unique_ptr<Heartbeats>(new Heartbeats(page));
}

Heartbeats::~Heartbeats() { ::munmap(page_, kPageSize); }

void Heartbeats::beat(unsigned loop) {
  static_cast<Counter*>(page_)[loop].beats.fetch_add(1, std::memory_order_relaxed);
}

Pulse::Pulse(Clock& clock, Heartbeats& heartbeats, unsigned loop)
    : heartbeats_(heartbeats), loop_(loop), timer_(clock.timer([this] { beat(); })) {
  beat();
}

void Pulse::beat() {
  heartbeats_.beat(loop_);
  timer_->start(kBeatEvery);
}

}  // namespace meshnode::supervisor
