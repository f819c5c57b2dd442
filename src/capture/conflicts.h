#pragma once
/// Rules of others that capture cannot work with. Pure. Nothing of theirs is changed: what they
/// match is refused or dropped rather than led around the agent, and whoever runs the host is told.

#include <string>
#include <vector>

#include "capture/save.h"
#include "capture/spec.h"

namespace meshnode::capture {

inline constexpr std::size_t kMaxConflicts = 64;

/// A line each, "OBJECT: what it means":
/// - NOTRACK of outgoing TCP: without connection tracking nothing is steered, and a program's
///   answers to a preserved source do not come back;
/// - tracking zones of what goes out, as steering leads over lo, out of them;
/// - DNAT or REDIRECT of a declared port: the kernel drops a packet that TPROXY took and nat then
///   sends elsewhere;
/// - tables of the other iptables backend: packets pass both, and only one is looked after.
/// In the order printed, at most kMaxConflicts.
std::vector<std::string> conflicts(const Saved& saved, const Spec& spec, Family family);

}  // namespace meshnode::capture
