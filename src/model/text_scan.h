#pragma once
/// The pass over raw bytes before the YAML parser sees them: encoding, forbidden characters,
/// directives, and where each line starts.

#include <cstddef>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>
#include "model/yaml.h"

namespace meshnode::model {

/// Byte offsets of line starts, with YAML 1.1's line breaks: LF, CR, CRLF, NEL, LS, PS.
using LineStarts = std::vector<std::size_t>;

/// Refuses bytes that are not UTF-8, characters YAML does not allow and lines that begin with `%`
/// (libyaml needs seconds for a file of directives). A byte order mark at the start is skipped by
/// the caller.
tl::expected<LineStarts, TextError> scan_text(std::string_view text);

/// Line and column of a byte offset.
Position position_of(std::string_view text, const LineStarts& lines, std::size_t offset);

}  // namespace meshnode::model
