#pragma once
/// Connections of the generators, and the one request each of them begins with.

#include <cstdint>
#include <vector>

#include "client.h"
#include "hello.h"
#include "sockets.h"

namespace meshnode::bench {

/// A connected, non-blocking socket that has sent its Hello; ends the program when it can't.
Fd open_with_hello(const Options& options, Mode mode);

/// Hello and one request in one buffer: what a new connection sends in one call.
std::vector<std::byte> first_bytes(const Options& options, Mode mode);

/// `bytes` in full and `want` bytes back within `timeout_ns`. 0, or the errno of what went wrong.
int exchange(int fd, std::span<const std::byte> bytes, std::uint64_t want, std::int64_t timeout_ns);

/// Kept connections that have each answered one request.
std::vector<Fd> open_answered(const Options& options);

}  // namespace meshnode::bench
