#include "supervisor/message.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <set>

#include "capture/conflicts.h"

namespace meshnode::supervisor {
namespace {

using nlohmann::json;

// Nothing on the channel nests deeper; a bound keeps 4 MiB of brackets from growing into 400 MiB.
constexpr int kMaxDepth = 4;
using capture::kMaxWorkloads;
constexpr std::size_t kMaxReasons = 64;
// Of each of a thousand workloads.
constexpr std::size_t kMaxReason = 1024;
constexpr std::size_t kMaxReportedConflicts = 2 * capture::kMaxConflicts;  // both families

std::int64_t to_millis(WallTime time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}
WallTime from_millis(std::int64_t millis) { return WallTime{std::chrono::milliseconds(millis)}; }

std::string dump(const json& body) {
  return body.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// At most `max` octets of `text`, without those that are no UTF-8: dump() would put three octets
/// in the place of each, and what the receiver measures must not be longer than what was cut here.
std::string clipped(const std::string& text, std::size_t max = kMaxText) {
  const json cut = text.substr(0, max);
  return json::parse(cut.dump(-1, ' ', false, json::error_handler_t::ignore)).get<std::string>();
}

json to_json(const Listeners& m) {
  return {{"type", "listeners"},
          {"names", m.names},
          {"slots", m.steering.slots},
          {"nextSlot", m.steering.next},
          {"restarts", m.history.restarts},
          {"lastReason", clipped(m.history.last_reason)},
          {"first", to_millis(m.history.first)},
          {"last", to_millis(m.history.last)}};
}
json to_json(const Reload&) { return {{"type", "reload"}}; }
json to_json(const Drain&) { return {{"type", "drain"}}; }
json to_json(const std::map<std::string, std::uint64_t>& counts, std::size_t max) {
  json object = json::object();
  for (const auto& [name, count] : counts) {
    if (object.size() == max) break;
    object[clipped(name)] = count;
  }
  return object;
}
json to_json(const SpaceListeners& m) {
  return {{"type", "space-listeners"}, {"slot", m.slot}, {"names", m.names}};
}
json to_json(const SpaceGone& m) { return {{"type", "space-gone"}, {"slot", m.slot}}; }
json addresses_json(const std::map<std::string, std::vector<std::string>>& spaces) {
  json object = json::object();
  for (const auto& [name, addresses] : spaces) {
    if (object.size() == kMaxSpaces) break;
    json list = json::array();
    for (const auto& address : addresses) {
      if (list.size() < kMaxSpaceAddresses) list.push_back(clipped(address));
    }
    object[clipped(name)] = std::move(list);
  }
  return object;
}
json texts_json(const std::map<std::string, std::string>& texts, std::size_t max) {
  json object = json::object();
  for (const auto& [name, text] : texts) {
    if (object.size() == max) break;
    object[clipped(name)] = clipped(text, kMaxReason);
  }
  return object;
}
json to_json(const CaptureReport& m) {
  auto waiting = m.waiting;
  if (waiting.size() > kMaxWorkloads) waiting.resize(kMaxWorkloads);
  for (auto& name : waiting) name = clipped(name);
  auto conflicts = m.conflicts;
  if (conflicts.size() > kMaxReportedConflicts) conflicts.resize(kMaxReportedConflicts);
  for (auto& line : conflicts) line = clipped(line);
  return {{"type", "capture-report"},
          {"ok", m.ok},
          {"error", clipped(m.error)},
          {"v4", m.v4},
          {"v6", m.v6},
          {"conflicts", conflicts},
          {"repaired", m.repaired},
          {"lastRepair", clipped(m.last_repair)},
          {"waiting", waiting},
          {"failed", texts_json(m.failed, kMaxWorkloads)},
          {"spaces", addresses_json(m.spaces)},
          {"undeclared", texts_json(m.undeclared, kMaxSpaces)},
          {"bypass", to_json(m.bypass, kMaxReasons)},
          {"bypassByWorkload", to_json(m.bypass_by_workload, kMaxWorkloads)}};
}
json to_json(const Ready&) { return {{"type", "ready"}}; }
json to_json(const CaptureRequest& m) {
  return {{"type", "capture"}, {"spec", capture::encode(m.spec)}, {"nextSlot", m.next_slot}};
}
json to_json(const Settings& m) {
  return {
      {"type", "settings"},
      {"drainMillis", static_cast<std::uint64_t>(m.drain_timeout / std::chrono::milliseconds(1))}};
}
json to_json(const Drained&) { return {{"type", "drained"}}; }

/// Reads the fields of one object; the first thing wrong sticks, and so does a field nobody read.
class Fields {
 public:
  explicit Fields(json object) : object_(std::move(object)) {}

  bool flag(const char* name) {
    const json* value = take(name, json::value_t::boolean);
    return value != nullptr && value->get<bool>();
  }
  std::uint64_t count(const char* name) {
    const json* value = take(name, json::value_t::number_unsigned);
    return value == nullptr ? 0 : value->get<std::uint64_t>();
  }
  std::uint16_t given_slot(const char* name) {
    const std::uint16_t found = slot(name);
    if (found == 0) complain(name);
    return found;
  }
  std::uint16_t slot(const char* name) {
    const std::uint64_t found = count(name);
    if (found > capture::kMaxSlot) complain(name);
    return static_cast<std::uint16_t>(std::min<std::uint64_t>(found, capture::kMaxSlot));
  }
  Duration drain(const char* name) {
    constexpr std::uint64_t kMost = kLongestDrain / std::chrono::milliseconds(1);
    const std::uint64_t millis = count(name);
    if (millis > kMost) complain(name);
    return std::chrono::milliseconds(std::min(millis, kMost));
  }
  std::map<std::string, std::uint16_t> slots(const char* name) {
    std::map<std::string, std::uint16_t> found;
    std::set<std::uint64_t> used;
    for (const auto& [workload, slot] : counts(name, kMaxWorkloads)) {
      const bool fresh = used.insert(slot).second;
      if (!capture::is_workload_name(workload) || slot == 0 || slot > capture::kMaxSlot || !fresh) {
        complain(name);
        return {};
      }
      found[workload] = static_cast<std::uint16_t>(slot);
    }
    return found;
  }
  WallTime time(const char* name) {
    // Beyond this a nanosecond clock overflows.
    constexpr std::uint64_t kLast = 9'000'000'000'000;
    const std::uint64_t millis = count(name);
    if (millis > kLast) complain(name);
    return from_millis(static_cast<std::int64_t>(std::min(millis, kLast)));
  }
  std::string text(const char* name, std::size_t max = kMaxText) {
    const json* value = take(name, json::value_t::string);
    if (value == nullptr) return {};
    const auto& found = value->get_ref<const std::string&>();
    if (found.size() > max) complain(name);
    return found;
  }
  std::vector<std::string> texts(const char* name, std::size_t max) {
    const json* value = take(name, json::value_t::array);
    return value == nullptr ? std::vector<std::string>{} : list(name, *value, max);
  }
  std::map<std::string, std::vector<std::string>> lists(const char* name, std::size_t max,
                                                        std::size_t max_each) {
    std::map<std::string, std::vector<std::string>> found;
    const json* value = take(name, json::value_t::object);
    if (value == nullptr) return found;
    for (const auto& [key, entry] : value->items()) {
      if (!entry.is_array() || key.size() > kMaxText || found.size() == max) {
        complain(name);
        return found;
      }
      found[key] = list(name, entry, max_each);
    }
    return found;
  }
  std::map<std::string, std::string> reasons(const char* name, std::size_t max) {
    std::map<std::string, std::string> found;
    const json* value = take(name, json::value_t::object);
    if (value == nullptr) return found;
    for (const auto& [key, entry] : value->items()) {
      if (!entry.is_string() || entry.get_ref<const std::string&>().size() > kMaxReason ||
          key.size() > kMaxText || found.size() == max) {
        complain(name);
        return found;
      }
      found[key] = entry.get<std::string>();
    }
    return found;
  }
  std::map<std::string, std::uint64_t> counts(const char* name, std::size_t max) {
    std::map<std::string, std::uint64_t> found;
    const json* value = take(name, json::value_t::object);
    if (value == nullptr) return found;
    for (const auto& [key, count] : value->items()) {
      if (!count.is_number_unsigned() || key.size() > kMaxText || found.size() == max) {
        complain(name);
        return found;
      }
      found[key] = count.get<std::uint64_t>();
    }
    return found;
  }

  Status finish() const {
    if (!bad_.empty()) return fail(ErrorCode::kInvalid, "bad field \"" + bad_ + "\" in a message");
    if (taken_ != object_.size()) return fail(ErrorCode::kInvalid, "unknown field in a message");
    return {};
  }

 private:
  std::vector<std::string> list(const char* name, const json& entries, std::size_t max) {
    std::vector<std::string> found;
    if (entries.size() > max) {
      complain(name);
      return found;
    }
    for (const auto& entry : entries) {
      if (!entry.is_string() || entry.get_ref<const std::string&>().size() > kMaxText) {
        complain(name);
        return found;
      }
      found.push_back(entry.get<std::string>());
    }
    return found;
  }
  const json* take(const char* name, json::value_t type) {
    const auto at = object_.find(name);
    if (at == object_.end() || at->type() != type) {
      complain(name);
      return nullptr;
    }
    ++taken_;
    return &*at;
  }
  void complain(const char* name) {
    if (bad_.empty()) bad_ = name;
  }

  json object_;
  std::size_t taken_ = 0;
  std::string bad_;
};

Result<Fields> parse(std::string_view text) {
  bool too_deep = false;
  const auto bounded = [&too_deep](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return depth <= kMaxDepth;
  };
  json body = json::parse(text, bounded, /*allow_exceptions=*/false);
  if (too_deep || !body.is_object()) {
    return fail(ErrorCode::kInvalid, "a message is not one flat JSON object");
  }
  return Fields(std::move(body));
}

template <class Any, class Message>
Result<Any> finished(const Fields& fields, Message message) {
  if (auto ok = fields.finish(); !ok) return fail(ok.error());
  return Any(std::move(message));
}

void read(Fields& fields, Listeners& m) {
  m.names = fields.texts("names", kMaxListeners);
  m.history.restarts = fields.count("restarts");
  m.history.last_reason = fields.text("lastReason");
  m.history.first = fields.time("first");
  m.history.last = fields.time("last");
  m.steering.slots = fields.slots("slots");
  m.steering.next = fields.slot("nextSlot");
}

void read(Fields& fields, CaptureReport& m) {
  m.ok = fields.flag("ok");
  m.error = fields.text("error");
  m.v4 = fields.flag("v4");
  m.v6 = fields.flag("v6");
  m.conflicts = fields.texts("conflicts", kMaxReportedConflicts);
  m.repaired = fields.count("repaired");
  m.last_repair = fields.text("lastRepair");
  m.waiting = fields.texts("waiting", kMaxWorkloads);
  m.failed = fields.reasons("failed", kMaxWorkloads);
  m.spaces = fields.lists("spaces", kMaxSpaces, kMaxSpaceAddresses);
  m.undeclared = fields.reasons("undeclared", kMaxSpaces);
  m.bypass = fields.counts("bypass", kMaxReasons);
  m.bypass_by_workload = fields.counts("bypassByWorkload", kMaxWorkloads);
}

}  // namespace

std::string encode(const ToWorker& message) {
  return std::visit([](const auto& m) { return dump(to_json(m)); }, message);
}
std::string encode(const ToSupervisor& message) {
  return std::visit([](const auto& m) { return dump(to_json(m)); }, message);
}

Result<ToWorker> decode_to_worker(std::string_view text) {
  auto fields = parse(text);
  if (!fields) return fail(fields.error());
  const std::string type = fields->text("type");
  if (type == "listeners") {
    Listeners m;
    read(*fields, m);
    return finished<ToWorker>(*fields, std::move(m));
  }
  if (type == "reload") return finished<ToWorker>(*fields, Reload{});
  if (type == "drain") return finished<ToWorker>(*fields, Drain{});
  if (type == "capture-report") {
    CaptureReport m;
    read(*fields, m);
    return finished<ToWorker>(*fields, std::move(m));
  }
  if (type == "space-listeners") {
    SpaceListeners m;
    m.slot = fields->given_slot("slot");
    m.names = fields->texts("names", kMaxListeners);
    return finished<ToWorker>(*fields, std::move(m));
  }
  if (type == "space-gone") {
    return finished<ToWorker>(*fields, SpaceGone{fields->given_slot("slot")});
  }
  return fail(ErrorCode::kInvalid, "unknown message type");
}

Result<ToSupervisor> decode_to_supervisor(std::string_view text) {
  auto fields = parse(text);
  if (!fields) return fail(fields.error());
  const std::string type = fields->text("type");
  if (type == "ready") return finished<ToSupervisor>(*fields, Ready{});
  if (type == "drained") return finished<ToSupervisor>(*fields, Drained{});
  if (type == "settings")
    return finished<ToSupervisor>(*fields, Settings{fields->drain("drainMillis")});
  if (type == "capture") {
    const std::string spec = fields->text("spec", text.size());
    const std::uint16_t next = fields->slot("nextSlot");
    if (next == 0) return fail(ErrorCode::kInvalid, "slot 0 is given to nobody");
    if (auto ok = fields->finish(); !ok) return fail(ok.error());
    auto decoded = capture::decode(spec);
    if (!decoded) return fail(decoded.error());
    return ToSupervisor(CaptureRequest{std::move(*decoded), next});
  }
  return fail(ErrorCode::kInvalid, "unknown message type");
}

}  // namespace meshnode::supervisor
