#pragma once
/// The process's log: one line an event, on stderr for journald unless told otherwise.
///   log::info("capture", "rules applied", {{"family", "4"}, {"rules", 12}});
///   2026-01-02T03:04:05.678Z  info  capture  rules applied family="4" rules=12
/// Text lines separate the first four columns by tabs; strings are quoted and escaped
/// (base/escape.h), so no value forges a line. JSON lines are one object: time, level, scope,
/// message, then the fields. The one process-wide state of this program: main configures it.
/// Thread: everything is thread-safe. Cores never log; they return effects.

#include <meshnode/result.h>
#include <meshnode/time.h>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace meshnode::log {

enum class Level : std::uint8_t { kTrace, kDebug, kInfo, kWarn, kError };
enum class Format : std::uint8_t { kText, kJson };

std::string_view level_name(Level level);
Result<Level> parse_level(std::string_view name);

/// A field's value. Borrows text: it lives as long as the full expression it was written in.
class Value {
 public:
  enum class Kind : std::uint8_t { kText, kBare, kSigned, kUnsigned, kBool };

  Value(std::string_view text) : text_(text) {}                        // NOLINT: implicit by
  Value(const char* text) : text_(text) {}                             // NOLINT: design, see
  Value(const std::string& text) : text_(text) {}                      // NOLINT: the example
  Value(bool value) : kind_(Kind::kBool), number_(value ? 1U : 0U) {}  // NOLINT
  template <class T>
  requires(std::is_integral_v<T> && !std::is_same_v<T, bool> && !std::is_same_v<T, char>)
      Value(T value)  // NOLINT
      : kind_(std::is_signed_v<T> ? Kind::kSigned : Kind::kUnsigned),
        number_(static_cast<std::uint64_t>(value)) {}
  /// Text of our own making without quotes in text lines: addresses.
  static Value bare(std::string_view text) {
    Value value(text);
    value.kind_ = Kind::kBare;
    return value;
  }

  Kind kind() const { return kind_; }
  std::string_view text() const { return text_; }
  std::uint64_t number() const { return number_; }  ///< kSigned: two's complement

 private:
  Kind kind_ = Kind::kText;
  std::string_view text_;
  std::uint64_t number_ = 0;
};

struct Field {
  Field(std::string_view k, Value v) : key(k), value(v) {}
  std::string_view key;  ///< of [a-zA-Z0-9._-]
  Value value;
};
using Fields = std::initializer_list<Field>;

/// Appends one line without its line feed.
void append_line(std::string& out, Format format, WallTime time, Level level,
                 std::string_view scope, std::string_view message, std::span<const Field> fields);

/// `scope` is a room's name or a part of one: at most 32 of [a-z0-9-].
void write(Level level, std::string_view scope, std::string_view message, Fields fields = {});
inline void trace(std::string_view scope, std::string_view message, Fields fields = {}) {
  write(Level::kTrace, scope, message, fields);
}
inline void debug(std::string_view scope, std::string_view message, Fields fields = {}) {
  write(Level::kDebug, scope, message, fields);
}
inline void info(std::string_view scope, std::string_view message, Fields fields = {}) {
  write(Level::kInfo, scope, message, fields);
}
inline void warn(std::string_view scope, std::string_view message, Fields fields = {}) {
  write(Level::kWarn, scope, message, fields);
}
inline void error(std::string_view scope, std::string_view message, Fields fields = {}) {
  write(Level::kError, scope, message, fields);
}
/// Whether a line of this level and scope would be written: for values that are dear to make.
bool enabled(Level level, std::string_view scope);

/// "debug" sets every scope, "proxy:debug" one; at most 64 scopes. The default is info.
Status set_level(std::string_view setting);
void set_format(Format format);
/// Where lines go, without line feed, from any thread, one at a time; empty: stderr. A sink
/// must not log. A sink that may block makes whoever logs wait: see base/log_writer.h.
void set_sink(std::function<void(std::string_view line)> sink);

}  // namespace meshnode::log
