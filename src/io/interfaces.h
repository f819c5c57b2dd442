#pragma once
/// The addresses this host has now. Thread: any; asks the kernel, never a name service.

#include <meshnode/address.h>
#include <meshnode/result.h>
#include <cstddef>
#include <string>
#include <vector>

namespace meshnode::io {

/// What else the kernel lists is left out, so that nobody who adds addresses decides how long this
/// takes.
inline constexpr std::size_t kMaxAddressesRead = 16384;

/// Of all interfaces that are up, without loopback and link-local ones; sorted as the kernel lists
/// them, no duplicates, at most 1,024. Of the network namespace that the calling thread is in.
/// An error, not a part, when others change them all the while.
Result<std::vector<IpAddress>> host_addresses();

/// gethostname(2).
std::string host_name();

}  // namespace meshnode::io
