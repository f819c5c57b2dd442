#include "model/yaml.h"

#include <fmt/format.h>
#include <yaml.h>
#include <algorithm>
#include <charconv>
#include <optional>
#include <unordered_set>
#include <utility>
#include "model/text_scan.h"

namespace meshnode::model {
namespace {

using Failure = std::optional<TextError>;

bool all_digits(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// What YAML 1.1 or 1.2 would call a number although it is no plain decimal integer.
bool looks_numeric(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  if (text == ".inf" || text == ".Inf" || text == ".INF" || text == ".nan" || text == ".NaN" ||
      text == ".NAN") {
    return true;
  }
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'o' || text[1] == 'b')) {
    return text.find_first_not_of("0123456789abcdefABCDEF_", 2) == std::string_view::npos;
  }
  bool digit = false;
  bool dot = false;
  bool exponent = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c >= '0' && c <= '9') {
      digit = true;
    } else if (c == '.' && !dot && !exponent) {
      dot = true;
    } else if ((c == 'e' || c == 'E') && digit && !exponent && i + 1 < text.size()) {
      exponent = true;
      if ((text[i + 1] == '+' || text[i + 1] == '-') && i + 2 < text.size()) ++i;
    } else if (c != '_' || !digit) {
      return false;
    }
  }
  return digit;
}

void classify_plain(Value& value) {
  const std::string& text = value.text;
  if (text.empty() || text == "~" || text == "null") {
    value.kind = Value::Kind::kNull;
  } else if (text == "true" || text == "false") {
    value.kind = Value::Kind::kBool;
    value.boolean = text == "true";
  } else if (const std::string_view digits = std::string_view(text).substr(text[0] == '-' ? 1 : 0);
             all_digits(digits) && (digits.size() == 1 || digits[0] != '0')) {
    const auto end = text.data() + text.size();
    const bool fits = std::from_chars(text.data(), end, value.integer).ec == std::errc{};
    value.kind = fits ? Value::Kind::kInteger : Value::Kind::kNumber;
  } else {
    value.kind = looks_numeric(text) ? Value::Kind::kNumber : Value::Kind::kString;
  }
}

Position position(const yaml_mark_t& mark) {
  return {static_cast<unsigned>(mark.line) + 1, static_cast<unsigned>(mark.column) + 1};
}

class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { yaml_event_delete(&raw); }
  yaml_event_t raw{};
};

class Reader {
 public:
  Reader(std::string_view text, const LineStarts& lines) : text_(text), lines_(lines) {
    ready_ = yaml_parser_initialize(&parser_) == 1;
    if (!ready_) return;
    yaml_parser_set_encoding(&parser_, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text.data()),
                                 text.size());
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() {
    if (ready_) yaml_parser_delete(&parser_);
  }

  tl::expected<std::vector<Document>, TextError> run() {
    if (!ready_) return tl::unexpected<TextError>({{}, "out of memory"});
    for (;;) {
      Event event;
      if (yaml_parser_parse(&parser_, &event.raw) != 1) return tl::unexpected(parser_error());
      if (event.raw.type == YAML_STREAM_END_EVENT) return std::move(documents_);
      if (Failure failure = take(event.raw)) return tl::unexpected(std::move(*failure));
    }
  }

 private:
  struct Frame {
    Value value;
    bool has_key = false;
    std::unordered_set<std::string> seen;
  };

  TextError parser_error() const {
    if (parser_.error == YAML_READER_ERROR) {
      return {position_of(text_, lines_, parser_.problem_offset), parser_.problem};
    }
    const char* problem = parser_.problem != nullptr ? parser_.problem : "out of memory";
    std::string reason = "not valid YAML: ";
    reason += problem;
    if (parser_.context != nullptr) reason += fmt::format(" ({})", parser_.context);
    return {position(parser_.problem_mark), std::move(reason)};
  }

  Failure take(const yaml_event_t& event) {
    const Position at = position(event.start_mark);
    switch (event.type) {
      case YAML_DOCUMENT_START_EVENT:
        return begin_document(event);
      case YAML_DOCUMENT_END_EVENT:
        end_document(event);
        return {};
      case YAML_ALIAS_EVENT:
        return TextError{at, "aliases (*name) are not allowed; write the value out"};
      case YAML_SCALAR_EVENT:
        return scalar(event, at);
      case YAML_SEQUENCE_START_EVENT:
        return open(Value::Kind::kList, event.data.sequence_start.anchor,
                    event.data.sequence_start.tag, at);
      case YAML_MAPPING_START_EVENT:
        return open(Value::Kind::kMap, event.data.mapping_start.anchor,
                    event.data.mapping_start.tag, at);
      case YAML_SEQUENCE_END_EVENT:
      case YAML_MAPPING_END_EVENT: {
        Value done = std::move(stack_.back().value);
        stack_.pop_back();
        place(std::move(done));
        return {};
      }
      default:
        return {};
    }
  }

  Failure begin_document(const yaml_event_t& event) {
    const Position at = position(event.start_mark);
    if (++document_count_ > kMaxYamlDocuments) {
      return TextError{
          at, fmt::format("more than {} documents in one file; split the file", kMaxYamlDocuments)};
    }
    document_ = {};
    document_.first_line = at.line;
    document_.begin = line_start(event.start_mark.line);
    return {};
  }

