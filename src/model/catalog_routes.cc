#include <fmt/format.h>
#include <algorithm>
#include <iterator>
#include <tuple>
#include "model/catalog_join.h"

namespace meshnode::model {
namespace {

/// A Service or ServiceEntry, seen alike.
struct ServiceView {
  const std::string& ns;
  std::string object;  ///< "Service ns/name", for problems
  const std::vector<IpAddress>& addresses;
  const std::vector<ServicePort>& ports;
  std::size_t index = 0;  ///< into Catalog::services
  std::vector<std::size_t> members;
};

std::vector<std::size_t> select(const Join& join, const std::string& ns, const Labels& selector) {
  const std::vector<std::size_t>* smallest = nullptr;
  for (const auto& label : selector) {
    const auto it = join.by_label.find(fmt::format("{}\n{}\n{}", ns, label.first, label.second));
    if (it == join.by_label.end()) return {};
    if (smallest == nullptr || it->second.size() < smallest->size()) smallest = &it->second;
  }
  std::vector<std::size_t> out;
  if (smallest == nullptr) return out;
  std::copy_if(smallest->begin(), smallest->end(), std::back_inserter(out), [&](std::size_t i) {
    const Labels& labels = join.catalog.members[i].labels;
    return selects(selector, labels);
  });
  return out;
}

std::optional<std::uint16_t> entry_port(const WorkloadEntrySpec& entry, const ServicePort& port) {
  const auto named = entry.ports.find(port.name);
  if (!port.name.empty() && named != entry.ports.end()) return named->second;
  if (const auto* number = std::get_if<std::uint16_t>(&port.target)) return *number;
  if (const auto* name = std::get_if<std::string>(&port.target)) {
    const auto target = entry.ports.find(*name);
    if (target == entry.ports.end()) return {};
    return target->second;
  }
  return port.port;
}

std::optional<std::uint16_t> workload_port(const WorkloadSpec& workload, const ServicePort& port) {
  const auto* name = std::get_if<std::string>(&port.target);
  const auto* number = std::get_if<std::uint16_t>(&port.target);
  const std::string& wanted = name != nullptr ? *name : port.name;
  const std::uint16_t fallback = number != nullptr ? *number : port.port;
  for (const WorkloadPort& own : workload.ports) {
    if (number == nullptr && !wanted.empty() && own.name == wanted) return own.port;
  }
  if (name != nullptr) return {};
  for (const WorkloadPort& own : workload.ports) {
    if (own.port == fallback) return fallback;
  }
  return {};
}

std::optional<std::uint16_t> target_port(const Join& join, std::size_t member,
                                         const ServicePort& port) {
  const auto local = join.local_specs.find(member);
  if (local != join.local_specs.end()) return workload_port(*local->second, port);
  return entry_port(*join.entries.at(member), port);
}

/// Whether a tunnelled entry at an address of this node may be taken for the Workload there. What
/// is sent to an address of the host itself ends here whatever the entry says; of one that is only
/// said to be ours, both must say the same, or a mistake would swap two workloads.
bool stands_for(const Join& join, const Member& entry, std::size_t workload) {
  return entry.address != join.catalog.address_elsewhere ||
         entry.identity == join.catalog.members[workload].identity;
}

/// Where a Workload's port is reached, if it is the one that answers there.
std::optional<CatalogEndpoint> local_endpoint(const Join& join, std::size_t workload,
                                              std::uint16_t port, Family family) {
  const Catalog& catalog = join.catalog;
  const CatalogWorkload& who = catalog.workloads[workload];
  IpAddress ip;
  if (who.place == CatalogWorkload::Place::kHost) {
    ip = catalog.dial_address(family, port);
  } else {
    if (who.own.empty()) return {};
    const auto wanted = std::find_if(who.own.begin(), who.own.end(), [&](const IpAddress& own) {
      return own.family() == family;
    });
    ip = wanted == who.own.end() ? who.own.front() : *wanted;
  }
  const auto answering = catalog.answers({ip, port});
  if (!answering || catalog.members[*answering].identity != catalog.members[workload].identity) {
    return {};
  }
  return CatalogEndpoint{{ip, port}, *answering};
}

/// Where a member's port is reached, or nothing: an address of this node leads to the Workload that
/// declares the port, and to nobody if none does and the entry speaks of a tunnel. A Workload is
/// dialled at an address that the host has.
std::optional<CatalogEndpoint> endpoint_of(const Join& join, std::size_t member, std::uint16_t port,
                                           Family family) {
  const Member& who = join.catalog.members[member];
  if (who.local) return local_endpoint(join, *who.local, port, family);
  if (join.is_own(who.address)) {
    const auto answering = join.catalog.answers({who.address, port});
    if (answering && (!who.tunnelled || stands_for(join, who, *answering))) {
      return CatalogEndpoint{{join.catalog.dial_address(who.address), port}, *answering};
    }
    if (who.tunnelled) return {};
  }
  return CatalogEndpoint{{who.address, port}, member};
}

void claim(Join& join, std::size_t member, std::uint16_t port, std::optional<std::size_t> service) {
  const Member& who = join.catalog.members[member];
  const auto add = [&](const IpAddress& ip) {
    std::set<std::size_t>& services = join.claims[{ip, port}][member];
    if (service) services.insert(*service);
  };
  if (!who.local) {
    add(who.address);
    return;
  }
  const CatalogWorkload& workload = join.catalog.workloads[*who.local];
  if (workload.place != CatalogWorkload::Place::kHost) {
    for (const IpAddress& ip : workload.own) add(ip);
    return;
  }
  for (const IpAddress& ip : join.catalog.addresses) {
    const bool shared = !join.catalog.inbound_own.contains({ip, port});
    if (shared && (ip.is_v4() || !ip.is_link_local())) add(ip);
  }
  add(loopback(Family::kV4));
  add(loopback(Family::kV6));
}

void report_target(Join& join, const ServiceView& service, const ServicePort& port,
                   std::size_t member) {
  const Member& who = join.catalog.members[member];
  join.problem("target-port-missing", service.object,
               fmt::format("its port {} has no target on {}/{}: {}", port.port, who.ns, who.name,
                           who.local ? "the Workload declares no such port"
                                     : "the WorkloadEntry names no such port"),
               "declare the port there, or correct targetPort");
}

/// The endpoints of one service port, as dialled from an address of `family`.
std::vector<CatalogEndpoint> endpoints_of(Join& join, const ServiceView& service,
                                          const ServicePort& port, Family family, bool report) {
  std::vector<CatalogEndpoint> out;
  for (const std::size_t member : service.members) {
    if (!join.spend(1, service.object)) return {};
    const auto target = target_port(join, member, port);
    if (!target) {
      if (report) report_target(join, service, port, member);
      continue;
    }
    if (report) claim(join, member, *target, service.index);
    if (const auto endpoint = endpoint_of(join, member, *target, family)) {
      out.push_back(*endpoint);
    }
  }
  // One workload of this node under several of its addresses or documents is one endpoint.
  const auto order = [&](const CatalogEndpoint& a, const CatalogEndpoint& b) {
    const bool a_local = join.catalog.members[a.member].local.has_value();
    const bool b_local = join.catalog.members[b.member].local.has_value();
    if (a_local != b_local) return a_local;
    if (a_local && (a.member != b.member || a.address.port != b.address.port)) {
      return std::tie(a.member, a.address.port) < std::tie(b.member, b.address.port);
    }
    if (a_local && a.address.ip.family() != b.address.ip.family()) {
      return a.address.ip.family() == family;
    }
    return a.address < b.address;
  };
  std::stable_sort(out.begin(), out.end(), order);
  const auto same = [&](const CatalogEndpoint& a, const CatalogEndpoint& b) {
    if (join.catalog.members[a.member].local) {
      return a.member == b.member && a.address.port == b.address.port;
    }
    return a.address == b.address &&
           join.catalog.members[a.member].identity == join.catalog.members[b.member].identity;
  };
  out.erase(std::unique(out.begin(), out.end(), same), out.end());
  std::stable_sort(out.begin(), out.end(), [](const CatalogEndpoint& a, const CatalogEndpoint& b) {
    return a.address < b.address;
  });
  return out;
}

void add_virtual(Join& join, const ServiceView& service, const SocketAddress& address,
                 std::vector<CatalogEndpoint> endpoints) {
  const auto existing = join.routes.find(address);
  if (existing == join.routes.end()) {
    join.routes.emplace(address, CatalogRoute{address, service.index, std::move(endpoints)});
    return;
  }
  if (join.clashing.insert(address).second) {
    const CatalogService& other = join.catalog.services[*existing->second.service];
    join.problem("address-conflict", service.object,
                 fmt::format("{} is the address of this service and of {}.{}: neither is reached "
                             "there",
                             address.text(), other.name, other.ns),
                 "give each service an address of its own");
  }
  existing->second.service.reset();
  existing->second.endpoints.clear();
}

void join_service(Join& join, const ServiceView& service) {
  std::set<IpAddress> usable;
  for (const IpAddress& ip : service.addresses) {
    if (!join.is_own(ip)) {
      usable.insert(ip);
      continue;
    }
    join.problem(
        "address-conflict", service.object,
        fmt::format("its address {} is an address of this host, which keeps it", ip.text()),
        "give the service an address that no host has");
  }
  for (const ServicePort& port : service.ports) {
    auto v4 = endpoints_of(join, service, port, Family::kV4, true);
    const bool any_v6 =
        std::any_of(usable.begin(), usable.end(), [](const IpAddress& ip) { return !ip.is_v4(); });
    std::vector<CatalogEndpoint> v6;
    if (any_v6) v6 = endpoints_of(join, service, port, Family::kV6, false);
    for (const IpAddress& ip : usable) {
      const std::vector<CatalogEndpoint>& endpoints = ip.is_v4() ? v4 : v6;
      if (!join.spend(endpoints.size() + 1, service.object)) return;
      add_virtual(join, service, {ip, port.port}, endpoints);
    }
  }
}

void join_one(Join& join, const Resource& resource) {
  const Metadata& metadata = resource.metadata;
  std::string object = fmt::format("{} {}/{}", resource.kind(), metadata.ns, metadata.name);
  const std::size_t index = join.catalog.services.size();
  if (const auto* service = std::get_if<ServiceSpec>(&resource.spec)) {
    join.catalog.services.push_back({fmt::format("{}.{}.mesh.internal", metadata.name, metadata.ns),
                                     metadata.name, metadata.ns});
    join_service(join, {metadata.ns, std::move(object), service->addresses, service->ports, index,
                        select(join, metadata.ns, service->selector)});
  } else if (const auto* entry = std::get_if<ServiceEntrySpec>(&resource.spec)) {
    join.catalog.services.push_back({entry->hosts.front(), metadata.name, metadata.ns});
    std::vector<std::size_t> members = select(join, metadata.ns, entry->selector);
    for (std::size_t i = 0; i < entry->endpoints.size(); ++i) {
      members.push_back(add_entry(join, metadata.ns, fmt::format("{}/{}", metadata.name, i),
                                  entry->endpoints[i]));
    }
    join_service(join, {metadata.ns, std::move(object), entry->addresses, entry->ports, index,
                        std::move(members)});
  }
}

/// A workload with an `app` label that no service selects is one by itself (design §3).
std::optional<std::size_t> implicit_service(Join& join, const Member& member) {
  const auto app = member.labels.find("app");
  if (app == member.labels.end() || app->second.empty()) return {};
  const auto [it, fresh] =
      join.implicit_services.try_emplace({member.ns, app->second}, join.catalog.services.size());
  if (fresh) {
    join.catalog.services.push_back(
        {fmt::format("{}.{}.mesh.internal", app->second, member.ns), app->second, member.ns});
  }
  return it->second;
}

/// Of several who claim an address and port, the one that is dialled there; nothing when two
/// tunnelled ones disagree about the identity.
std::optional<std::size_t> owner_of(Join& join, const SocketAddress& address,
                                    const Claims& claims) {
  const auto& members = join.catalog.members;
  std::size_t chosen = claims.begin()->first;
  for (const auto& other : claims) {
    const Member& a = members[chosen];
    const Member& b = members[other.first];
    if (a.tunnelled && b.tunnelled && a.identity != b.identity) {
      join.problem("address-conflict", address.text(),
                   fmt::format("{}/{} and {}/{} both own it under different identities: neither is "
                               "reached there",
                               a.ns, a.name, b.ns, b.name),
                   "correct the address or the serviceAccount of one of them");
      return {};
    }
    if (!a.tunnelled && b.tunnelled) chosen = other.first;
  }
  return chosen;
}

/// An address and port of this node: the Workload that declares it, whatever entries say, unless
/// only spec.address says that the address is this node's and an entry says otherwise.
std::optional<std::size_t> own_owner_of(Join& join, const SocketAddress& address,
                                        const Claims& claims) {
  const auto answering = join.catalog.answers(address);
  bool disputed = false;
  for (const auto& other : claims) {
    const Member& member = join.catalog.members[other.first];
    if (member.local || !member.tunnelled) continue;
    if (!answering) {
      join.problem("workload-missing", fmt::format("WorkloadEntry {}/{}", member.ns, member.name),
                   fmt::format("it lies at {}, an address of this host, where no Workload declares "
                               "the port",
                               address.text()),
                   "declare a Workload with this port on this host, or correct the address");
    } else if (member.identity != join.catalog.members[*answering].identity) {
      join.problem("identity-mismatch", fmt::format("WorkloadEntry {}/{}", member.ns, member.name),
                   fmt::format("its serviceAccount differs from that of Workload {} at {}: other "
                               "hosts will refuse the workload",
                               join.catalog.workloads[*answering].id.text(), address.text()),
                   "make namespace and serviceAccount of both the same");
      disputed = disputed || !stands_for(join, member, *answering);
    }
  }
  if (disputed) return {};
  if (answering) return *answering;
  const bool closed = std::any_of(claims.begin(), claims.end(), [&](const auto& c) {
    const Member& member = join.catalog.members[c.first];
    return member.local || member.tunnelled;
  });
  if (closed) return {};
  return claims.begin()->first;
}

void join_claim(Join& join, const SocketAddress& address, const Claims& claims) {
  const bool own = join.is_own(address.ip);
  const auto owner = own ? own_owner_of(join, address, claims) : owner_of(join, address, claims);
  CatalogRoute route{address, {}, {}};
  if (owner) {
    std::set<std::size_t> services;
    for (const auto& by : claims) services.insert(by.second.begin(), by.second.end());
    if (services.size() == 1) route.service = *services.begin();
    if (services.empty()) route.service = implicit_service(join, join.catalog.members[*owner]);
    const bool local = join.catalog.members[*owner].local.has_value();
    const IpAddress ip = local ? join.catalog.dial_address(address.ip) : address.ip;
    route.endpoints.push_back({{ip, address.port}, *owner});
  }
  const auto existing = join.routes.find(address);
  if (existing == join.routes.end()) {
    join.routes.emplace(address, std::move(route));
    return;
  }
  const std::vector<CatalogEndpoint>& endpoints = existing->second.endpoints;
  const bool same = std::any_of(endpoints.begin(), endpoints.end(),
                                [&](const CatalogEndpoint& e) { return e.address == address; });
  if (same || !existing->second.service) return;
  const CatalogService& service = join.catalog.services[*existing->second.service];
  const Member& member = join.catalog.members[claims.begin()->first];
  join.problem(
      "address-conflict", address.text(),
      fmt::format("it is the address of service {}.{} and of {}/{}: the service is reached "
                  "there",
                  service.name, service.ns, member.ns, member.name),
      "give the service an address that no host has");
}

}  // namespace

void join_services(Join& join) {
  for (const auto& resource : join.resources) join_one(join, *resource);
}

void join_addresses(Join& join) {
  for (const auto& entry : join.local_specs) {
    for (const WorkloadPort& port : entry.second->ports) claim(join, entry.first, port.port, {});
  }
  for (const auto& entry : join.entries) {
    for (const auto& port : entry.second->ports) claim(join, entry.first, port.second, {});
  }
  for (const auto& entry : join.claims) join_claim(join, entry.first, entry.second);
}

}  // namespace meshnode::model
