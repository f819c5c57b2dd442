#include "base/escape.h"

#include <cstdint>

namespace meshnode {
namespace {

constexpr std::size_t kMaxQuoted = 256;
constexpr std::string_view kHex = "0123456789abcdef";

struct Character {
  std::uint32_t code = 0;
  std::size_t size = 1;
  bool valid = false;
};

// One UTF-8 sequence at the front of `text` (RFC 3629: no overlong forms, no surrogates).
Character decode(std::string_view text) {
  auto byte = [&](std::size_t at) { return static_cast<std::uint8_t>(text[at]); };
  std::uint8_t first = byte(0);
  if (first < 0x80) return {first, 1, true};
  std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < size) return {};
  std::uint32_t code = first & (0xffU >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return {};
    code = code << 6U | (byte(i) & 0x3fU);
  }
  bool overlong = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
  if (overlong || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return {};
  return {code, size, true};
}

// How many bytes at the front of `text` stand for themselves everywhere: most text, all of it.
std::size_t plain_run(std::string_view text) {
  std::size_t size = 0;
  while (size < text.size() && text[size] >= ' ' && text[size] <= '~' && text[size] != '"' &&
         text[size] != '\\') {
    ++size;
  }
  return size;
}

// Moves that run from `text` to `out`; true when nothing is left.
bool take_plain(std::string& out, std::string_view& text) {
  std::size_t size = plain_run(text);
  out += text.substr(0, size);
  text.remove_prefix(size);
  return text.empty();
}

bool is_printable(const Character& c) {
  if (!c.valid || c.code < 0x20 || (c.code >= 0x7f && c.code < 0xa0)) return false;
  bool turns_direction = c.code == 0x61c || c.code == 0x200e || c.code == 0x200f ||
                         (c.code >= 0x202a && c.code <= 0x202e) ||
                         (c.code >= 0x2066 && c.code <= 0x2069);
  return !turns_direction && c.code != 0x2028 && c.code != 0x2029 && c.code != 0xfeff;
}

void append_unicode(std::string& out, std::uint32_t code) {
  out += "\\u";
  for (unsigned shift = 16; shift != 0; shift -= 4) out += kHex[(code >> (shift - 4)) & 0xfU];
}

// The short escape of a character, or 0.
char short_escape(std::uint32_t code) {
  switch (code) {
    case '\n':
      return 'n';
    case '\r':
      return 'r';
    case '\t':
      return 't';
    case '"':
    case '\\':
      return static_cast<char>(code);
    default:
      return 0;
  }
}

}  // namespace

void append_escaped(std::string& out, std::string_view text) {
  while (!take_plain(out, text)) {
    Character c = decode(text);
    if (char escape = c.valid ? short_escape(c.code) : '\0'; escape != 0) {
      out += '\\';
      out += escape;
    } else if (is_printable(c)) {
      out += text.substr(0, c.size);
    } else {
      for (char raw : text.substr(0, c.size)) {
        auto value = static_cast<std::uint8_t>(raw);
        out += "\\x";
        out += kHex[value >> 4U];
        out += kHex[value & 0xfU];
      }
    }
    text.remove_prefix(c.size);
  }
}

void append_json(std::string& out, std::string_view text) {
  out += '"';
  while (!take_plain(out, text)) {
    Character c = decode(text);
    if (!c.valid) {
      out += "\xef\xbf\xbd";
    } else if (char escape = short_escape(c.code); escape != 0) {
      out += '\\';
      out += escape;
    } else if (is_printable(c)) {
      out += text.substr(0, c.size);
    } else {
      append_unicode(out, c.code);
    }
    text.remove_prefix(c.size);
  }
  out += '"';
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  append_escaped(out, text.substr(0, kMaxQuoted));
  out += text.size() > kMaxQuoted ? "...\"" : "\"";
  return out;
}

}  // namespace meshnode
