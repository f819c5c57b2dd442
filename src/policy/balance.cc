#include "policy/balance.h"

namespace meshnode::policy {

std::optional<std::size_t> pick(std::size_t count, std::uint64_t counter) {
  if (count == 0) return {};
  return static_cast<std::size_t>(counter % count);
}

std::optional<std::size_t> pick(std::size_t count, std::uint64_t counter, const Usable& usable) {
  const auto first = pick(count, counter);
  if (!first) return {};
  for (std::size_t step = 0; step < count; ++step) {
    const std::size_t index = (*first + step) % count;
    if (usable(index)) return index;
  }
  return {};
}

}  // namespace meshnode::policy
