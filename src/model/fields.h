#pragma once
/// Reading one YAML mapping field by field, with every mistake named by place: unknown fields
/// (with the nearest known one), wrong types, values out of range, fields not supported.
/// Thread: one.

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include "model/resources.h"
#include "model/yaml.h"

namespace meshnode::model {

/// Collects at most kMaxDiagnostics a document.
class Diagnostics {
 public:
  static constexpr std::size_t kMaxDiagnostics = 20;
  void add(Position at, std::string reason);
  bool empty() const { return all_.empty(); }
  bool full() const { return all_.size() >= kMaxDiagnostics; }
  const std::vector<TextError>& all() const { return all_; }

 private:
  std::vector<TextError> all_;
};

/// Borrows the value and the diagnostics. A field with the value null counts as absent.
class Fields {
 public:
  /// `path` names the mapping in messages ("spec.ports[0]"; empty at the top). A value that is no
  /// mapping is reported and read as an empty one.
  Fields(const Value& map, std::string path, Diagnostics& out);

  const Value* get(std::string_view key);
  std::optional<std::string> text(std::string_view key);
  std::optional<bool> boolean(std::string_view key);
  std::optional<std::int64_t> integer(std::string_view key, std::int64_t low, std::int64_t high);
  std::optional<std::uint16_t> port(std::string_view key);
  /// "90s", "1h30m": base/duration.h.
  std::optional<Duration> duration(std::string_view key, Duration low, Duration high);
  /// Octets: a number, or "512Mi": a number with Ki, Mi, Gi or Ti.
  std::optional<std::uint64_t> octets(std::string_view key, std::uint64_t low, std::uint64_t high);
  std::optional<std::string> one_of(std::string_view key,
                                    std::initializer_list<std::string_view> allowed);
  std::optional<IpAddress> address(std::string_view key);
  /// The items; an absent list is empty. More than `max` is reported.
  const std::vector<Value>& list(std::string_view key, std::size_t max);
  struct Item {
    std::string text;
    Position at;
  };
  std::vector<Item> texts(std::string_view key, std::size_t max);
  Labels labels(std::string_view key);
  const Value* map(std::string_view key);

  /// A known field without effect here.
  void ignore(std::string_view key) { get(key); }
  /// A known field that this version does not support: reported when present.
  void refuse(std::string_view key, std::string_view why = "is not supported by this version");
  /// Reports the mistake at the field's value, or at the mapping when it is absent.
  void error(std::string_view key, std::string reason);
  /// The same at a place inside the field's value.
  void error_at(Position at, std::string_view key, std::string reason);
  /// Reports every key that was never asked for.
  void finish();
  /// Reports, of the keys never asked for, only those that look like a misspelt `key`.
  void finish_lenient();

  std::string path_of(std::string_view key) const;
  Position at() const { return map_.at; }

 private:
  const Value* expect(std::string_view key, Value::Kind kind, std::string_view wanted);
  std::string_view nearest(std::string_view key) const;

  const Value& map_;
  std::string path_;
  Diagnostics& out_;
  std::vector<std::string> known_;
};

/// Kubernetes label syntax.
bool is_label_key(std::string_view text);
bool is_label_value(std::string_view text);

}  // namespace meshnode::model
