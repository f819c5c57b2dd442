#pragma once
/// What we would write ourselves. Text that was read in somebody else's network namespace may have
/// been made up there, and the packet filter's tools do more than it seems for whoever writes their
/// input: a rule may name a module to load, even a program to run (iptables(8), -m and -M). Pure.

#include <string_view>

namespace meshnode::capture {

/// Whether every line of this iptables-restore input has only options, matches, targets and a
/// spelling that rules of ours have.
bool in_own_words(std::string_view restore_text);

}  // namespace meshnode::capture
