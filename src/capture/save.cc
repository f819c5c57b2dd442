#include "capture/save.h"

#include <fmt/format.h>
#include <charconv>
#include <optional>
#include <unordered_map>

#include "capture/spec.h"

namespace meshnode::capture {
namespace {

Error at_line(std::size_t line, std::string_view what) {
  return {ErrorCode::kInvalid, fmt::format("iptables-save output, line {}: {}", line, what)};
}

std::string_view take_word(std::string_view& text) {
  const std::size_t end = std::min(text.find(' '), text.size());
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

/// Splits as iptables-restore does: blanks separate, double quotes group, a backslash inside them
/// escapes.
std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  bool quoted = false;
  bool any = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\' && i + 1 < text.size()) {
      word += text[++i];
    } else if (c == '"') {
      quoted = !quoted;
      any = true;
    } else if (c == ' ' && !quoted) {
      if (any) words.push_back(std::move(word));
      word.clear();
      any = false;
      continue;
    } else {
      word += c;
      any = true;
    }
  }
  if (any) words.push_back(std::move(word));
  return words;
}

class Parser {
 public:
  Status line(std::string_view text) {
    ++number_;
    if (text.size() > kMaxSaveLine) {
      return fail(ErrorCode::kLimit, fmt::format("iptables-save output, line {}: longer than {}",
                                                 number_, kMaxSaveLine));
    }
    if (text.empty()) return {};
    switch (text[0]) {
      case '#':
        // "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them"
        if (text.find("tables present, use") != text.npos) saved_.other_backend = true;
        return {};
      case '*':
        return table(text.substr(1));
      case ':':
        return chain(text.substr(1));
      case '[':
      case '-':
        return rule(text);
      default:
        return text == "COMMIT" ? commit()
                                : fail(at_line(number_, "neither table, chain nor rule"));
    }
  }

  Result<Saved> finish() {
    if (open_) return fail(at_line(number_, "the last table has no COMMIT"));
    return std::move(saved_);
  }

 private:
  Status table(std::string_view name) {
    if (open_) return fail(at_line(number_, "a table inside a table"));
    if (name.empty() || saved_.find(name) != nullptr) {
      return fail(at_line(number_, "a table without a name of its own"));
    }
    open_ = true;
    index_.clear();
    saved_.tables.push_back({std::string(name), {}});
    return {};
  }

  Status chain(std::string_view text) {
    const std::string_view name = take_word(text);
    if (!open_ || name.empty() || text.empty()) {
      return fail(at_line(number_, "a chain needs a table, a name and a policy"));
    }
    if (++chains_ > kMaxSaveChains) {
      return fail(ErrorCode::kLimit,
                  fmt::format("iptables-save printed more than {} chains", kMaxSaveChains));
    }
    auto& chains = saved_.tables.back().chains;
    if (!index_.emplace(name, chains.size()).second) {
      return fail(at_line(number_, "a chain twice"));
    }
    chains.push_back({std::string(name), {}});
    return {};
  }

  Status rule(std::string_view text) {
    Rule parsed;
    if (text[0] == '[') {
      const std::size_t colon = text.find(':');
      const std::size_t end = text.find("] ");
      if (colon == text.npos || end == text.npos || colon > end) {
        return fail(at_line(number_, "counters look like [packets:bytes]"));
      }
      const auto [rest, error] =
          std::from_chars(text.data() + 1, text.data() + colon, parsed.packets);
      if (error != std::errc{} || rest != text.data() + colon) {
        return fail(at_line(number_, "counters look like [packets:bytes]"));
      }
      text.remove_prefix(end + 2);
    }
    if (take_word(text) != "-A" || !open_) return fail(at_line(number_, "not a rule of a table"));
    const auto found = index_.find(std::string(take_word(text)));
    if (found == index_.end()) return fail(at_line(number_, "a rule of an unknown chain"));
    if (++rules_ > kMaxSaveRules) {
      return fail(ErrorCode::kLimit,
                  fmt::format("iptables-save printed more than {} rules", kMaxSaveRules));
    }
    parsed.text = text;
    saved_.tables.back().chains[found->second].rules.push_back(std::move(parsed));
    return {};
  }

