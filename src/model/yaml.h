#pragma once
/// Strict YAML: text to a tree of values with positions. A subset on purpose (contract, Limits):
/// UTF-8 only, no aliases, anchors, tags, directives, merge keys or duplicate keys; every key is a
/// string. Thread: pure functions over values.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace meshnode::model {

inline constexpr std::size_t kMaxYamlBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxYamlDocuments = 10'000;
inline constexpr std::size_t kMaxYamlDepth = 32;
/// Bounds memory: the densest file of kMaxYamlBytes would hold twice as many.
inline constexpr std::size_t kMaxYamlValues = 250'000;

/// Both count from 1; the column counts characters.
struct Position {
  unsigned line = 1;
  unsigned column = 1;
  bool operator==(const Position&) const = default;
};

struct TextError {
  Position at;
  std::string reason;
};

/// A scalar's type follows from its text only when it is plain (unquoted): `true` and `false` are
/// booleans, `null`, `~` and nothing are null, decimal digits are an integer. Other spellings of
/// numbers (0x10, 010, 1e3, 1.5) are kNumber: YAML versions disagree on them, so no field takes
/// them. All else, `yes` and `on` included, is a string.
struct Value {
  enum class Kind : std::uint8_t { kNull, kBool, kInteger, kNumber, kString, kList, kMap };
  struct Key {
    std::string text;
    Position at;
  };

  Kind kind = Kind::kNull;
  bool boolean = false;
  Position at;
  std::int64_t integer = 0;
  std::string text;          ///< every scalar's text as written
  std::vector<Key> keys;     ///< kMap: keys[i] names items[i], in order of the file
  std::vector<Value> items;  ///< kList and kMap

  /// kMap only; null when there is no such key.
  const Value* find(std::string_view key) const;
};

struct Document {
  Value root;             ///< never kNull: empty documents are left out
  std::size_t begin = 0;  ///< byte range of the text this document was read from
  std::size_t end = 0;
  unsigned first_line = 1;  ///< line of `begin`
};

/// All documents or the first error.
tl::expected<std::vector<Document>, TextError> parse_yaml(std::string_view text);

/// "a string", "an integer", ... for messages.
std::string_view describe(Value::Kind kind);

}  // namespace meshnode::model