  void end_document(const yaml_event_t& event) {
    // An implicit end lies at the first column of what follows, or at the end of the text.
    const yaml_mark_t& mark = event.end_mark;
    document_.end = line_start(mark.column == 0 ? mark.line : mark.line + 1);
    if (document_.end <= document_.begin) document_.end = text_.size();
    if (document_.root.kind != Value::Kind::kNull) documents_.push_back(std::move(document_));
  }

  std::size_t line_start(std::size_t line) const {
    return line < lines_.size() ? lines_[line] : text_.size();
  }

  Failure check_node(const unsigned char* anchor, const unsigned char* tag, Position at) {
    if (anchor != nullptr) {
      return TextError{at, "anchors (&name) are not allowed; write the value out where it is used"};
    }
    if (tag != nullptr) return TextError{at, "tags (!name) are not allowed; remove the tag"};
    if (++value_count_ > kMaxYamlValues) {
      return TextError{
          at, fmt::format("more than {} values in one file; split the file", kMaxYamlValues)};
    }
    return {};
  }

  Failure open(Value::Kind kind, const unsigned char* anchor, const unsigned char* tag,
               Position at) {
    if (Failure failure = check_node(anchor, tag, at)) return failure;
    if (wants_key()) return TextError{at, "a key must be a string, not a list or a mapping"};
    if (stack_.size() >= kMaxYamlDepth) {
      return TextError{at, fmt::format("nested deeper than {} levels", kMaxYamlDepth)};
    }
    Frame frame;
    frame.value.kind = kind;
    frame.value.at = at;
    stack_.push_back(std::move(frame));
    return {};
  }

  Failure scalar(const yaml_event_t& event, Position at) {
    const auto& raw = event.data.scalar;
    if (Failure failure = check_node(raw.anchor, raw.tag, at)) return failure;
    Value value;
    value.at = at;
    value.text.assign(reinterpret_cast<const char*>(raw.value), raw.length);
    value.kind = Value::Kind::kString;
    if (raw.style == YAML_PLAIN_SCALAR_STYLE) classify_plain(value);
    if (wants_key()) return key(std::move(value));
    place(std::move(value));
    return {};
  }

  Failure key(Value value) {
    if (value.kind != Value::Kind::kString) {
      return TextError{value.at, fmt::format("key '{}' is {}, not a string; put it in quotes",
                                             value.text, describe(value.kind))};
    }
    if (value.text == "<<") {
      return TextError{value.at, "merge keys (<<) are not allowed; write the fields out"};
    }
    Frame& frame = stack_.back();
    if (!frame.seen.insert(value.text).second) {
      return TextError{value.at, fmt::format("duplicate key '{}'; remove one of them", value.text)};
    }
    frame.value.keys.push_back({std::move(value.text), value.at});
    frame.has_key = true;
    return {};
  }

  bool wants_key() const {
    return !stack_.empty() && stack_.back().value.kind == Value::Kind::kMap &&
           !stack_.back().has_key;
  }

  void place(Value value) {
    if (stack_.empty()) {
      document_.root = std::move(value);
      return;
    }
    stack_.back().value.items.push_back(std::move(value));
    stack_.back().has_key = false;
  }

  std::string_view text_;
  const LineStarts& lines_;
  yaml_parser_t parser_{};
  bool ready_ = false;
  std::vector<Frame> stack_;
  Document document_;
  std::vector<Document> documents_;
  std::size_t document_count_ = 0;
  std::size_t value_count_ = 0;
};

}  // namespace

const Value* Value::find(std::string_view key) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].text == key) return &items[i];
  }
  return nullptr;
}

std::string_view describe(Value::Kind kind) {
  switch (kind) {
    case Value::Kind::kNull:
      return "null";
    case Value::Kind::kBool:
      return "a boolean";
    case Value::Kind::kInteger:
      return "an integer";
    case Value::Kind::kNumber:
      return "a number";
    case Value::Kind::kString:
      return "a string";
    case Value::Kind::kList:
      return "a list";
    case Value::Kind::kMap:
      return "a mapping";
  }
  return "a value";
}

tl::expected<std::vector<Document>, TextError> parse_yaml(std::string_view text) {
  if (text.size() > kMaxYamlBytes) {
    return tl::unexpected<TextError>(
        {{},
         fmt::format("the file has {} bytes, more than the {} allowed; split it", text.size(),
                     kMaxYamlBytes)});
  }
  static constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  const bool marked = text.substr(0, kByteOrderMark.size()) == kByteOrderMark;
  if (marked) text.remove_prefix(kByteOrderMark.size());
  const auto lines = scan_text(text);
  if (!lines) return tl::unexpected(lines.error());
  auto documents = Reader(text, *lines).run();
  if (documents && marked) {
    for (Document& document : *documents) {
      document.begin += kByteOrderMark.size();
      document.end += kByteOrderMark.size();
    }
  }
  return documents;
}

}  // namespace meshnode::model
