#pragma once
/// The kinds of security.istio.io as typed values (Istio's fields by Istio's names, 1.32 line;
/// docs/policies has the semantics). Every value passed model/decode.h. Thread: values.

#include <cstdint>
#include <map>
#include <string>
#include <vector>
#include "model/labels.h"

namespace meshnode::model {

/// A field and its negation: any of `any` when there are some, and none of `none`.
struct Values {
  std::vector<std::string> any;
  std::vector<std::string> none;
  bool empty() const { return any.empty() && none.empty(); }
  bool operator==(const Values&) const = default;
};

/// rules[].from[].source; fields are ANDed.
struct Source {
  Values principals;
  Values request_principals;
  Values namespaces;
  Values service_accounts;
  Values trust_domains;
  Values ip_blocks;
  Values remote_ip_blocks;
  bool operator==(const Source&) const = default;
};

/// rules[].to[].operation; fields are ANDed.
struct Operation {
  Values hosts;
  Values ports;
  Values methods;
  Values paths;
  bool operator==(const Operation&) const = default;
};

/// rules[].when[].
struct Condition {
  std::string key;
  Values values;
  bool operator==(const Condition&) const = default;
};

/// Lines below the document's first; where something stands is no part of what it says.
struct LineOffset {
  unsigned lines = 0;
  bool operator==(const LineOffset&) const { return true; }
};

/// (any of `from`) and (any of `to`) and (all of `when`); what is empty is always met.
struct AuthorizationRule {
  std::vector<Source> from;
  std::vector<Operation> to;
  std::vector<Condition> when;
  LineOffset at;
  bool operator==(const AuthorizationRule&) const = default;
};

struct AuthorizationPolicySpec {
  enum class Action : std::uint8_t { kAllow, kDeny, kAudit };

  Labels selector;  ///< matchLabels; empty: every workload in scope
  Action action = Action::kAllow;
  std::vector<AuthorizationRule> rules;
  bool dry_run = false;  ///< annotation istio.io/dry-run
  /// Stands for a document that was refused and has no last good version: it denies all that it
  /// binds, whatever its action would have been. `selector` is empty where it could not be read.
  bool refused = false;
  bool operator==(const AuthorizationPolicySpec&) const = default;
};

enum class PeerMode : std::uint8_t { kUnset, kDisable, kPermissive, kStrict };

struct PeerAuthenticationSpec {
  Labels selector;  ///< matchLabels; empty: the whole namespace, or of the root namespace the mesh
  PeerMode mode = PeerMode::kUnset;           ///< mtls.mode
  std::map<std::uint16_t, PeerMode> by_port;  ///< portLevelMtls, by the workload's port
  bool refused = false;  ///< as in AuthorizationPolicySpec; it is STRICT then
  bool operator==(const PeerAuthenticationSpec&) const = default;
};

/// Validated and bound; enforced with HTTP, not before.
struct RequestAuthenticationSpec {
  Labels selector;
  std::vector<std::string> issuers;  ///< jwtRules[].issuer
  bool operator==(const RequestAuthenticationSpec&) const = default;
};

}  // namespace meshnode::model
