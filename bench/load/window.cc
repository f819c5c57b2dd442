#include "window.h"

#include <cstdio>
#include <utility>

#include "sockets.h"

namespace meshnode::bench {
namespace {

std::int64_t to_ns(double seconds) { return static_cast<std::int64_t>(seconds * 1e9); }

double to_ms(std::uint64_t ns) { return static_cast<double>(ns) / 1e6; }

}  // namespace

Window::Window(std::vector<int> watched, double warmup_seconds, double seconds)
    : watched_(std::move(watched)),
      begin_(now_ns() + to_ns(warmup_seconds)),
      end_(begin_ + to_ns(seconds)) {}

bool Window::open_at(std::int64_t now) {
  if (closed_) return false;
  if (!measuring_ && now >= begin_) {
    measuring_ = true;
    units_ = 0;
    errors_ = 0;
    latencies_.clear();
    begin_ = now_ns();
    first_ = sample(watched_);
  }
  if (now < end_) return true;
  closed_ = true;
  last_ = sample(watched_);
  measured_ = now_ns() - begin_;
  return false;
}

void Window::print(const char* unit) const {
  std::printf("{\"seconds\":%.6f,\"%s\":%llu,\"errors\":%llu,",
              static_cast<double>(measured_) / 1e9, unit, static_cast<unsigned long long>(units_),
              static_cast<unsigned long long>(errors_));
  if (latencies_.total() > 0) {
    std::printf("\"p50\":%.4f,\"p90\":%.4f,\"p99\":%.4f,\"max\":%.4f,",
                to_ms(latencies_.quantile(0.5)), to_ms(latencies_.quantile(0.9)),
                to_ms(latencies_.quantile(0.99)), to_ms(latencies_.max()));
  }
  std::printf("%s}\n", difference(watched_, first_, last_).c_str());
  std::fflush(stdout);
}

}  // namespace meshnode::bench
