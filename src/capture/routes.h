#pragma once
/// The routing rules and routes that capture needs besides the packet filter:
/// - both families, for preserved source addresses: packets with kReplyMark are looked up in a
/// table
///   of our own, whose one route leads everything to lo. Priority 50 comes before a VPN's
///   catch-all rule (wg-quick: 32764) and after the local table (0); where rules of others come
///   before it, ours moves before them.
/// - IPv6: kPrefix6 is local, so that capture addresses exist; 127.0.0.0/8 always is.
/// They stay while the agent runs, also when no workload needs them, for live connections.
/// Thread: one; blocks while ip runs.

#include <meshnode/address.h>
#include <meshnode/kernel.h>
#include <string>
#include <vector>

namespace meshnode::capture {

inline constexpr int kRoutePriority = 50;  // or less
inline constexpr int kRouteTable = 15006;

/// Adds what is missing and says what that was. `preserve_source`: whether the marks are in use.
Result<std::vector<std::string>> ensure_routes(Kernel& kernel, Family family, bool preserve_source);
/// Removes what is there and says what that was.
Result<std::vector<std::string>> remove_routes(Kernel& kernel, Family family);
/// The routing rules and routes of ours that are there, as ip prints them.
Result<std::vector<std::string>> list_routes(Kernel& kernel, Family family);

}  // namespace meshnode::capture
