#include "io/descriptor_budget.h"

#include <sys/resource.h>

namespace meshnode::io {

std::size_t DescriptorBudget::default_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return 800;  // of the 1,024 that every Linux grants
  }
  return static_cast<std::size_t>(limit.rlim_cur) / 10 * 8;
}

}  // namespace meshnode::io
