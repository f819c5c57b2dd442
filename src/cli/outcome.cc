#include "cli/outcome.h"

#include <nlohmann/json.hpp>

namespace meshnode::cli {
namespace {

bool could_not_ask(ErrorCode code) {
  return code == ErrorCode::kPermission || code == ErrorCode::kUnavailable ||
         code == ErrorCode::kTimeout || code == ErrorCode::kReset;
}

}  // namespace

Outcome complaint(std::string_view what, const Error& error, std::string_view next_step) {
  Outcome outcome;
  outcome.exit_code = could_not_ask(error.code) ? kCouldNotAsk : kNo;
  outcome.err = "meshnode: " + std::string(what) + ": " + error.message;
  if (error.message.find("; ") == std::string::npos) {
    outcome.err += "; " + std::string(next_step);
  }
  outcome.err += "\n";
  return outcome;
}

std::string json_text(const nlohmann::json& value) {
  return value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace meshnode::cli
