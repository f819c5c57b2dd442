#pragma once
/// Text that came from somewhere else, made fit for one line of a log, an error or JSON: whatever
/// the bytes are, the result is valid UTF-8 without control characters, line separators or
/// characters that turn the writing direction, so no value can forge a line or hide what follows.
/// Thread: pure functions.

#include <string>
#include <string_view>

namespace meshnode {

/// Appends `text` with such characters as \n, \r, \t or \xNN a byte, and `"` and `\` escaped.
void append_escaped(std::string& out, std::string_view text);
/// Appends `text` as a JSON string, quotes included (RFC 8259 §7); a byte that is not UTF-8
/// becomes U+FFFD.
void append_json(std::string& out, std::string_view text);
/// `text` escaped and in double quotes, at most the first 256 bytes of it: for error messages.
std::string quoted(std::string_view text);

}  // namespace meshnode
