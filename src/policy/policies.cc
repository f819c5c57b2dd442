#include "policy/policies.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "policy/peer_modes.h"
#include "policy/rule_index.h"

namespace meshnode::policy {
namespace {

using Action = model::AuthorizationPolicySpec::Action;
using Why = Decision::Why;

/// One AuthorizationPolicy in force.
struct Bound {
  const model::Resource* resource = nullptr;
  const model::AuthorizationPolicySpec* spec = nullptr;
};

bool before(const RuleRef& a, const RuleRef& b) {
  return std::tie(a.ns, a.name, a.index) < std::tie(b.ns, b.name, b.index);
}

RuleRef ref_of(const Bound& bound, std::size_t index, unsigned lines) {
  const model::Resource& resource = *bound.resource;
  return {bound.spec->action,   resource.metadata.ns,  resource.metadata.name,       index,
          bound.spec->refused,  resource.origin.file,  resource.origin.line + lines};
}

/// Rules of one kind of effect.
struct Rules {
  std::vector<CompiledRule> rules;
  bool any_policy = false;  ///< also one without rules
};

/// Policies with one scope, compiled once for all workloads that they bind.
class PolicySet {
 public:
  PolicySet(const std::vector<Bound>& policies, const std::vector<std::string>& own)
      : PolicySet(sorted(policies, own)) {}

  RuleIndex deny, allow, audit, shadow_deny, shadow_allow;
  bool allows, shadow_allows;  ///< an ALLOW policy is there, also one without rules

 private:
  enum Effect : std::uint8_t { kDeny, kAllow, kAudit, kShadowDeny, kShadowAllow, kEffects };
  using ByEffect = std::array<Rules, kEffects>;

  explicit PolicySet(ByEffect by)
      : deny(std::move(by[kDeny].rules)),
        allow(std::move(by[kAllow].rules)),
        audit(std::move(by[kAudit].rules)),
        shadow_deny(std::move(by[kShadowDeny].rules)),
        shadow_allow(std::move(by[kShadowAllow].rules)),
        allows(by[kAllow].any_policy),
        shadow_allows(by[kShadowAllow].any_policy) {}

  static Effect effect(const model::AuthorizationPolicySpec& spec) {
    if (spec.refused) return kDeny;
    if (spec.action == Action::kAudit) return kAudit;
    if (spec.action == Action::kDeny) return spec.dry_run ? kShadowDeny : kDeny;
    return spec.dry_run ? kShadowAllow : kAllow;
  }

  static ByEffect sorted(const std::vector<Bound>& policies, const std::vector<std::string>& own) {
    ByEffect by;
    for (const Bound& bound : policies) {
      Rules& to = by[effect(*bound.spec)];
      to.any_policy = true;
      if (bound.spec->refused) {
        to.rules.push_back({ref_of(bound, 0, 0), {}, {}, {}, false});
        to.rules.back().ref.action = Action::kDeny;
      }
      for (std::size_t i = 0; i < bound.spec->rules.size(); ++i) {
        const model::AuthorizationRule& rule = bound.spec->rules[i];
        RuleRef ref = ref_of(bound, i, rule.at.lines);
        if (auto compiled = compile_rule(rule, ref, own)) {
          to.rules.push_back(std::move(*compiled));
        } else if (bound.spec->action != Action::kAllow) {
          // Without a meaning it can only be met always: it must not let through.
          to.rules.push_back({std::move(ref), {}, {}, {}, false});
        }
      }
    }
    for (Rules& rules : by) {
      std::stable_sort(rules.rules.begin(), rules.rules.end(),
                       [](const auto& a, const auto& b) { return before(a.ref, b.ref); });
    }
    return by;
  }
};

class Compiled final : public WorkloadPolicies {
 public:
  Compiled(std::vector<std::shared_ptr<const PolicySet>> sets, PeerModes modes)
      : sets_(std::move(sets)), modes_(std::move(modes)) {}

  Decision decide(const Attributes& attributes) const override {
    Decision decision;
    if (attributes.peer == nullptr &&
        modes_.mode(attributes.destination.port).mode == model::PeerMode::kStrict) {
      decision.why = Why::kStrict;
      return decision;
    }
    const Facts facts(attributes);
    authorize(facts, decision);
    observe(facts, decision);
    return decision;
  }

  EffectiveMode mode(std::uint16_t port) const override { return modes_.mode(port); }

 private:
  const RuleRef* first(RuleIndex PolicySet::*index, const Facts& facts) const {
    const RuleRef* best = nullptr;
    for (const auto& set : sets_) {
      const CompiledRule* rule = ((*set).*index).first(facts);
      if (rule != nullptr && (best == nullptr || before(rule->ref, *best))) best = &rule->ref;
    }
    return best;
  }
  bool any(bool PolicySet::*flag) const {
    return std::any_of(sets_.begin(), sets_.end(), [&](const auto& set) { return (*set).*flag; });
  }

  void authorize(const Facts& facts, Decision& decision) const {
    if (const RuleRef* denied = first(&PolicySet::deny, facts)) {
      decision.why = Why::kDenied;
      decision.rule = denied;
    } else if (any(&PolicySet::allows)) {
      decision.rule = first(&PolicySet::allow, facts);
      decision.why = decision.rule != nullptr ? Why::kAllowed : Why::kNotAllowed;
    }
  }

