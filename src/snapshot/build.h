#pragma once
/// Catalog to Snapshot: the last step of a reload, off the proxy loops. Thread: pure.

#include <meshnode/ids.h>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>
#include "model/catalog.h"
#include "snapshot/slots.h"
#include "snapshot/snapshot.h"

namespace meshnode::snapshot {

/// What is at hand to prove one identity.
struct CredentialState {
  std::shared_ptr<const tls::Credential> credential;  ///< may be null
  std::string problem;                                ///< why it is null or about to be
};
using Credentials = std::unordered_map<SpiffeId, CredentialState>;

/// Workloads that are none any more, whom rules may lead here for a while yet: callers, no callees.
using Departed = std::vector<std::shared_ptr<const LocalWorkload>>;

/// Every workload of the catalog must have a slot in `slots`; one without gets no entry in
/// by_slot. Loopback counts as an address of the node: its routes and inbound entries are made for
/// 127.0.0.1 and ::1.
std::shared_ptr<const Snapshot> build(const model::Catalog& catalog, const SlotTable& slots,
                                      const Credentials& credentials, std::uint64_t revision,
                                      const Departed& departed = {});

}  // namespace meshnode::snapshot
