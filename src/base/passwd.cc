#include "base/passwd.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>

#include "base/escape.h"

namespace meshnode {
namespace {

constexpr std::size_t kMaxName = 256;
constexpr std::uint32_t kNoUser = 0xffffffffU;  // (uid_t)-1 means "unchanged" to the kernel
constexpr std::size_t kFields = 7;

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool parse_uid(std::string_view text, std::uint32_t& uid) {
  if (!is_number(text) || (text.size() > 1 && text[0] == '0')) return false;
  const char* end = text.data() + text.size();
  auto [stop, failure] = std::from_chars(text.data(), end, uid);
  return failure == std::errc() && stop == end && uid != kNoUser;
}

// The fields of one line; false unless there are exactly seven.
bool split(std::string_view line, std::array<std::string_view, kFields>& fields) {
  for (std::size_t i = 0; i + 1 < kFields; ++i) {
    std::size_t colon = line.find(':');
    if (colon == line.npos) return false;
    fields[i] = line.substr(0, colon);
    line.remove_prefix(colon + 1);
  }
  fields[kFields - 1] = line;
  return line.find(':') == line.npos;
}

}  // namespace

Result<std::uint32_t> user_id(std::string_view passwd, std::string_view name) {
  std::uint32_t uid = 0;
  if (is_number(name)) {
    if (parse_uid(name, uid)) return uid;
    return fail(ErrorCode::kInvalid, "user " + quoted(name) + " is no user number");
  }
  if (name.empty() || name.size() > kMaxName || name.find_first_of(":\n\0", 0, 3) != name.npos) {
    return fail(ErrorCode::kInvalid, "user " + quoted(name) + " is no user name");
  }
  while (!passwd.empty()) {
    std::size_t end = passwd.find('\n');
    std::string_view line = passwd.substr(0, end);
    passwd.remove_prefix(end == passwd.npos ? passwd.size() : end + 1);
    std::array<std::string_view, kFields> fields;
    if (split(line, fields) && fields[0] == name && parse_uid(fields[2], uid)) return uid;
  }
  return fail(ErrorCode::kNotFound,
              "user " + quoted(name) +
                  " is not in /etc/passwd; create it, or give its number if it lives elsewhere");
}

}  // namespace meshnode
