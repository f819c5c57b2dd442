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
                           catalog.dial_address(catalog.node.address->family()).text()),
               "nothing to do behind NAT; else set spec.address to an address of this host", true);
}

void check_defaults(Join& join) {
  std::vector<std::string> defaults;
  for (const CatalogWorkload& workload : join.catalog.workloads) {
    if (workload.is_default) defaults.push_back(workload.id.text());
  }
  const std::string object = fmt::format("Node {}", join.catalog.node_name);
  if (defaults.size() > 1) {
    join.problem("default-workload-conflict", object,
                 fmt::format("{} are all marked default: true, so a peer that sends no server name "
                             "is refused",
                             fmt::join(defaults, ", ")),
                 "leave default: true on one Workload only");
  } else if (defaults.empty() && join.catalog.workloads.size() > 1) {
    join.problem("default-workload-missing", object,
                 fmt::format("{} workloads and none is marked default: a peer that sends no server "
                             "name (ztunnel) is refused",
                             join.catalog.workloads.size()),
                 "say default: true in one Workload if such peers call this host", true);
  }
}

/// Which workload answers each port; two with different identities: neither.
void join_inbound(Join& join) {
  std::map<std::uint16_t, std::vector<std::size_t>> owners;
  const auto& workloads = join.catalog.workloads;
  for (std::size_t i = 0; i < workloads.size(); ++i) {
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

std::string label_key(std::string_view ns, std::string_view label, std::string_view value) {
  return fmt::format("{}\n{}\n{}", ns, label, value);
}

}  // namespace

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

IpAddress Catalog::dial_address(const IpAddress& own) const {
  return own == address_elsewhere ? dial_address(own.family()) : own;
}

IpAddress Catalog::dial_address(Family family) const {
  const auto dialable = [&](const IpAddress& ip) {
    return ip != address_elsewhere && (ip.is_v4() || !ip.is_link_local());
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

void join_workloads(Join& join) {
  for (const auto& resource : join.resources) {
    const auto* spec = std::get_if<WorkloadSpec>(&resource->spec);
    if (spec == nullptr) continue;
    const Metadata& metadata = resource->metadata;
    CatalogWorkload workload{{metadata.ns, metadata.name},
                             spec->match,
                             {},
                             spec->is_default,
                             spec->force,
                             resource->origin};
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
  join_workloads(join);
  join_entries(join);
  index_labels(join);
  join_services(join);
  join_addresses(join);
  join.catalog.routes.reserve(join.routes.size());
  for (auto& entry : join.routes) join.catalog.routes.push_back(std::move(entry.second));
  return std::move(join.catalog);
}

}  // namespace meshnode::model
