#include "io/descriptor_budget.h"

#include <sys/resource.h>

#include <algorithm>

namespace meshnode::io {

std::size_t DescriptorBudget::default_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return 800;  // of the 1,024 that every Linux grants
  }
  // Files, channels and logs need some however low the limit is.
  constexpr std::size_t kReserve = 64;
  const auto all = static_cast<std::size_t>(limit.rlim_cur);
  return all > 2 * kReserve ? std::min(all / 10 * 8, all - kReserve) : all / 2;
}

}  // namespace meshnode::io
