#pragma once
/// Policies as values for tests of decisions. No YAML: that is the model's.

#include <memory>
#include <string>
#include <utility>
#include <vector>
#include "policy/policies.h"

namespace meshnode::policy {

inline model::Resources one(model::Metadata metadata, model::Spec spec) {
  model::Origin origin{"/etc/meshnode/" + metadata.name + ".yaml", 1, 1};
  return {std::make_shared<model::Resource>(
      model::Resource{std::move(metadata), std::move(origin), std::move(spec)})};
}

inline model::AuthorizationRule from_principals(std::vector<std::string> principals) {
  model::AuthorizationRule rule;
  rule.from.emplace_back().principals.any = std::move(principals);
  return rule;
}

inline Scope scope() { return {"istio-system", "example.internal", {}}; }

}  // namespace meshnode::policy
