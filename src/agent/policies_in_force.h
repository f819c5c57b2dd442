#pragma once
/// The compiled policies of this node's workloads. As long as nothing that they are made of has
/// changed they are the same objects: connections are judged again only when theirs are others.
/// Thread: the control loop's.

#include <utility>
#include <vector>

#include "policy/policies.h"
#include "snapshot/build.h"

namespace meshnode::agent {

class PoliciesInForce {
 public:
  /// Whether they are others now.
  bool update(const model::Resources& accepted, const model::Catalog& catalog) {
    Made made;
    for (const auto& resource : accepted) {
      if (policy::is_policy(*resource)) {
        made.resources.push_back(resource);
      }
    }
    made.subjects = snapshot::policy_subjects(catalog);
    made.scope = snapshot::policy_scope(catalog);
    if (made == made_) {
      return false;
    }
    made_ = std::move(made);
    policies_ = policy::compile(made_.resources, made_.subjects, made_.scope);
    return true;
  }
  const policy::Policies& in_force() const { return policies_; }

 private:
  struct Made {
    model::Resources resources;
    std::vector<policy::Subject> subjects;
    policy::Scope scope;
    bool operator==(const Made&) const = default;
  };

  Made made_;
  policy::Policies policies_;
};

}  // namespace meshnode::agent
