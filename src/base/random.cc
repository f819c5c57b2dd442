#include "base/random.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

namespace meshnode {

std::uint64_t SystemRandom::next() {
  std::uint64_t value = 0;
  // Up to 256 bytes come whole or not at all, once the pool is seeded (getrandom(2)).
  while (getrandom(&value, sizeof value, 0) != static_cast<ssize_t>(sizeof value)) {
    if (errno != EINTR) std::abort();
  }
  return value;
}

std::uint64_t SeededRandom::next() {
  state_ += 0x9e3779b97f4a7c15ULL;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31U);
}

std::uint64_t uniform(Random& random, std::uint64_t bound) {
  if (bound == 0) return 0;
  std::uint64_t reject_below = (0 - bound) % bound;
  std::uint64_t value = random.next();
  while (value < reject_below) value = random.next();
  return value % bound;
}

}  // namespace meshnode
