#include "model/catalog.h"

#include <fmt/format.h>
#include <algorithm>
#include "model/catalog_join.h"

namespace meshnode::model {
namespace {

SpiffeId identity_of(Join& join, std::string_view kind, const std::string& ns,
                     const std::string& name, const std::string& service_account) {
  const std::string& trust_domain = join.catalog.node.trust_domain;
  if (trust_domain.empty()) return {};
  auto id = SpiffeId::make(trust_domain, ns, service_account);
  if (id) return std::move(*id);
  join.problem("identity-not-configured", fmt::format("{} {}/{}", kind, ns, name),
               id.error().message, "use shorter names");
  return {};
}

void add_address(Join& join, const IpAddress& address) {
  if (address.is_loopback() || address.is_unspecified() || address.is_multicast()) return;
  if (join.own_addresses.insert(address).second) join.catalog.addresses.push_back(address);
}

void check_identity_source(Join& join, bool has_node) {
  if (join.catalog.node.identity_source == NodeSpec::IdentitySource::kFiles) return;
  join.problem("identity-not-configured", fmt::format("Node {}", join.catalog.node_name),
               has_node ? "the Node's identity source is cluster, but this host is in no cluster: "
                          "its workloads have no identity"
                        : "there is no Node document and this host is in no cluster: its "
                          "workloads have no identity",
               "set spec.trustDomain and spec.identity: {source: files, directory: ...} in the "
               "Node document");
}

void check_address(Join& join, const CatalogInput& input) {
  Catalog& catalog = join.catalog;
  const auto& local = input.local_addresses;
  if (!catalog.node.address ||
      std::find(local.begin(), local.end(), *catalog.node.address) != local.end()) {
    return;
  }
  catalog.address_elsewhere = catalog.node.address;
  join.problem("node-address-elsewhere", fmt::format("Node {}", catalog.node_name),
               fmt::format("its spec.address {} is on no interface of this host: other nodes are "
                           "taken to reach this host there through address translation; its own "
                           "workloads are dialled at {}",
                           catalog.node.address->text(),
                           catalog.dial_address(*catalog.node.address).text()),
               "nothing to do behind NAT; else set spec.address to an address of this host", true);
}

/// Of those that share the host's addresses: one with an address of its own answers there.
void check_defaults(Join& join) {
  std::vector<std::string> defaults;
  std::size_t sharing = 0;
  for (const CatalogWorkload& workload : join.catalog.workloads) {
    if (workload.place != CatalogWorkload::Place::kHost) continue;
    ++sharing;
    if (workload.is_default) defaults.push_back(workload.id.text());
  }
  const std::string object = fmt::format("Node {}", join.catalog.node_name);
  if (defaults.size() > 1) {
    join.problem("default-workload-conflict", object,
                 fmt::format("{} are all marked default: true, so a peer that sends no server name "
                             "is refused",
                             fmt::join(defaults, ", ")),
                 "leave default: true on one Workload only");
  } else if (defaults.empty() && sharing > 1) {
    join.problem("default-workload-missing", object,
                 fmt::format("{} workloads and none is marked default: a peer that sends no server "
                             "name (ztunnel) is refused",
                             sharing),
                 "say default: true in one Workload if such peers call this host", true);
  }
}

/// Which workload answers each port; two with different identities: neither.
void join_inbound(Join& join) {
  std::map<std::uint16_t, std::vector<std::size_t>> owners;
  const auto& workloads = join.catalog.workloads;
  for (std::size_t i = 0; i < workloads.size(); ++i) {
    if (workloads[i].place != CatalogWorkload::Place::kHost) continue;
    for (const std::uint16_t port : workloads[i].ports) owners[port].push_back(i);
  }
  for (const auto& entry : owners) {
    const std::vector<std::size_t>& who = entry.second;
    const SpiffeId& identity = join.catalog.members[who.front()].identity;
    const auto other = std::find_if(who.begin(), who.end(), [&](std::size_t i) {
      return join.catalog.members[i].identity != identity;
    });
    if (other == who.end()) {
      join.catalog.inbound.emplace(entry.first, who.front());
      continue;
    }
    join.problem(
        "address-conflict", fmt::format("port {}", entry.first),
        fmt::format("Workloads {} and {} both declare port {} of this host under different "
                    "identities: neither is reached there",
                    workloads[who.front()].id.text(), workloads[*other].id.text(), entry.first),
        "give each Workload ports of its own");
  }
}

/// Addresses that one workload has for its own; two with different identities: neither.
void join_own(Join& join) {
  Catalog& catalog = join.catalog;
  std::set<SocketAddress> disputed;
  for (std::size_t i = 0; i < catalog.workloads.size(); ++i) {
    for (const IpAddress& ip : catalog.workloads[i].own) {
      for (const std::uint16_t port : catalog.workloads[i].ports) {
        const auto [at, fresh] = catalog.inbound_own.emplace(SocketAddress{ip, port}, i);
        if (fresh || catalog.members[at->second].identity == catalog.members[i].identity) continue;
        disputed.insert(at->first);
        join.problem("address-conflict", at->first.text(),
                     fmt::format("Workloads {} and {} both have this address, under different "
                                 "identities: neither is reached there",
                                 catalog.workloads[at->second].id.text(),
                                 catalog.workloads[i].id.text()),
                     "give each network namespace addresses of its own");
      }
    }
  }
  for (const SocketAddress& at : disputed) catalog.inbound_own.erase(at);
}

void place(Join& join, CatalogWorkload& workload, const std::string& account,
           const CatalogInput& input) {
  if (const auto* at = std::get_if<MatchAddress>(&workload.match)) {
    workload.place = CatalogWorkload::Place::kAddress;
    const auto& local = input.local_addresses;
    if (std::find(local.begin(), local.end(), at->address) != local.end()) {
      workload.own = {at->address};
      return;
    }
    join.problem("workload-address-elsewhere", workload.id.text(),
                 fmt::format("its address {} is on no interface of this host", at->address.text()),
                 "nothing to do while another host holds it; else add the address or correct match",
                 true);
  } else if (std::holds_alternative<MatchNetns>(workload.match)) {
    workload.place = CatalogWorkload::Place::kNamespace;
    const auto known = input.namespaces.find(workload.id);
    if (known == input.namespaces.end()) return;
    for (const IpAddress& ip : known->second) {
      if (ip.is_loopback() || ip.is_link_local()) continue;
      // Whoever is root in there gives himself what addresses he likes.
      if (join.is_somebody_elses(ip, workload.id.ns, account)) {
        join.problem("address-conflict", fmt::format("Workload {}", workload.id.text()),
                     fmt::format("its network namespace has the address {}, which is of this host, "
                                 "of a service or of another workload: it is not reached there",
                                 ip.text()),
                     "give the network namespace addresses of its own");
        continue;
      }
      workload.own.push_back(ip);
      join.namespace_addresses.insert(ip);
    }
  }
}

std::string label_key(std::string_view ns, std::string_view label, std::string_view value) {
  return fmt::format("{}\n{}\n{}", ns, label, value);
}

}  // namespace

Join::Join(const Resources& from) : resources(from) {
  const auto entry = [this](const std::string& ns, const WorkloadEntrySpec& spec) {
    claimed[spec.address].insert({ns, spec.service_account});
  };
  for (const auto& resource : resources) {
    const std::string& ns = resource->metadata.ns;
    if (const auto* spec = std::get_if<WorkloadEntrySpec>(&resource->spec)) {
      entry(ns, *spec);
    } else if (const auto* service = std::get_if<ServiceSpec>(&resource->spec)) {
      virtual_addresses.insert(service->addresses.begin(), service->addresses.end());
    } else if (const auto* external = std::get_if<ServiceEntrySpec>(&resource->spec)) {
      virtual_addresses.insert(external->addresses.begin(), external->addresses.end());
      for (const WorkloadEntrySpec& endpoint : external->endpoints) entry(ns, endpoint);
    }
  }
}

bool Join::is_somebody_elses(const IpAddress& ip, const std::string& ns,
                             const std::string& account) const {
  const auto found = claimed.find(ip);
  return own_addresses.contains(ip) || virtual_addresses.contains(ip) ||
         (found != claimed.end() &&
          (found->second.size() > 1 || *found->second.begin() != std::pair(ns, account)));
}

void Join::problem(std::string code, std::string object, std::string message, std::string hint,
                   bool informational) {
  if (catalog.problems.size() >= Catalog::kMaxProblems) return;
  catalog.problems.push_back(
      {std::move(code), std::move(object), std::move(message), std::move(hint), informational});
}

bool Join::spend(std::size_t amount, std::string_view object) {
  if (exhausted) return false;
  if (amount <= budget) {
    budget -= amount;
    return true;
  }
  exhausted = true;
  problem("limit-reached", std::string(object),
          fmt::format("services, their ports, addresses and endpoints multiply to more than {}: "
                      "this service and those after it have no address",
                      Catalog::kMaxRouteEndpoints),
          "narrow the selectors, or list fewer ports and addresses");
  return false;
}

std::optional<std::size_t> Catalog::answers(const SocketAddress& at) const {
  const auto own = inbound_own.find(at);
  if (own != inbound_own.end()) return own->second;
  const bool host = at.ip.is_loopback() ||
                    std::find(addresses.begin(), addresses.end(), at.ip) != addresses.end();
  const auto shared = inbound.find(at.port);
  if (!host || shared == inbound.end()) return {};
  return shared->second;
}

IpAddress Catalog::dial_address(const IpAddress& own) const {
  return own == address_elsewhere ? dial_address(own.family(), 0) : own;
}

IpAddress Catalog::dial_address(Family family, std::uint16_t port) const {
  const auto dialable = [&](const IpAddress& ip) {
    return ip != address_elsewhere && (ip.is_v4() || !ip.is_link_local()) &&
           !inbound_own.contains({ip, port});
  };
  for (const IpAddress& ip : addresses) {
    if (ip.family() == family && dialable(ip)) return ip;
  }
  const auto any = std::find_if(addresses.begin(), addresses.end(), dialable);
  if (any != addresses.end()) return *any;
  return loopback(family);
}

IpAddress loopback(Family family) {
  return family == Family::kV4 ? IpAddress::v4({127, 0, 0, 1})
                               : IpAddress::v6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});
}