  void observe(const Facts& facts, Decision& decision) const {
    for (const auto& set : sets_) {
      if (set->audit.empty()) continue;
      for (const CompiledRule* rule : set->audit.first_of_each(facts)) {
        decision.audited.push_back(&rule->ref);
      }
    }
    std::sort(decision.audited.begin(), decision.audited.end(),
              [](const RuleRef* a, const RuleRef* b) { return before(*a, *b); });
    decision.shadow_rule = first(&PolicySet::shadow_deny, facts);
    decision.shadow_denied =
        decision.shadow_rule != nullptr ||
        (any(&PolicySet::shadow_allows) && first(&PolicySet::shadow_allow, facts) == nullptr);
  }

  std::vector<std::shared_ptr<const PolicySet>> sets_;
  PeerModes modes_;
};

/// Namespace and selector decide what a document binds.
template <class Item>
struct Scoped {
  std::vector<Item> whole;     ///< without a selector
  std::vector<Item> selected;  ///< with one
};

class Binder {
 public:
  Binder(const model::Resources& resources, const Scope& scope) : scope_(scope) {
    own_.push_back(scope.trust_domain);
    own_.insert(own_.end(), scope.trust_domain_aliases.begin(), scope.trust_domain_aliases.end());
    for (const auto& resource : resources) {
      add(authorization_, resource.get());
      add(authentication_, resource.get());
    }
  }

  std::shared_ptr<const WorkloadPolicies> bind(const Subject& subject) {
    std::vector<std::shared_ptr<const PolicySet>> sets;
    const bool in_root = subject.id.ns == scope_.root_namespace;
    if (!in_root) sets.push_back(set_of(whole(authorization_, scope_.root_namespace)));
    sets.push_back(set_of(whole(authorization_, subject.id.ns)));
    std::vector<Bound> selected = selecting(authorization_, subject.id.ns, subject);
    if (!in_root) {
      const auto more = selecting(authorization_, scope_.root_namespace, subject);
      selected.insert(selected.end(), more.begin(), more.end());
    }
    sets.push_back(set_of(selected));
    std::erase(sets, nullptr);
    // A selector in the root namespace is ignored, as in Istio.
    PeerModes modes({in_root ? std::vector<BoundMode>()
                             : selecting(authentication_, subject.id.ns, subject),
                     whole(authentication_, subject.id.ns),
                     whole(authentication_, scope_.root_namespace)});
    return std::make_shared<Compiled>(std::move(sets), std::move(modes));
  }

 private:
  template <class Item>
  using ByNamespace = std::unordered_map<std::string, Scoped<Item>>;

  template <class Item>
  static void add(ByNamespace<Item>& to, const model::Resource* resource) {
    using Spec = std::remove_const_t<std::remove_pointer_t<decltype(Item::spec)>>;
    const auto* spec = std::get_if<Spec>(&resource->spec);
    if (spec == nullptr) return;
    Scoped<Item>& scoped = to[resource->metadata.ns];
    (spec->selector.empty() ? scoped.whole : scoped.selected).push_back({resource, spec});
  }
  template <class Item>
  static std::vector<Item> whole(const ByNamespace<Item>& from, const std::string& ns) {
    const auto found = from.find(ns);
    return found == from.end() ? std::vector<Item>() : found->second.whole;
  }
  template <class Item>
  static std::vector<Item> selecting(const ByNamespace<Item>& from, const std::string& ns,
                                     const Subject& subject) {
    std::vector<Item> out;
    const auto found = from.find(ns);
    if (found == from.end()) return out;
    std::copy_if(found->second.selected.begin(), found->second.selected.end(),
                 std::back_inserter(out), [&](const Item& item) {
                   return model::selects(item.spec->selector, subject.labels);
                 });
    return out;
  }

  /// One for each set of policies, however many workloads it binds; none for no policy.
  std::shared_ptr<const PolicySet> set_of(const std::vector<Bound>& policies) {
    if (policies.empty()) return nullptr;
    std::vector<const model::Resource*> key;
    key.reserve(policies.size());
    for (const Bound& bound : policies) key.push_back(bound.resource);
    auto& made = sets_[key];
    if (!made) made = std::make_shared<PolicySet>(policies, own_);
    return made;
  }

  const Scope& scope_;
  std::vector<std::string> own_;
  ByNamespace<Bound> authorization_;
  ByNamespace<BoundMode> authentication_;
  std::map<std::vector<const model::Resource*>, std::shared_ptr<const PolicySet>> sets_;
};

}  // namespace

std::string RuleRef::text() const {
  std::string out = ns;
  out.append("/").append(name);
  return refused ? out : out.append(" rules[").append(std::to_string(index)).append("]");
}

std::string RuleRef::place() const { return file + ":" + std::to_string(line); }

bool is_policy(const model::Resource& resource) {
  return std::holds_alternative<model::AuthorizationPolicySpec>(resource.spec) ||
         std::holds_alternative<model::PeerAuthenticationSpec>(resource.spec);
}

Policies compile(const model::Resources& resources, const std::vector<Subject>& subjects,
                 const Scope& scope) {
  Binder binder(resources, scope);
  Policies out;
  for (const Subject& subject : subjects) out.emplace(subject.id, binder.bind(subject));
  return out;
}

}  // namespace meshnode::policy
