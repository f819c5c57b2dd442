#include "snapshot/build.h"

#include <algorithm>
#include <set>
#include <unordered_set>
#include <utility>
#include <vector>

namespace meshnode::snapshot {
namespace {

constexpr std::uint16_t kTunnelPort = 15008;
constexpr std::string_view kCanonicalName = "service.istio.io/canonical-name";
constexpr std::string_view kCanonicalRevision = "service.istio.io/canonical-revision";

std::string label(const model::Labels& labels, std::string_view key) {
  const auto it = labels.find(std::string(key));
  return it == labels.end() ? std::string() : it->second;
}

std::string first_of(const std::string& a, const std::string& b, const std::string& c) {
  if (!a.empty()) return a;
  return b.empty() ? c : b;
}

Party party_of(const model::Member& member) {
  Party party;
  party.workload = member.name;
  party.ns = member.ns;
  party.app = label(member.labels, "app");
  party.version = label(member.labels, "version");
  party.canonical_service = first_of(label(member.labels, kCanonicalName), party.app, member.name);
  party.canonical_revision =
      first_of(label(member.labels, kCanonicalRevision), party.version, "latest");
  const std::size_t slash = member.locality.find('/');
  party.region = member.locality.substr(0, slash);
  if (slash != std::string::npos) {
    const std::string rest = member.locality.substr(slash + 1);
    party.zone = rest.substr(0, rest.find('/'));
  }
  if (!member.identity.trust_domain().empty()) party.identity = member.identity;
  return party;
}

/// What is true of both: a caller known by identity only may be any of its workloads.
void keep_common(Party& party, const Party& other) {
  for (std::string Party::*field :
       {&Party::workload, &Party::ns, &Party::app, &Party::version, &Party::canonical_service,
        &Party::canonical_revision, &Party::cluster, &Party::region, &Party::zone}) {
    if (party.*field != other.*field) (party.*field).clear();
  }
}

/// FNV-1a over the address: the same in every process and every snapshot.
std::uint64_t stable_id(const SocketAddress& address) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  const auto mix = [&](std::uint8_t byte) { hash = (hash ^ byte) * 0x100000001b3U; };
  for (const std::uint8_t byte : address.ip.bytes()) mix(byte);
  mix(static_cast<std::uint8_t>(address.port >> 8));
  mix(static_cast<std::uint8_t>(address.port & 0xFF));
  return hash;
}

class Builder {
  using Place = model::CatalogWorkload::Place;

 public:
  Builder(const model::Catalog& catalog, const SlotTable& slots, const Credentials& credentials,
          const policy::Policies& policies)
      : catalog_(catalog), slots_(slots), credentials_(credentials), policies_(policies) {
    parties_.reserve(catalog.members.size());
    for (const model::Member& member : catalog.members) parties_.push_back(party_of(member));
  }

  std::shared_ptr<Snapshot> run(std::uint64_t revision) {
    auto snapshot = std::make_shared<Snapshot>();
    snapshot->node_name = catalog_.node_name;
    snapshot->trust_domain = catalog_.node.trust_domain;
    snapshot->revision = revision;
    snapshot->preserve_source_address = catalog_.node.preserve_source_address;
    snapshot->limits = catalog_.node.proxy_limits;
    add_workloads(*snapshot);
    add_inbound(*snapshot);
    add_routes(*snapshot);
    add_parties(*snapshot);
    return snapshot;
  }

 private:
  std::vector<std::set<std::string>> hostnames_of_workloads() const {
    std::vector<std::set<std::string>> hostnames(catalog_.workloads.size());
    for (const model::CatalogRoute& route : catalog_.routes) {
      if (!route.service) continue;
      for (const model::CatalogEndpoint& endpoint : route.endpoints) {
        const auto local = catalog_.members[endpoint.member].local;
        if (local) hostnames[*local].insert(catalog_.services[*route.service].hostname);
      }
    }
    return hostnames;
  }

  void add_workloads(Snapshot& snapshot) {
    auto hostnames = hostnames_of_workloads();
    for (std::size_t i = 0; i < catalog_.workloads.size(); ++i) {
      const model::CatalogWorkload& from = catalog_.workloads[i];
      auto workload = std::make_shared<LocalWorkload>();
      workload->id = from.id;
      workload->party = parties_[i];
      workload->identity = catalog_.members[i].identity;
      workload->slot = slots_.slot(from.id);
      workload->ports = from.ports;
      workload->policies = policies_.at(from.id);
      workload->is_default = from.is_default;
      workload->own = from.own;
      workload->hostnames = std::move(hostnames[i]);
      workload->shares_addresses = from.place == Place::kHost;
      if (from.place == Place::kNamespace) workload->space = workload->slot;
      const bool identified = !workload->identity.trust_domain().empty();
      const auto credential = credentials_.find(workload->identity);
      if (!identified) {
        workload->credential_problem = "this workload has no identity; see identity-not-configured";
      } else if (credential == credentials_.end()) {
        workload->credential_problem = "no certificate for " + workload->identity.uri();
      } else {
        workload->credential = credential->second.credential;
        workload->credential_problem = credential->second.problem;
      }
      snapshot.workloads.push_back(workload);
      snapshot.by_id.emplace(from.id, workload);
      local_.push_back(workload);
      if (workload->slot != 0) snapshot.by_slot.emplace(workload->slot, workload);
      if (from.place == Place::kNamespace) continue;
      for (const IpAddress& ip : from.own) snapshot.by_address.emplace(ip, workload);
      if (identified) snapshot.by_server_name.emplace(workload->identity.server_name(), workload);
    }
  }

