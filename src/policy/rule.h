#pragma once
/// One rule of an AuthorizationPolicy, compiled (Istio's authz model). On opaque TCP what is HTTP's
/// alone makes an ALLOW rule match nothing and drops out of a DENY or AUDIT rule, which widens it.
/// Immutable. Thread: pure.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>
#include "model/security.h"
#include "policy/attributes.h"
#include "policy/matchers.h"
#include "policy/policies.h"

namespace meshnode::policy {

/// What rules look at, taken out of the attributes once for all of them.
struct Facts {
  explicit Facts(const Attributes& attributes);
  const Attributes& of;
  std::string_view uri;      ///< spiffe://td/ns/NS/sa/SA; empty, as the next three: no identity
  std::string_view account;  ///< /ns/NS/sa/SA
  std::string_view ns;
  std::string_view trust_domain;
  std::string host;       ///< in lower case
  std::string_view path;  ///< without query
};

/// Any of `any` when there is a value, and none of `none`. `given` is whether there are values.
template <class Set>
struct Field {
  Set any;
  Set none;
  bool given = false;
  template <class Value>
  bool matches(const Value& value) const {
    return (any.empty() || any.matches(value)) && (none.empty() || !none.matches(value));
  }
};

struct PortSet {
  PortSet() = default;
  explicit PortSet(std::vector<std::uint16_t> values);
  std::vector<std::uint16_t> ports;  ///< sorted
  bool empty() const { return ports.empty(); }
  bool matches(std::uint16_t port) const;
};

struct PathSet {
  PathSet() = default;
  explicit PathSet(std::vector<std::string> values);
  TextSet texts;
  std::vector<std::string> templates;
  bool empty() const { return texts.empty() && templates.empty(); }
  bool matches(std::string_view path) const;
};

/// Issuer and subject of one request principal.
struct IssuedTo {
  TextPattern issuer;
  TextPattern subject;
};
struct IssuedToSet {
  IssuedToSet() = default;
  explicit IssuedToSet(std::vector<IssuedTo> values) : all(std::move(values)) {}
  std::vector<IssuedTo> all;
  bool empty() const { return all.empty(); }
  bool matches(const Claim& claims) const;
};

struct CompiledSource {
  Field<TextSet> principals;
  Field<TextSet> namespaces;
  Field<TextSet> accounts;  ///< of Facts::account
  Field<TextSet> trust_domains;
  Field<BlockSet> blocks;
  Field<BlockSet> remote_blocks;
  Field<IssuedToSet> request_principals;
  bool matches(const Facts& facts) const;
};

struct CompiledOperation {
  Field<TextSet> hosts;
  Field<TextSet> methods;
  Field<PathSet> paths;
  Field<PortSet> ports;
  bool matches(const Facts& facts) const;
};

struct CompiledCondition {
  enum class Key : std::uint8_t {
    kSourceIp,
    kRemoteIp,
    kNamespace,
    kAccount,
    kTrustDomain,
    kPrincipal,
    kDestinationIp,
    kDestinationPort,
    kSni,
    kHeader,  ///< this and what follows is HTTP's
    kRequestPrincipal,
    kClaim,
  };
  Key key = Key::kSourceIp;
  std::vector<std::string> names;  ///< the header's, or the claims' from the outermost
  std::variant<Field<TextSet>, Field<BlockSet>, Field<PortSet>, Field<IssuedToSet>> values;
  bool http() const { return key >= Key::kHeader; }
  bool matches(const Facts& facts) const;
};

struct CompiledRule {
  RuleRef ref;
  std::vector<CompiledSource> from;
  std::vector<CompiledOperation> to;
  std::vector<CompiledCondition> when;
  bool http = false;  ///< has a field that only HTTP can meet
  bool matches(const Facts& facts) const;
};

/// `own` are the mesh's trust domain and its aliases. None when a value is of no form that the
/// model lets through: such a rule has no meaning.
std::optional<CompiledRule> compile_rule(const model::AuthorizationRule& rule, RuleRef ref,
                                         const std::vector<std::string>& own);

}  // namespace meshnode::policy
