#include "policy/rule_index.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <utility>

namespace meshnode::policy {
namespace {

enum Text : std::uint8_t { kUri, kNamespace, kAccount, kTrustDomain, kSni };
enum Addresses : std::uint8_t { kSource, kRemote, kDestination };

constexpr std::uint64_t kOffset = 0xcbf29ce484222325U;
constexpr std::uint64_t kPrime = 0x100000001b3U;

std::uint64_t mix(std::uint64_t hash, std::uint8_t byte) { return (hash ^ byte) * kPrime; }

/// FNV leaves the high bits poor, and tables take the low ones of a product of them.
std::uint64_t finish(std::uint64_t hash) { return hash ^ (hash >> 29U); }

std::uint64_t start(std::uint8_t kind, std::size_t dimension) {
  return mix(mix(kOffset, kind), static_cast<std::uint8_t>(dimension));
}

std::uint64_t key_of(std::uint8_t kind, std::size_t dimension, std::string_view text) {
  std::uint64_t hash = start(kind, dimension);
  for (const char c : text) hash = mix(hash, static_cast<std::uint8_t>(c));
  return finish(hash);
}

enum Kind : std::uint8_t { kExact, kPrefix, kSuffix, kPresent, kBlock, kPort };

std::uint64_t key_of(std::size_t dimension, const Block& block) {
  std::uint64_t hash = mix(start(kBlock, dimension), static_cast<std::uint8_t>(block.length));
  for (const std::uint8_t byte : block.base.bytes()) hash = mix(hash, byte);
  return finish(hash);
}

std::uint64_t key_of(std::uint16_t port) {
  return finish(mix(mix(start(kPort, 0), static_cast<std::uint8_t>(port >> 8U)),
                    static_cast<std::uint8_t>(port & 0xFFU)));
}

template <class Item>
void add_once(std::vector<Item>& list, const Item& item) {
  if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
}

}  // namespace

/// How often each alternative is demanded by any rule, and which demand of a rule is the rarest.
struct RuleIndex::Filing {
  explicit Filing(RuleIndex& index) : of(index) {}

  /// No values: demands nothing. A glob can't be looked up.
  std::optional<Demand> demand(std::size_t dimension, const Field<TextSet>& field) {
    if (field.any.empty()) return {};
    Lengths& lengths = of.texts_[dimension];
    Demand out;
    for (const std::string& text : field.any.exact()) {
      lengths.exact = true;
      out.push_back(key_of(kExact, dimension, text));
    }
    for (const TextPattern& pattern : field.any.patterns()) {
      switch (pattern.kind) {
        case TextPattern::Kind::kPrefix:
          add_once(lengths.prefixes, pattern.text.size());
          out.push_back(key_of(kPrefix, dimension, pattern.text));
          break;
        case TextPattern::Kind::kSuffix:
          add_once(lengths.suffixes, pattern.text.size());
          out.push_back(key_of(kSuffix, dimension, pattern.text));
          break;
        default:
          // Of a glob no more is known than that there is something to match.
          lengths.present = true;
          out.push_back(key_of(kPresent, dimension, {}));
      }
    }
    return out;
  }
  std::optional<Demand> demand(std::size_t dimension, const Field<BlockSet>& field) {
    if (field.any.empty()) return {};
    Demand out;
    for (const Block& block : field.any.blocks()) {
      add_once(of.blocks_[dimension], {block.base.family(), block.length});
      out.push_back(key_of(dimension, block));
    }
    return out;
  }
  std::optional<Demand> demand(const Field<PortSet>& field) {
    if (field.any.empty()) return {};
    of.ports_ = true;
    Demand out;
    for (const std::uint16_t port : field.any.ports) out.push_back(key_of(port));
    return out;
  }

