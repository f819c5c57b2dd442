#include "base/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>

#include "base/escape.h"

namespace meshnode::log {
namespace {

constexpr std::size_t kMaxScopes = 64;
constexpr std::size_t kMaxScope = 32;
constexpr std::array<std::string_view, 5> kNames = {"trace", "debug", "info", "warn", "error"};

struct State {
  std::mutex mutex;
  Level level = Level::kInfo;
  std::map<std::string, Level, std::less<>> scopes;
  Format format = Format::kText;
  std::function<void(std::string_view)> sink;
  std::shared_ptr<spdlog::logger> logger;
  std::string line;
  /// The lowest level any scope writes, so that silent calls cost one load.
  std::atomic<Level> lowest{Level::kInfo};

  State() {
    logger =
        std::make_shared<spdlog::logger>("", std::make_shared<spdlog::sinks::stderr_sink_st>());
    logger->set_pattern("%v");
    logger->set_level(spdlog::level::trace);
  }
  Level of(std::string_view scope) const {
    auto found = scopes.find(scope);
    return found == scopes.end() ? level : found->second;
  }
};

// Never destroyed: threads may still log while main returns.
State& state() {
  static State* instance = new State;
  return *instance;
}

bool is_scope(std::string_view text) {
  return !text.empty() && text.size() <= kMaxScope &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
         });
}

template <class T>
void append_number(std::string& out, T value) {
  std::array<char, 24> digits{};
  auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  out.append(digits.data(), end);
}

void append_value(std::string& out, Format format, const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kBool:
      out += value.number() != 0 ? "true" : "false";
      return;
    case Value::Kind::kSigned:
      append_number(out, static_cast<std::int64_t>(value.number()));
      return;
    case Value::Kind::kUnsigned:
      append_number(out, value.number());
      return;
    case Value::Kind::kText:
    case Value::Kind::kBare:
      break;
  }
  if (format == Format::kJson) {
    append_json(out, value.text());
  } else if (value.kind() == Value::Kind::kBare) {
    append_escaped(out, value.text());
  } else {
    out += '"';
    append_escaped(out, value.text());
    out += '"';
  }
}

}  // namespace

std::string_view level_name(Level level) { return kNames[static_cast<std::size_t>(level)]; }

Result<Level> parse_level(std::string_view name) {
  auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) {
    return fail(ErrorCode::kInvalid,
                "log level " + quoted(name) + " is unknown; use trace, debug, info, warn or error");
  }
  return static_cast<Level>(found - kNames.begin());
}

void append_line(std::string& out, Format format, WallTime time, Level level,
                 std::string_view scope, std::string_view message, std::span<const Field> fields) {
  if (format == Format::kJson) {
    out += "{\"time\":\"" + rfc3339_millis(time) + "\",\"level\":\"";
    out += level_name(level);
    out += "\",\"scope\":";
    append_json(out, scope);
    out += ",\"message\":";
    append_json(out, message);
    for (const Field& field : fields) {
      out += ',';
      append_json(out, field.key);
      out += ':';
      append_value(out, format, field.value);
    }
    out += '}';
    return;
  }
  out += rfc3339_millis(time);
  out += '\t';
  out += level_name(level);
  out += '\t';
  append_escaped(out, scope);
  out += '\t';
  append_escaped(out, message);
  for (const Field& field : fields) {
    out += ' ';
    append_escaped(out, field.key);
    out += '=';
    append_value(out, format, field.value);
  }
}

bool enabled(Level level, std::string_view scope) {
  State& all = state();
  if (level < all.lowest.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(all.mutex);
  return level >= all.of(scope);
}

void write(Level level, std::string_view scope, std::string_view message, Fields fields) {
  State& all = state();
  if (level < all.lowest.load(std::memory_order_relaxed)) return;
  WallTime now = std::chrono::system_clock::now();
  std::lock_guard lock(all.mutex);
  if (level < all.of(scope)) return;
  all.line.clear();
  append_line(all.line, all.format, now, level, scope, message, {fields.begin(), fields.size()});
  if (all.sink) {
    all.sink(all.line);
  } else {
    all.logger->log(spdlog::level::info, spdlog::string_view_t(all.line.data(), all.line.size()));
  }
}

Status set_level(std::string_view setting) {
  std::size_t colon = setting.find(':');
  auto level = parse_level(colon == setting.npos ? setting : setting.substr(colon + 1));
  if (!level) return fail(level.error());
  State& all = state();
  std::lock_guard lock(all.mutex);
  if (colon == setting.npos) {
    all.level = *level;
    all.scopes.clear();
  } else {
    std::string_view scope = setting.substr(0, colon);
    if (!is_scope(scope)) {
      return fail(ErrorCode::kInvalid, "log scope " + quoted(scope) +
                                           " is no name; write LEVEL or scope:LEVEL, e.g. "
                                           "proxy:debug");
    }
    if (all.scopes.size() >= kMaxScopes && !all.scopes.contains(scope)) {
      return fail(ErrorCode::kLimit,
                  "64 log scopes have levels of their own; set a level for all first");
    }
    all.scopes.insert_or_assign(std::string(scope), *level);
  }
  Level lowest = all.level;
  for (const auto& [name, of_scope] : all.scopes) lowest = std::min(lowest, of_scope);
  all.lowest.store(lowest, std::memory_order_relaxed);
  return {};
}

void set_format(Format format) {
  State& all = state();
  std::lock_guard lock(all.mutex);
  all.format = format;
}

void set_sink(std::function<void(std::string_view)> sink) {
  State& all = state();
  std::lock_guard lock(all.mutex);
  all.sink = std::move(sink);
}

}  // namespace meshnode::log
