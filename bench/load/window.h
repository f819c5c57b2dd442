#pragma once
/// The measured part of a run: nothing before it counts, and CPU time is sampled at its two ends
/// by the generator itself, so that bytes and seconds are of the same interval.

#include <cstdint>
#include <string>
#include <vector>

#include "histogram.h"
#include "usage.h"

namespace meshnode::bench {

class Window {
 public:
  Window(std::vector<int> watched, double warmup_seconds, double seconds);

  /// False once the window has closed. Cheap: call it on every turn of the loop.
  bool open_at(std::int64_t now);

  void count(std::uint64_t units) { units_ += units; }
  void record(std::int64_t intended, std::int64_t now) {
    ++units_;
    if (intended >= begin_) latencies_.record(now - intended);
  }
  void failed() { ++errors_; }
  std::int64_t end() const { return end_; }

  /// {"seconds":..,"<unit>":..,"errors":..,"p50":ms,..., CPU} in one line on standard output.
  void print(const char* unit) const;

 private:
  std::vector<int> watched_;
  std::int64_t begin_;
  std::int64_t end_;
  std::int64_t measured_ = 0;
  bool measuring_ = false;
  bool closed_ = false;
  std::uint64_t units_ = 0;
  std::uint64_t errors_ = 0;
  Histogram latencies_;
  Usage first_;
  Usage last_;
};

}  // namespace meshnode::bench