  using Choices = std::vector<Demand>;  // each by itself is demanded
  void choose(Choices& choices, std::optional<Demand> demand) {
    if (demand) choices.push_back(std::move(*demand));
  }
  Choices of_source(const CompiledSource& source) {
    Choices out;
    choose(out, demand(kUri, source.principals));
    choose(out, demand(kNamespace, source.namespaces));
    choose(out, demand(kAccount, source.accounts));
    choose(out, demand(kTrustDomain, source.trust_domains));
    choose(out, demand(kSource, source.blocks));
    choose(out, demand(kRemote, source.remote_blocks));
    return out;
  }
  Choices of_operation(const CompiledOperation& operation) {
    Choices out;
    choose(out, demand(operation.ports));
    return out;
  }
  Choices of_condition(const CompiledCondition& condition) {
    using Key = CompiledCondition::Key;
    const auto text = [&](Text dimension) {
      return demand(dimension, std::get<Field<TextSet>>(condition.values));
    };
    const auto block = [&](Addresses dimension) {
      return demand(dimension, std::get<Field<BlockSet>>(condition.values));
    };
    Choices out;
    switch (condition.key) {
      case Key::kSourceIp:
        choose(out, block(kSource));
        break;
      case Key::kRemoteIp:
        choose(out, block(kRemote));
        break;
      case Key::kDestinationIp:
        choose(out, block(kDestination));
        break;
      case Key::kDestinationPort:
        choose(out, demand(std::get<Field<PortSet>>(condition.values)));
        break;
      case Key::kNamespace:
        choose(out, text(kNamespace));
        break;
      case Key::kAccount:
        choose(out, text(kAccount));
        break;
      case Key::kTrustDomain:
        choose(out, text(kTrustDomain));
        break;
      case Key::kPrincipal:
        choose(out, text(kUri));
        break;
      case Key::kSni:
        choose(out, text(kSni));
        break;
      default:
        break;
    }
    return out;
  }

  /// Of each alternative of a list the choices; without a list, or where one alternative demands
  /// nothing that can be looked up, nothing is demanded.
  using Alternatives = std::vector<Choices>;
  struct Wanted {
    std::vector<Alternatives> lists;
  };
  Wanted wanted(const CompiledRule& rule) {
    Wanted out;
    Alternatives from;
    for (const CompiledSource& source : rule.from) from.push_back(of_source(source));
    Alternatives to;
    for (const CompiledOperation& operation : rule.to) to.push_back(of_operation(operation));
    out.lists.push_back(std::move(from));
    out.lists.push_back(std::move(to));
    for (const CompiledCondition& condition : rule.when) {
      out.lists.push_back({of_condition(condition)});
    }
    std::erase_if(out.lists, [](const Alternatives& list) {
      return list.empty() || std::any_of(list.begin(), list.end(),
                                         [](const Choices& each) { return each.empty(); });
    });
    return out;
  }

  void count(const Wanted& wanted) {
    for (const Alternatives& list : wanted.lists) {
      for (const Choices& choices : list) {
        for (const Demand& demand : choices) {
          for (const std::uint64_t key : demand) ++often[key];
        }
      }
    }
  }
  /// How many rules at most are looked at for this.
  std::size_t weight(const Demand& demand) const {
    std::size_t most = 0;
    for (const std::uint64_t key : demand) most = std::max(most, often.at(key));
    return most;
  }
  /// The rarest: of each alternative the rarest choice, of the lists the one whose worst is rarest.
  std::optional<Demand> rarest(const Wanted& wanted) const {
    std::optional<Demand> best;
    std::size_t best_weight = std::numeric_limits<std::size_t>::max();
    for (const Alternatives& list : wanted.lists) {
      Demand all;
      std::size_t worst = 0;
      for (const Choices& choices : list) {
        const auto lightest =
            std::min_element(choices.begin(), choices.end(), [&](const auto& a, const auto& b) {
              return weight(a) < weight(b);
            });
        worst = std::max(worst, weight(*lightest));
        all.insert(all.end(), lightest->begin(), lightest->end());
      }
      if (worst < best_weight) {
        best_weight = worst;
        best = std::move(all);
      }
    }
    return best;
  }

