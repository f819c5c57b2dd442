#pragma once
/// Choosing one of several equal endpoints. Counters live with the caller, one a loop and route;
/// the choice is a pure function over them.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

namespace meshnode::policy {

/// Whether the endpoint at this index may be chosen now.
using Usable = std::function<bool(std::size_t)>;

/// Round robin: the first usable index at or after `counter` modulo `count`, wrapping once. With
/// every endpoint usable, `count` successive counters choose each exactly once. Nothing when none
/// is usable.
std::optional<std::size_t> pick(std::size_t count, std::uint64_t counter);
std::optional<std::size_t> pick(std::size_t count, std::uint64_t counter, const Usable& usable);

}  // namespace meshnode::policy
