#include "policy/path.h"

#include <array>
#include <optional>
#include <vector>

namespace meshnode::policy {
namespace {

std::optional<unsigned> hex(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a') + 10;
  if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A') + 10;
  return {};
}

bool is_unreserved(unsigned char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.' || c == '_' || c == '~';
}

std::string decoded(std::string_view path) {
  static constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string out;
  for (std::size_t i = 0; i < path.size(); ++i) {
    const auto high = path[i] == '%' && i + 2 < path.size() ? hex(path[i + 1]) : std::nullopt;
    const auto low = high ? hex(path[i + 2]) : std::nullopt;
    if (!low) {
      out += path[i] == '\\' ? '/' : path[i];
      continue;
    }
    const auto octet = static_cast<unsigned char>(*high * 16 + *low);
    if (is_unreserved(octet)) {
      out += static_cast<char>(octet);
    } else {
      out += '%';
      out += kDigits[*high];
      out += kDigits[*low];
    }
    i += 2;
  }
  return out;
}

}  // namespace

std::string normalise_path(std::string_view path) {
  const std::size_t end = path.find_first_of("?#");
  const std::string plain = decoded(path.substr(0, end));
  const std::string_view rest = end == std::string_view::npos ? "" : path.substr(end);
  if (!plain.starts_with('/')) return plain + std::string(rest);
  std::vector<std::string_view> kept;
  std::string_view left = std::string_view(plain).substr(1);
  bool more = true;
  while (more) {
    const std::size_t slash = left.find('/');
    const std::string_view segment = left.substr(0, slash);
    more = slash != std::string_view::npos;
    left = more ? left.substr(slash + 1) : std::string_view();
    const bool up = segment == "..";
    if (up && !kept.empty()) kept.pop_back();
    if (!up && segment != ".") {
      kept.push_back(segment);
    } else if (!more) {
      kept.emplace_back();  // a path that ends in a dot segment ends in a slash
    }
  }
  std::string out;
  for (const std::string_view segment : kept) out.append("/").append(segment);
  return out.append(rest);
}

}  // namespace meshnode::policy