  RuleIndex& of;
  std::unordered_map<std::uint64_t, std::size_t> often;
};

RuleIndex::RuleIndex(std::vector<CompiledRule> rules) : rules_(std::move(rules)) {
  Filing filing(*this);
  std::vector<Filing::Wanted> all;
  all.reserve(rules_.size());
  for (const CompiledRule& rule : rules_) {
    all.push_back(filing.wanted(rule));
    filing.count(all.back());
  }
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    if (const auto demand = filing.rarest(all[i])) {
      file(i, *demand);
    } else {
      always_.push_back(static_cast<std::uint32_t>(i));
    }
  }
}

void RuleIndex::file(std::size_t rule, const Demand& demand) {
  for (const std::uint64_t key : demand) {
    auto& list = filed_[key];
    if (list.empty() || list.back() != rule) list.push_back(static_cast<std::uint32_t>(rule));
  }
}

template <class Each>
void RuleIndex::text_keys(std::size_t dimension, std::string_view text, const Each& each) const {
  if (text.empty()) return;
  const Lengths& lengths = texts_[dimension];
  if (lengths.exact) each(key_of(kExact, dimension, text));
  if (lengths.present) each(key_of(kPresent, dimension, {}));
  for (const std::size_t length : lengths.prefixes) {
    if (length <= text.size()) each(key_of(kPrefix, dimension, text.substr(0, length)));
  }
  for (const std::size_t length : lengths.suffixes) {
    if (length <= text.size()) {
      each(key_of(kSuffix, dimension, text.substr(text.size() - length)));
    }
  }
}

/// Calls `each` with every list that holds rules that may match.
template <class Each>
void RuleIndex::candidates(const Facts& facts, const Each& each) const {
  each(always_);
  const auto look = [&](std::uint64_t key) {
    const auto found = filed_.find(key);
    if (found != filed_.end()) each(found->second);
  };
  const std::array<std::string_view, kTexts> texts = {
      facts.uri, facts.ns, facts.account, facts.trust_domain, facts.of.sni};
  for (std::size_t i = 0; i < texts.size(); ++i) text_keys(i, texts[i], look);
  const std::array<const IpAddress*, kBlocks> ips = {&facts.of.source, &facts.of.remote,
                                                     &facts.of.destination.ip};
  for (std::size_t i = 0; i < ips.size(); ++i) {
    for (const auto& [family, length] : blocks_[i]) {
      if (family == ips[i]->family()) look(key_of(i, Block{masked(*ips[i], length), length}));
    }
  }
  if (ports_) look(key_of(facts.of.destination.port));
}

const CompiledRule* RuleIndex::first(const Facts& facts) const {
  std::size_t best = rules_.size();
  candidates(facts, [&](const std::vector<std::uint32_t>& list) {
    for (const std::uint32_t rule : list) {
      if (rule >= best) return;
      if (rules_[rule].matches(facts)) {
        best = rule;
        return;
      }
    }
  });
  return best == rules_.size() ? nullptr : &rules_[best];
}

std::vector<const CompiledRule*> RuleIndex::first_of_each(const Facts& facts) const {
  std::vector<std::uint32_t> matching;
  candidates(facts, [&](const std::vector<std::uint32_t>& list) {
    std::copy_if(list.begin(), list.end(), std::back_inserter(matching),
                 [&](std::uint32_t rule) { return rules_[rule].matches(facts); });
  });
  std::sort(matching.begin(), matching.end());
  std::vector<const CompiledRule*> out;
  for (const std::uint32_t rule : matching) {
    const RuleRef& ref = rules_[rule].ref;
    const bool same =
        !out.empty() && out.back()->ref.ns == ref.ns && out.back()->ref.name == ref.name;
    if (!same) out.push_back(&rules_[rule]);
  }
  return out;
}

}  // namespace meshnode::policy
