#include "model/fields.h"

#include <fmt/format.h>
#include <meshnode/ids.h>
#include <algorithm>
#include <array>
#include <charconv>

#include "base/duration.h"

namespace meshnode::model {
namespace {

/// Long text from a file is cut in messages.
std::string quoted(std::string_view text) {
  static constexpr std::size_t kShown = 80;
  return text.size() <= kShown ? fmt::format("\"{}\"", text)
                               : fmt::format("\"{}...\"", text.substr(0, kShown));
}

std::string found(const Value& value) {
  if (value.kind == Value::Kind::kList || value.kind == Value::Kind::kMap) {
    return std::string(describe(value.kind));
  }
  return fmt::format("{} {}", describe(value.kind), quoted(value.text));
}

std::string_view hint(const Value& value, Value::Kind wanted) {
  const bool scalar = value.kind != Value::Kind::kList && value.kind != Value::Kind::kMap;
  if (wanted == Value::Kind::kString && scalar) return "; put it in quotes";
  if (wanted == Value::Kind::kInteger && value.kind == Value::Kind::kString) {
    return "; write it as decimal digits without quotes";
  }
  if (wanted == Value::Kind::kInteger && value.kind == Value::Kind::kNumber) {
    return "; write it as decimal digits";
  }
  if (wanted == Value::Kind::kBool && value.kind == Value::Kind::kString) {
    return "; write true or false without quotes";
  }
  return "";
}

/// Levenshtein distance; both are short (cut at 64).
std::size_t distance(std::string_view a, std::string_view b) {
  a = a.substr(0, 64);
  b = b.substr(0, 64);
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

struct Unit {
  std::string_view name;
  unsigned shift;
};
constexpr std::array<Unit, 4> kUnits = {{{"Ti", 40}, {"Gi", 30}, {"Mi", 20}, {"Ki", 10}}};

std::optional<std::uint64_t> parse_octets(std::string_view text) {
  unsigned shift = 0;
  for (const Unit& unit : kUnits) {
    if (text.ends_with(unit.name)) {
      shift = unit.shift;
      text.remove_suffix(unit.name.size());
      break;
    }
  }
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() ||
      number > UINT64_MAX >> shift) {
    return {};
  }
  return number << shift;
}

std::string octets_text(std::uint64_t octets) {
  for (const Unit& unit : kUnits) {
    const std::uint64_t one = std::uint64_t{1} << unit.shift;
    if (octets >= one && octets % one == 0) return fmt::format("{}{}", octets / one, unit.name);
  }
  return std::to_string(octets);
}

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

bool is_label_value(std::string_view text) {
  if (text.empty()) return true;
  return text.size() <= 63 && is_alphanumeric(text.front()) && is_alphanumeric(text.back()) &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return is_alphanumeric(c) || c == '-' || c == '_' || c == '.'; });
}

bool is_label_key(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return !text.empty() && is_label_value(text);
  return is_dns_name(text.substr(0, slash)) && text.size() > slash + 1 &&
         is_label_value(text.substr(slash + 1));
}

void Diagnostics::add(Position at, std::string reason) {
  if (!full()) all_.push_back({at, std::move(reason)});
}

Fields::Fields(const Value& map, std::string path, Diagnostics& out)
    : map_(map), path_(std::move(path)), out_(out) {
  if (map.kind != Value::Kind::kMap) {
    out_.add(map.at, fmt::format("{}: expected a mapping, found {}",
                                 path_.empty() ? "document" : path_, found(map)));
  }
}

std::string Fields::path_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

const Value* Fields::get(std::string_view key) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.emplace_back(key);
  const Value* value = map_.find(key);
  return value != nullptr && value->kind != Value::Kind::kNull ? value : nullptr;
}

const Value* Fields::expect(std::string_view key, Value::Kind kind, std::string_view wanted) {
  const Value* value = get(key);
  if (value == nullptr || value->kind == kind) return value;
  error(key, fmt::format("expected {}, found {}{}", wanted, found(*value), hint(*value, kind)));
  return nullptr;
}

std::optional<std::string> Fields::text(std::string_view key) {
  const Value* value = expect(key, Value::Kind::kString, "a string");
  if (value == nullptr) return {};
  return value->text;
}

std::optional<bool> Fields::boolean(std::string_view key) {
  const Value* value = expect(key, Value::Kind::kBool, "true or false");
  if (value == nullptr) return {};
  return value->boolean;
}

std::optional<std::int64_t> Fields::integer(std::string_view key, std::int64_t low,
                                            std::int64_t high) {
  const Value* value =
      expect(key, Value::Kind::kInteger, fmt::format("an integer from {} to {}", low, high));
  if (value == nullptr) return {};
  if (value->integer < low || value->integer > high) {
    error(key, fmt::format("{} is out of range; allowed is {} to {}", value->integer, low, high));
    return {};
  }
  return value->integer;
}

std::optional<std::uint16_t> Fields::port(std::string_view key) {
  const auto number = integer(key, 1, 65535);
  if (!number) return {};
  return static_cast<std::uint16_t>(*number);
}

std::optional<Duration> Fields::duration(std::string_view key, Duration low, Duration high) {
  const Value* value = get(key);
  if (value == nullptr) return {};
  const bool scalar = value->kind != Value::Kind::kList && value->kind != Value::Kind::kMap;
  auto parsed = parse_duration(scalar ? value->text : "", low, high);
  if (parsed) return *parsed;
  error(key, scalar ? parsed.error().message
                    : fmt::format("expected a duration like 30s, found {}", found(*value)));
  return {};
}

