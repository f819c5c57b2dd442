#pragma once
/// Latencies in log-linear buckets: every value is kept to within 1/128 of itself, in constant
/// memory, so that recording costs the generator nothing that grows with the run.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace meshnode::bench {

class Histogram {
 public:
  void record(std::int64_t nanoseconds) {
    const auto value = static_cast<std::uint64_t>(nanoseconds < 0 ? 0 : nanoseconds);
    ++counts_[index_of(value)];
    ++total_;
    if (value > max_) max_ = value;
  }
  void clear() { *this = Histogram(); }
  std::uint64_t total() const { return total_; }
  std::uint64_t max() const { return max_; }

  /// The smallest bucket bound that at least `fraction` of the values do not exceed; 0 when empty.
  std::uint64_t quantile(double fraction) const {
    const auto wanted = static_cast<std::uint64_t>(fraction * static_cast<double>(total_));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (counts_[i] != 0 && seen >= wanted) return upper_bound_of(i);
    }
    return max_;
  }

 private:
  static constexpr unsigned kSubBits = 7;
  static constexpr std::uint64_t kSub = 1U << kSubBits;

  static std::size_t index_of(std::uint64_t value) {
    if (value < kSub) return static_cast<std::size_t>(value);
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - kSubBits - 1;
    return static_cast<std::size_t>((shift + 1) * kSub + ((value >> shift) - kSub));
  }
  static std::uint64_t upper_bound_of(std::size_t index) {
    if (index < kSub) return index;
    const std::uint64_t shift = index / kSub - 1;
    return ((kSub + index % kSub + 1) << shift) - 1;
  }

  std::array<std::uint64_t, (64 - kSubBits + 1) * kSub> counts_{};
  std::uint64_t total_ = 0;
  std::uint64_t max_ = 0;
};

}  // namespace meshnode::bench
