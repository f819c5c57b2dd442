#include "capture/restore.h"

#include <fmt/format.h>
#include <algorithm>

namespace meshnode::capture {
namespace {

bool leads_to_ours(const Rule& rule) { return jumps_to_ours(rule.text); }

bool same_rules(const Chain* chain, const std::vector<std::string>& wanted) {
  return chain != nullptr &&
         std::equal(chain->rules.begin(), chain->rules.end(), wanted.begin(), wanted.end(),
                    [](const Rule& rule, const std::string& text) { return rule.text == text; });
}

std::vector<const Jump*> jumps_of(const OwnTable& table, std::string_view chain, bool first) {
  std::vector<const Jump*> found;
  for (const Jump& jump : table.jumps) {
    if (jump.chain == chain && jump.first == first) found.push_back(&jump);
  }
  return found;
}

/// Every chain that is not ours and has, or should have, a rule that leads into ours.
std::vector<std::string> foreign_chains(const Table* current, const OwnTable& wanted) {
  std::vector<std::string> names;
  if (current != nullptr) {
    for (const Chain& chain : current->chains) {
      if (!is_ours(chain.name) &&
          std::any_of(chain.rules.begin(), chain.rules.end(), leads_to_ours)) {
        names.push_back(chain.name);
      }
    }
  }
  for (const Jump& jump : wanted.jumps) {
    if (std::find(names.begin(), names.end(), jump.chain) == names.end()) {
      names.push_back(jump.chain);
    }
  }
  return names;
}

bool jumps_in_place(const Chain* chain, const std::vector<const Jump*>& first,
                    const std::vector<const Jump*>& anywhere) {
  if (chain == nullptr) return first.empty() && anywhere.empty();
  const auto ours = std::count_if(chain->rules.begin(), chain->rules.end(), leads_to_ours);
  if (static_cast<std::size_t>(ours) != first.size() + anywhere.size()) return false;
  for (std::size_t i = 0; i < first.size(); ++i) {
    if (chain->rules[i].text != first[i]->rule) return false;
  }
  return std::all_of(anywhere.begin(), anywhere.end(), [&](const Jump* jump) {
    return std::any_of(chain->rules.begin(), chain->rules.end(),
                       [&](const Rule& rule) { return rule.text == jump->rule; });
  });
}

struct TableDifference {
  std::vector<const OwnChain*> chains;  ///< to be refilled
  std::vector<std::string> surplus;     ///< chains of ours that are not wanted
  std::vector<std::string> jumps;       ///< foreign chains whose jumps are out of place
  bool empty() const { return chains.empty() && surplus.empty() && jumps.empty(); }
};

TableDifference compare(const Table* current, const OwnTable& wanted, bool again) {
  TableDifference difference;
  for (const OwnChain& chain : wanted.chains) {
    const Chain* there = current == nullptr ? nullptr : current->find(chain.name);
    if (again || !same_rules(there, chain.rules)) difference.chains.push_back(&chain);
  }
  if (current != nullptr) {
    for (const Chain& chain : current->chains) {
      const bool kept = std::any_of(wanted.chains.begin(), wanted.chains.end(),
                                    [&](const OwnChain& own) { return own.name == chain.name; });
      if (is_ours(chain.name) && !kept) difference.surplus.push_back(chain.name);
    }
  }
  for (const std::string& name : foreign_chains(current, wanted)) {
    const Chain* chain = current == nullptr ? nullptr : current->find(name);
    if (!jumps_in_place(chain, jumps_of(wanted, name, true), jumps_of(wanted, name, false))) {
      difference.jumps.push_back(name);
    }
  }
  return difference;
}

std::string table_text(const Table* current, const OwnTable& wanted, bool again) {
  const TableDifference difference = compare(current, wanted, again);
  if (difference.empty()) return {};
  std::string text = fmt::format("*{}\n", wanted.name);
  // Declaring a chain that exists empties it, --noflush or not.
  for (const OwnChain* chain : difference.chains) text += fmt::format(":{} - [0:0]\n", chain->name);
  for (const std::string& name : difference.surplus) text += fmt::format(":{} - [0:0]\n", name);
  for (const std::string& name : difference.jumps) {
    const Chain* chain = current == nullptr ? nullptr : current->find(name);
    if (chain == nullptr) continue;
    for (const Rule& rule : chain->rules) {
      if (leads_to_ours(rule)) text += fmt::format("-D {} {}\n", name, rule.text);
    }
  }
  for (const OwnChain* chain : difference.chains) {
    for (const std::string& rule : chain->rules)
      text += fmt::format("-A {} {}\n", chain->name, rule);
  }
  for (const std::string& name : difference.jumps) {
    const std::vector<const Jump*> first = jumps_of(wanted, name, true);
    for (auto jump = first.rbegin(); jump != first.rend(); ++jump) {
      text += fmt::format("-I {} 1 {}\n", name, (*jump)->rule);
    }
    for (const Jump* jump : jumps_of(wanted, name, false)) {
      text += fmt::format("-A {} {}\n", name, jump->rule);
    }
  }
  for (const std::string& name : difference.surplus) text += fmt::format("-X {}\n", name);
  return text + "COMMIT\n";
}

bool has_ours(const Table& table) {
  return std::any_of(table.chains.begin(), table.chains.end(), [](const Chain& chain) {
    return is_ours(chain.name) ||
           std::any_of(chain.rules.begin(), chain.rules.end(), leads_to_ours);
  });
}

bool has_table(const Ruleset& wanted, std::string_view name) {
  return std::any_of(wanted.begin(), wanted.end(),
                     [&](const OwnTable& table) { return table.name == name; });
}

/// Tables to be emptied, the backstops before the steering they stand behind.
std::vector<OwnTable> surplus_tables(const Saved& current, const Ruleset& wanted) {
  std::vector<OwnTable> surplus;
  for (const Table& table : current.tables) {
    if (!has_table(wanted, table.name) && has_ours(table)) {
      surplus.push_back({table.name, {}, {}});
    }
  }
  std::stable_partition(surplus.begin(), surplus.end(),
                        [](const OwnTable& table) { return table.name == "filter"; });
  return surplus;
}

}  // namespace

std::string restore_text(const Saved& current, const Ruleset& wanted, bool again) {
  std::string text;
  for (const OwnTable& table : surplus_tables(current, wanted)) {
    text += table_text(current.find(table.name), table, false);
  }
  for (const OwnTable& table : wanted) {
    text += table_text(current.find(table.name), table, again);
  }
  return text;
}

std::vector<std::string> differences(const Saved& current, const Ruleset& wanted) {
  Ruleset all = surplus_tables(current, wanted);
  all.insert(all.end(), wanted.begin(), wanted.end());
  std::vector<std::string> lines;
  for (const OwnTable& table : all) {
    const Table* there = current.find(table.name);
    const TableDifference difference = compare(there, table, false);
    for (const OwnChain* chain : difference.chains) {
      const bool missing = there == nullptr || there->find(chain->name) == nullptr;
      lines.push_back(fmt::format("{} {}: {}", table.name, chain->name,
                                  missing ? "chain missing" : "rules differ"));
    }
    for (const std::string& name : difference.surplus) {
      lines.push_back(fmt::format("{} {}: a chain too many", table.name, name));
    }
    for (const std::string& name : difference.jumps) {
      lines.push_back(
          fmt::format("{} {}: our jumps are missing or not in their place", table.name, name));
    }
  }
  return lines;
}

Ruleset own_part(const Saved& saved) {
  Ruleset own;
  for (const Table& table : saved.tables) {
    OwnTable part{table.name, {}, {}};
    for (const Chain& chain : table.chains) {
      if (is_ours(chain.name)) {
        OwnChain& copy = part.chains.emplace_back(OwnChain{chain.name, {}});
        for (const Rule& rule : chain.rules) copy.rules.push_back(rule.text);
        continue;
      }
      bool first = true;
      for (const Rule& rule : chain.rules) {
        if (leads_to_ours(rule)) {
          part.jumps.push_back({chain.name, rule.text, first});
        } else {
          first = false;
        }
      }
    }
    if (!part.chains.empty() || !part.jumps.empty()) own.push_back(std::move(part));
  }
  return own;
}

Result<Ruleset> adopt(const Saved& saved, const Ruleset& wanted) {
  const Ruleset printed = own_part(saved);
  Ruleset adopted = wanted;
  for (OwnTable& table : adopted) {
    const auto there = std::find_if(printed.begin(), printed.end(), [&](const OwnTable& candidate) {
      return candidate.name == table.name;
    });
    const Error gone{ErrorCode::kInternal,
                     fmt::format("the {} rules are not there although they were just written; does "
                                 "another program rewrite the packet filter?",
                                 table.name)};
    if (there == printed.end() || there->chains.size() != table.chains.size() ||
        there->jumps.size() != table.jumps.size()) {
      return fail(gone);
    }
    for (OwnChain& chain : table.chains) {
      const auto same = std::find_if(there->chains.begin(), there->chains.end(),
                                     [&](const OwnChain& own) { return own.name == chain.name; });
      if (same == there->chains.end() || same->rules.size() != chain.rules.size()) {
        return fail(gone);
      }
      chain.rules = same->rules;
    }
    for (Jump& jump : table.jumps) {
      const auto same =
          std::find_if(there->jumps.begin(), there->jumps.end(), [&](const Jump& own) {
            return own.chain == jump.chain && (own.first || !jump.first) &&
                   target_of(own.rule) == target_of(jump.rule);
          });
      if (same == there->jumps.end()) return fail(gone);
      jump.rule = same->rule;
    }
  }
  return adopted;
}

}  // namespace meshnode::capture