  void add_inbound(Snapshot& snapshot) {
    std::vector<IpAddress> addresses = catalog_.addresses;
    addresses.push_back(IpAddress::v4({127, 0, 0, 1}));
    addresses.push_back(IpAddress::v6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}));
    if (const auto& elsewhere = catalog_.address_elsewhere) {
      snapshot.dialled_as.emplace(*elsewhere, catalog_.dial_address(*elsewhere));
    }
    for (const auto& [at, workload] : catalog_.inbound_own) {
      if (local_[workload]->space == 0) snapshot.inbound.emplace(at, local_[workload]);
    }
    for (const auto& entry : catalog_.inbound) {
      for (const IpAddress& ip : addresses) {
        snapshot.inbound.emplace(SocketAddress{ip, entry.first}, local_[entry.second]);
      }
    }
  }

  Endpoint endpoint_of(const model::CatalogEndpoint& from) const {
    const model::Member& member = catalog_.members[from.member];
    Endpoint endpoint;
    endpoint.address = from.address;
    endpoint.identity = member.identity;
    endpoint.party = parties_[from.member];
    if (member.local) {
      endpoint.via = Endpoint::Via::kLocal;
      endpoint.local = local_[*member.local];
    } else if (member.tunnelled) {
      endpoint.via = Endpoint::Via::kTunnel;
      endpoint.tunnel = {member.address, kTunnelPort};
    }
    return endpoint;
  }

  void add_routes(Snapshot& snapshot) const {
    snapshot.routes.reserve(catalog_.routes.size());
    for (const model::CatalogRoute& from : catalog_.routes) {
      Route route;
      route.id = stable_id(from.address);
      if (from.service) {
        const model::CatalogService& service = catalog_.services[*from.service];
        route.service = ServiceRef{service.hostname, service.name, service.ns};
      }
      route.endpoints.reserve(from.endpoints.size());
      for (const model::CatalogEndpoint& endpoint : from.endpoints) {
        route.endpoints.push_back(endpoint_of(endpoint));
      }
      snapshot.routes.emplace(from.address, std::move(route));
    }
  }

  /// Addresses at which exactly one workload lives. An entry that stands for a Workload of this
  /// node is that workload, not a second one.
  void add_parties(Snapshot& snapshot) const {
    std::unordered_map<IpAddress, std::size_t> count;
    std::unordered_set<IpAddress> own(catalog_.addresses.begin(), catalog_.addresses.end());
    for (const model::CatalogWorkload& workload : catalog_.workloads) {
      own.insert(workload.own.begin(), workload.own.end());
    }
    const auto add = [&](const IpAddress& ip, const Party& party) {
      if (++count[ip] == 1) {
        snapshot.party_by_ip.emplace(ip, party);
      } else {
        snapshot.party_by_ip.erase(ip);
      }
    };
    for (std::size_t i = 0; i < catalog_.members.size(); ++i) {
      const model::Member& member = catalog_.members[i];
      const Party& party = parties_[i];
      if (party.identity) {
        const auto [it, fresh] = snapshot.parties.emplace(*party.identity, party);
        if (!fresh) keep_common(it->second, party);
      }
      if (!member.local) {
        if (!own.contains(member.address)) add(member.address, party);
        continue;
      }
      const model::CatalogWorkload& workload = catalog_.workloads[*member.local];
      for (const IpAddress& ip : workload.own) add(ip, party);
      if (workload.place != Place::kHost) continue;
      for (const IpAddress& ip : catalog_.addresses) {
        if (!snapshot.by_address.contains(ip)) add(ip, party);
      }
    }
  }

  const model::Catalog& catalog_;
  const SlotTable& slots_;
  const Credentials& credentials_;
  const policy::Policies& policies_;
  std::vector<Party> parties_;
  std::vector<std::shared_ptr<const LocalWorkload>> local_;
};

}  // namespace

std::shared_ptr<Snapshot> build(const model::Catalog& catalog, const SlotTable& slots,
                                const Credentials& credentials, const policy::Policies& policies,
                                std::uint64_t revision) {
  return Builder(catalog, slots, credentials, policies).run(revision);
}

std::vector<policy::Subject> policy_subjects(const model::Catalog& catalog) {
  std::vector<policy::Subject> subjects;
  subjects.reserve(catalog.workloads.size());
  for (std::size_t i = 0; i < catalog.workloads.size(); ++i) {
    subjects.push_back({catalog.workloads[i].id, catalog.members[i].labels});
  }
  return subjects;
}

policy::Scope policy_scope(const model::Catalog& catalog) {
  return {catalog.node.root_namespace, catalog.node.trust_domain,
          catalog.node.trust_domain_aliases};
}

}  // namespace meshnode::snapshot
