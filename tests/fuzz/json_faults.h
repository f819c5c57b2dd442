#pragma once
/// JSON with one value replaced, so that a valid message of any shape, also of fields that come
/// later, is a seed for every type error. Thread: values.

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace meshnode::fuzz {

inline constexpr std::array<std::string_view, 12> kJsonFaults = {
    "null", "true", "-1", "0",   "1.5",       "70000", "18446744073709551615",
    "\"\"", "[]",   "{}", "[7]", "{\"x\":{}}"};

/// Where the value that starts at `from` ends.
inline std::size_t json_value_end(std::string_view text, std::size_t from) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t at = from; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string) {
      if (c == '\\') ++at;
      in_string = c != '"';
      if (!in_string && depth == 0) return at + 1;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      if (depth == 0) return at;
      if (--depth == 0) return at + 1;
    } else if (c == ',' && depth == 0) {
      return at;
    }
  }
  return text.size();
}

/// Where the values of `text` start: what follows a colon, a comma or a bracket outside strings.
inline std::vector<std::size_t> json_values(std::string_view text) {
  std::vector<std::size_t> starts;
  bool in_string = false;
  for (std::size_t at = 0; at + 1 < text.size(); ++at) {
    const char c = text[at];
    if (in_string) {
      if (c == '\\') ++at;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == ':' || c == '[' || c == '{' || c == ',') {
      starts.push_back(at + 1);
    }
  }
  return starts;
}

/// `text` with the value at `start` replaced.
inline std::string with_fault(std::string_view text, std::size_t start, std::string_view fault) {
  std::string out(text.substr(0, start));
  out += fault;
  out += text.substr(json_value_end(text, start));
  return out;
}

}  // namespace meshnode::fuzz
