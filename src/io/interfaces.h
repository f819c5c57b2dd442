#pragma once
/// The addresses this host has now. Thread: any; asks the kernel, never a name service.

#include <meshnode/address.h>
#include <meshnode/result.h>
#include <string>
#include <vector>

namespace meshnode::io {

/// Of all interfaces that are up, without loopback and link-local ones; sorted as the kernel lists
/// them, no duplicates, at most 1,024.
Result<std::vector<IpAddress>> host_addresses();

/// gethostname(2).
std::string host_name();

}  // namespace meshnode::io
