#include "model/text_scan.h"

#include <fmt/format.h>
#include <algorithm>
#include <cstdint>

namespace meshnode::model {
namespace {

struct Character {
  std::uint32_t code = 0;
  std::size_t length = 0;  ///< 0: not UTF-8
};

std::uint8_t byte_at(std::string_view text, std::size_t i) {
  return static_cast<std::uint8_t>(text[i]);
}

/// RFC 3629: shortest form only, no surrogates, at most U+10FFFF.
Character decode(std::string_view text, std::size_t i) {
  const std::uint8_t first = byte_at(text, i);
  if (first < 0x80) return {first, 1};
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || i + length > text.size()) return {};
  std::uint32_t code = first & (0xFFU >> (length + 1));
  for (std::size_t k = 1; k < length; ++k) {
    const std::uint8_t next = byte_at(text, i + k);
    if ((next & 0xC0) != 0x80) return {};
    code = (code << 6) | (next & 0x3FU);
  }
  static constexpr std::uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kSmallest[length] || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) return {};
  return {code, length};
}

bool is_break(std::uint32_t code) {
  return code == '\n' || code == '\r' || code == 0x85 || code == 0x2028 || code == 0x2029;
}

/// YAML 1.1 §5.1, without the byte order mark.
bool is_printable(std::uint32_t code) {
  if (code < 0x20) return code == '\t' || code == '\n' || code == '\r';
  if (code < 0x7F || code == 0x85) return true;
  return code >= 0xA0 && code != 0xFEFF && code != 0xFFFE && code != 0xFFFF;
}

}  // namespace

Position position_of(std::string_view text, const LineStarts& lines, std::size_t offset) {
  offset = std::min(offset, text.size());
  const auto after = std::upper_bound(lines.begin(), lines.end(), offset);
  const auto line = static_cast<std::size_t>(after - lines.begin());
  Position at{static_cast<unsigned>(line), 1};
  for (std::size_t i = lines[line - 1]; i < offset; ++at.column) {
    i += std::max<std::size_t>(decode(text, i).length, 1);
  }
  return at;
}

tl::expected<LineStarts, TextError> scan_text(std::string_view text) {
  LineStarts lines{0};
  const auto refuse = [&](std::size_t offset, std::string reason) {
    return tl::unexpected<TextError>({position_of(text, lines, offset), std::move(reason)});
  };
  for (std::size_t i = 0; i < text.size();) {
    if (lines.back() == i && text[i] == '%') {
      return refuse(i, "directives (lines that begin with %) are not allowed; remove the line");
    }
    const Character c = decode(text, i);
    if (c.length == 0) {
      return refuse(
          i, fmt::format("byte 0x{:02X} is not UTF-8; save the file as UTF-8", byte_at(text, i)));
    }
    if (!is_printable(c.code)) {
      return refuse(i, fmt::format("character U+{:04X} is not allowed in YAML; remove it", c.code));
    }
    const bool cr_of_crlf = c.code == '\r' && i + 1 < text.size() && text[i + 1] == '\n';
    i += c.length;
    if (is_break(c.code) && !cr_of_crlf) lines.push_back(i);
  }
  return lines;
}

}  // namespace meshnode::model