std::optional<std::uint64_t> Fields::octets(std::string_view key, std::uint64_t low,
                                            std::uint64_t high) {
  const Value* value = get(key);
  if (value == nullptr) return {};
  const bool scalar = value->kind != Value::Kind::kList && value->kind != Value::Kind::kMap;
  const std::optional<std::uint64_t> parsed =
      scalar ? parse_octets(value->text) : std::optional<std::uint64_t>();
  if (!parsed) {
    error(key,
          fmt::format("expected an amount of memory like 512Mi or 2Gi, found {}", found(*value)));
    return {};
  }
  if (*parsed >= low && *parsed <= high) return parsed;
  error(key, fmt::format("{} is out of range; allowed is {} to {}", value->text, octets_text(low),
                         octets_text(high)));
  return {};
}

std::optional<std::string> Fields::one_of(std::string_view key,
                                          std::initializer_list<std::string_view> allowed) {
  auto value = text(key);
  if (!value || std::find(allowed.begin(), allowed.end(), *value) != allowed.end()) return value;
  error(key, fmt::format("{} is not known; use {}", quoted(*value), fmt::join(allowed, ", ")));
  return {};
}

std::optional<IpAddress> Fields::address(std::string_view key) {
  const auto value = text(key);
  if (!value) return {};
  auto ip = IpAddress::parse(*value);
  if (ip) return *ip;
  error(key, fmt::format("{} is not an IP address", quoted(*value)));
  return {};
}

const std::vector<Value>& Fields::list(std::string_view key, std::size_t max) {
  static const std::vector<Value> kNone;
  const Value* value = expect(key, Value::Kind::kList, "a list");
  if (value == nullptr) return kNone;
  if (value->items.size() <= max) return value->items;
  error(key, fmt::format("{} entries, at most {} are allowed", value->items.size(), max));
  return kNone;
}

std::vector<Fields::Item> Fields::texts(std::string_view key, std::size_t max) {
  std::vector<Item> out;
  const std::vector<Value>& items = list(key, max);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].kind == Value::Kind::kString) {
      out.push_back({items[i].text, items[i].at});
      continue;
    }
    out_.add(items[i].at, fmt::format("{}[{}]: expected a string, found {}{}", path_of(key), i,
                                      found(items[i]), hint(items[i], Value::Kind::kString)));
  }
  return out;
}

const Value* Fields::map(std::string_view key) {
  return expect(key, Value::Kind::kMap, "a mapping");
}

Labels Fields::labels(std::string_view key) {
  Labels out;
  const Value* value = map(key);
  if (value == nullptr) return out;
  for (std::size_t i = 0; i < value->items.size(); ++i) {
    const Value::Key& label = value->keys[i];
    const Value& item = value->items[i];
    const std::string place = path_of(key) + "." + std::string(label.text.substr(0, 80));
    if (!is_label_key(label.text)) {
      out_.add(label.at, fmt::format("{}: not a label name ([prefix/]name of at most 63 letters, "
                                     "digits, '-', '_', '.')",
                                     place));
    } else if (item.kind != Value::Kind::kString) {
      out_.add(item.at, fmt::format("{}: expected a string, found {}{}", place, found(item),
                                    hint(item, Value::Kind::kString)));
    } else if (!is_label_value(item.text)) {
      out_.add(item.at, fmt::format("{}: {} is not a label value (at most 63 letters, digits, "
                                    "'-', '_', '.')",
                                    place, quoted(item.text)));
    } else {
      out.emplace(label.text, item.text);
    }
  }
  return out;
}

void Fields::refuse(std::string_view key, std::string_view why) {
  if (get(key) != nullptr) error(key, std::string(why));
}

void Fields::error(std::string_view key, std::string reason) {
  const Value* value = map_.find(key);
  error_at(value != nullptr ? value->at : map_.at, key, std::move(reason));
}

void Fields::error_at(Position at, std::string_view key, std::string reason) {
  out_.add(at, fmt::format("{}: {}", path_of(key), reason));
}

std::string_view Fields::nearest(std::string_view key) const {
  std::string_view best;
  std::size_t best_distance = std::max<std::size_t>(key.size() / 3, 1) + 1;
  for (const std::string& known : known_) {
    const std::size_t d = distance(key, known);
    if (d < best_distance) {
      best = known;
      best_distance = d;
    }
  }
  return best;
}

void Fields::finish() {
  for (const Value::Key& key : map_.keys) {
    if (out_.full()) return;
    if (std::find(known_.begin(), known_.end(), key.text) != known_.end()) continue;
    const std::string_view near = nearest(key.text);
    out_.add(key.at, fmt::format("{}: unknown field{}", path_of(key.text.substr(0, 80)),
                                 near.empty() ? "" : fmt::format("; did you mean '{}'?", near)));
  }
}

void Fields::finish_lenient() {
  for (const Value::Key& key : map_.keys) {
    if (out_.full()) return;
    if (std::find(known_.begin(), known_.end(), key.text) != known_.end()) continue;
    const std::string_view near = nearest(key.text);
    if (near.empty()) continue;
    out_.add(key.at, fmt::format("{}: unknown field; did you mean '{}'?", path_of(key.text), near));
  }
}

}  // namespace meshnode::model