void join_node(Join& join, const CatalogInput& input) {
  Catalog& catalog = join.catalog;
  catalog.node_name = input.default_node_name;
  bool has_node = false;
  for (const auto& resource : join.resources) {
    if (const auto* node = std::get_if<NodeSpec>(&resource->spec)) {
      catalog.node_name = resource->metadata.name;
      catalog.node = *node;
      has_node = true;
    }
  }
  if (catalog.node.address) add_address(join, *catalog.node.address);
  for (const IpAddress& address : input.local_addresses) add_address(join, address);
  check_address(join, input);
  check_identity_source(join, has_node);
}

void join_workloads(Join& join, const CatalogInput& input) {
  for (const auto& resource : join.resources) {
    const auto* spec = std::get_if<WorkloadSpec>(&resource->spec);
    if (spec == nullptr) continue;
    const Metadata& metadata = resource->metadata;
    CatalogWorkload workload;
    workload.id = {metadata.ns, metadata.name};
    workload.match = spec->match;
    workload.is_default = spec->is_default;
    workload.force = spec->force;
    workload.origin = resource->origin;
    place(join, workload, spec->service_account, input);
    for (const WorkloadPort& port : spec->ports) workload.ports.push_back(port.port);
    std::sort(workload.ports.begin(), workload.ports.end());
    Member member;
    member.ns = metadata.ns;
    member.name = metadata.name;
    member.labels = metadata.labels;
    member.locality = join.catalog.node.locality;
    member.identity =
        identity_of(join, "Workload", metadata.ns, metadata.name, spec->service_account);
    member.local = join.catalog.workloads.size();
    join.local_specs.emplace(join.catalog.members.size(), spec);
    join.catalog.members.push_back(std::move(member));
    join.catalog.workloads.push_back(std::move(workload));
  }
  join_inbound(join);
  join_own(join);
  check_defaults(join);
}

