#pragma once
/// The origin behind every arm: one thread, one port, what a connection's Hello asks for.

#include <cstdint>

namespace meshnode::bench {

/// Serves until the process is ended.
void serve(std::uint16_t port);

}  // namespace meshnode::bench
