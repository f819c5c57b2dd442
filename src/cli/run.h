#pragma once
/// The program behind main().

#include <string>
#include <vector>

namespace meshnode::cli {

/// Parses, does and prints; returns the exit code. `arguments` without the program's name.
int run(const std::vector<std::string>& arguments);

}  // namespace meshnode::cli
