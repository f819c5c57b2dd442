#include "policy/explain.h"

#include <fmt/format.h>

namespace meshnode::policy {
namespace {

std::string named(const RuleRef& rule) {
  return fmt::format("AuthorizationPolicy {} ({})", rule.text(), rule.place());
}

}  // namespace

std::string_view mode_name(model::PeerMode mode) {
  switch (mode) {
    case model::PeerMode::kUnset:
      return "UNSET";
    case model::PeerMode::kDisable:
      return "DISABLE";
    case model::PeerMode::kPermissive:
      return "PERMISSIVE";
    case model::PeerMode::kStrict:
      return "STRICT";
  }
  return "";
}

std::string describe(const ModeSource& source) {
  if (source.name.empty()) return "no PeerAuthentication says otherwise";
  return fmt::format("PeerAuthentication {}/{} ({}:{})", source.ns, source.name, source.file,
                     source.line);
}

std::string explain(const Decision& decision, const EffectiveMode& mode) {
  switch (decision.why) {
    case Decision::Why::kNoAllowPolicy:
      return "allowed: no ALLOW policy binds the workload, and no DENY rule matches";
    case Decision::Why::kAllowed:
      return "allowed by " + named(*decision.rule);
    case Decision::Why::kStrict:
      return "denied: plaintext, and the port is STRICT by " + describe(mode.source);
    case Decision::Why::kNotAllowed:
      return "denied: ALLOW policies bind the workload, and no rule of theirs matches";
    case Decision::Why::kDenied:
      break;
  }
  if (!decision.rule->refused) return "denied by " + named(*decision.rule);
  return fmt::format(
      "denied: AuthorizationPolicy {} ({}) was refused, so nothing is let through that it may "
      "forbid; correct it",
      decision.rule->text(), decision.rule->place());
}

}  // namespace meshnode::policy
