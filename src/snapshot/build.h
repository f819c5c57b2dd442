#pragma once
/// Catalog to Snapshot: the last step of a reload, off the proxy loops. Thread: pure.

#include <meshnode/ids.h>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>
#include "model/catalog.h"
#include "policy/policies.h"
#include "snapshot/slots.h"
#include "snapshot/snapshot.h"

namespace meshnode::snapshot {

/// What is at hand to prove one identity.
struct CredentialState {
  std::shared_ptr<const tls::Credential> credential;  ///< may be null
  std::string problem;                                ///< why it is null or about to be
};
using Credentials = std::unordered_map<SpiffeId, CredentialState>;

/// Every workload of the catalog must have a slot in `slots`; one without gets no entry in
/// by_slot. Loopback counts as an address of the node: its routes and inbound entries are made for
/// 127.0.0.1 and ::1. `policies` has an entry for every workload (policy_subjects). `departed` is
/// left to the caller, who knows what was before.
std::shared_ptr<Snapshot> build(const model::Catalog& catalog, const SlotTable& slots,
                                const Credentials& credentials, const policy::Policies& policies,
                                std::uint64_t revision);

/// The workloads of this node as policies select them, and what selects.
std::vector<policy::Subject> policy_subjects(const model::Catalog& catalog);
policy::Scope policy_scope(const model::Catalog& catalog);

}  // namespace meshnode::snapshot
