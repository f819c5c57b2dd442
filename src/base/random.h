#pragma once
/// Seam: random numbers. Cores and shells take one; only main makes a SystemRandom.

#include <cstdint>

namespace meshnode {

class Random {
 public:
  virtual ~Random() = default;
  /// 64 uniformly distributed bits.
  virtual std::uint64_t next() = 0;
};

/// The kernel's, getrandom(2): fit for keys and nonces. Thread-safe. Ends the process when the
/// kernel refuses, since nothing secret could be made after that.
class SystemRandom final : public Random {
 public:
  std::uint64_t next() override;
};

/// Splitmix64: the same seed gives the same sequence, for tests and simulation. Not thread-safe.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() override;

 private:
  std::uint64_t state_;
};

/// Uniform in [0, bound), without modulo bias; 0 when `bound` is 0.
std::uint64_t uniform(Random& random, std::uint64_t bound);

}  // namespace meshnode