std::size_t add_entry(Join& join, const std::string& ns, std::string name,
                      const WorkloadEntrySpec& entry) {
  Member member;
  member.ns = ns;
  member.labels = entry.labels;
  member.locality = entry.locality;
  member.identity = identity_of(join, "WorkloadEntry", ns, name, entry.service_account);
  member.name = std::move(name);
  member.address = entry.address;
  member.tunnelled = entry.tunnelled;
  const std::size_t index = join.catalog.members.size();
  join.entries.emplace(index, &entry);
  join.catalog.members.push_back(std::move(member));
  return index;
}

void join_entries(Join& join) {
  for (const auto& resource : join.resources) {
    if (const auto* entry = std::get_if<WorkloadEntrySpec>(&resource->spec)) {
      add_entry(join, resource->metadata.ns, resource->metadata.name, *entry);
    }
  }
}

void index_labels(Join& join) {
  for (std::size_t i = 0; i < join.catalog.members.size(); ++i) {
    const Member& member = join.catalog.members[i];
    for (const auto& label : member.labels) {
      join.by_label[label_key(member.ns, label.first, label.second)].push_back(i);
    }
  }
}

Catalog make_catalog(const Resources& resources, const CatalogInput& input) {
  Join join(resources);
  join_node(join, input);
  join_workloads(join, input);
  join_entries(join);
  index_labels(join);
  join_services(join);
  join_addresses(join);
  join.catalog.routes.reserve(join.routes.size());
  for (auto& entry : join.routes) join.catalog.routes.push_back(std::move(entry.second));
  return std::move(join.catalog);
}

}  // namespace meshnode::model
