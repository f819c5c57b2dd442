#pragma once
/// The policies of security.istio.io, bound to workloads and compiled: what binds a workload, and
/// what that says of a connection or request to it (docs/policies). The order is Istio's: peer
/// mode, DENY, then ALLOW where there is any; AUDIT and dry-run never change the answer. Immutable
/// once made. Thread: pure.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include "model/config_set.h"
#include "policy/attributes.h"

namespace meshnode::policy {

/// One rule of an AuthorizationPolicy, for people. A refused document's stand-in has index 0.
struct RuleRef {
  model::AuthorizationPolicySpec::Action action = model::AuthorizationPolicySpec::Action::kAllow;
  std::string ns;
  std::string name;
  std::size_t index = 0;  ///< rules[index]
  bool refused = false;   ///< the document was, and is not known: everything is denied
  std::string file;
  unsigned line = 0;
  std::string text() const;   ///< "shop/only-web rules[0]"
  std::string place() const;  ///< "file:line"
};

struct Decision {
  enum class Why : std::uint8_t {
    kNoAllowPolicy,  ///< allowed: nothing says otherwise
    kAllowed,        ///< allowed by `rule`
    kStrict,         ///< denied: no proven identity, and the port's mode is STRICT
    kDenied,         ///< denied by `rule`
    kNotAllowed,     ///< denied: there are ALLOW policies, and none matches
  };
  Why why = Why::kNoAllowPolicy;
  const RuleRef* rule = nullptr;  ///< lives as long as the WorkloadPolicies
  /// AUDIT rules that match: the first of each policy.
  std::vector<const RuleRef*> audited;
  /// What dry-run policies would have done: a DENY that matches, or, `shadow_denied` without a
  /// rule, ALLOW policies none of which does.
  const RuleRef* shadow_rule = nullptr;
  bool shadow_denied = false;
  bool allowed() const { return why == Why::kNoAllowPolicy || why == Why::kAllowed; }
};

/// Which PeerAuthentication said so; empty `ns`: none, the default.
struct ModeSource {
  std::string ns;
  std::string name;
  std::string file;
  unsigned line = 0;
  bool port_level = false;
};

struct EffectiveMode {
  model::PeerMode mode = model::PeerMode::kPermissive;  ///< never kUnset
  ModeSource source;
};

/// All that binds one workload.
class WorkloadPolicies {
 public:
  virtual ~WorkloadPolicies() = default;
  /// About 0.3 us, whatever the number of policies that do not apply.
  virtual Decision decide(const Attributes& attributes) const = 0;
  /// For a port of the workload, declared or not.
  virtual EffectiveMode mode(std::uint16_t port) const = 0;
};

/// A workload as policies select it.
struct Subject {
  WorkloadId id;
  model::Labels labels;
  auto operator<=>(const Subject&) const = default;
};

struct Scope {
  std::string root_namespace;
  std::string trust_domain;
  std::vector<std::string> trust_domain_aliases;
  bool operator==(const Scope&) const = default;
};

using Policies = std::map<WorkloadId, std::shared_ptr<const WorkloadPolicies>>;

/// Whether it has a say here: AuthorizationPolicy and PeerAuthentication.
bool is_policy(const model::Resource& resource);

/// Has an entry for every subject.
Policies compile(const model::Resources& resources, const std::vector<Subject>& subjects,
                 const Scope& scope);

}  // namespace meshnode::policy