  Status commit() {
    if (!open_) return fail(at_line(number_, "COMMIT without a table"));
    open_ = false;
    return {};
  }

  Saved saved_;
  std::unordered_map<std::string, std::size_t> index_;
  std::size_t number_ = 0;
  std::size_t rules_ = 0;
  std::size_t chains_ = 0;
  bool open_ = false;
};

std::string value_after(std::string_view rule, std::string_view option, std::string_view other) {
  const std::vector<std::string> words = words_of(rule);
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == "--comment" && option != "--comment") {
      ++i;  // a comment may say anything, "-j" included
    } else if (words[i] == option || words[i] == other) {
      return words[i + 1];
    }
  }
  return {};
}

}  // namespace

const Chain* Table::find(std::string_view chain) const {
  for (const Chain& candidate : chains) {
    if (candidate.name == chain) return &candidate;
  }
  return nullptr;
}

const Table* Saved::find(std::string_view table) const {
  for (const Table& candidate : tables) {
    if (candidate.name == table) return &candidate;
  }
  return nullptr;
}

Result<Saved> parse_save(std::string_view text) {
  if (text.size() > kMaxSaveBytes) {
    return fail(ErrorCode::kLimit,
                fmt::format("iptables-save printed more than {} bytes", kMaxSaveBytes));
  }
  Parser parser;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    if (auto done = parser.line(text.substr(0, end)); !done) return fail(done.error());
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parser.finish();
}

std::string target_of(std::string_view rule) { return value_after(rule, "-j", "-g"); }

std::string comment_of(std::string_view rule) {
  return value_after(rule, "--comment", "--comment");
}

bool jumps_to_ours(std::string_view rule) {
  // The search spares foreign rules, of which a host may have thousands, the splitting.
  return rule.find(kChainPrefix) != rule.npos && is_ours(target_of(rule));
}

std::vector<Steered> steered(const Saved& saved) {
  constexpr std::string_view kOut = "meshnode out ";
  std::vector<Steered> found;
  const Table* nat = saved.find("nat");
  if (nat == nullptr) return found;
  for (const Chain& chain : nat->chains) {
    if (!is_ours(chain.name)) continue;
    for (const Rule& rule : chain.rules) {
      const std::string comment = comment_of(rule.text);
      const auto to = SocketAddress::parse(value_after(rule.text, "--to-destination", {}));
      if (!comment.starts_with(kOut) || !to) continue;
      const std::string workload = comment.substr(kOut.size());
      const auto slot = slot_of(to->ip);
      if (!slot || !is_workload_name(workload)) continue;
      if (found.size() == kMaxWorkloads) return found;
      found.push_back({workload, *slot});
    }
  }
  return found;
}

std::string agent_of(const Saved& saved) {
  constexpr std::string_view kAnchor = "meshnode anchor ";
  const Table* mangle = saved.find("mangle");
  const Chain* anchor = mangle == nullptr ? nullptr : mangle->find("MESHNODE_ANCHOR");
  if (anchor == nullptr || anchor->rules.empty()) return {};
  const std::string comment = comment_of(anchor->rules.front().text);
  return comment.starts_with(kAnchor) ? comment.substr(kAnchor.size()) : std::string();
}

std::string show_ours(const Saved& saved) {
  std::string text;
  for (const Table& table : saved.tables) {
    std::string chains;
    std::string rules;
    for (const Chain& chain : table.chains) {
      if (is_ours(chain.name)) chains += fmt::format(":{} - [0:0]\n", chain.name);
      for (const Rule& rule : chain.rules) {
        if (is_ours(chain.name) || jumps_to_ours(rule.text)) {
          rules += fmt::format("-A {} {}\n", chain.name, rule.text);
        }
      }
    }
    if (!chains.empty() || !rules.empty()) {
      text += fmt::format("*{}\n{}{}COMMIT\n", table.name, chains, rules);
    }
  }
  return text;
}

}  // namespace meshnode::capture
