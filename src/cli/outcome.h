#pragma once
/// What a command has to say and how it exits, as a value, so that tests need no terminal.

#include <meshnode/result.h>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace meshnode::cli {

inline constexpr int kDone = 0;
inline constexpr int kNo = 1;           ///< the answer is no, or the input is bad
inline constexpr int kCouldNotAsk = 2;  ///< no agent, no permission, bad usage

struct Outcome {
  int exit_code = kDone;
  std::string out;  ///< for standard output, line feeds included
  std::string err;
};

/// "meshnode: what: why; next step" and the exit code that the contract gives to the error. The
/// next step is left out when the error already names one.
Outcome complaint(std::string_view what, const Error& error, std::string_view next_step);

/// As `-o json` prints it; what is no UTF-8 (a file's name) is replaced.
std::string json_text(const nlohmann::json& value);

}  // namespace meshnode::cli
