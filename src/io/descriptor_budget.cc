#include "io/descriptor_budget.h"

#include <sys/resource.h>

#include <algorithm>

namespace meshnode::io {
namespace {

constexpr std::size_t kPerCent = 80;
// Files, channels and logs need some however low the limit is.
constexpr std::size_t kKeptFree = 64;

}  // namespace

std::size_t DescriptorBudget::default_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return 800;  // of the 1,024 that every Linux grants
  }
  const auto all = static_cast<std::size_t>(limit.rlim_cur);
  return all > 2 * kKeptFree ? std::min(all * kPerCent / 100, all - kKeptFree) : all / 2;
}

}  // namespace meshnode::io
