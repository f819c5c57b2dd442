#pragma once
/// The working state behind make_catalog(): filled step by step, in the order of the functions
/// below. Thread: one.

#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>
#include "model/catalog.h"

namespace meshnode::model {

/// Who claims an address and port: members, each with the services (indices into
/// Catalog::services) that lead there.
using Claims = std::map<std::size_t, std::set<std::size_t>>;

struct Join {
  explicit Join(const Resources& from);

  Catalog catalog;
  const Resources& resources;
  std::set<IpAddress> own_addresses;        ///< the host's
  std::set<IpAddress> virtual_addresses;    ///< of services
  /// Addresses that entries give, and the namespaces and service accounts they give them to.
  std::map<IpAddress, std::set<std::pair<std::string, std::string>>> claimed;
  std::set<IpAddress> namespace_addresses;  ///< of workloads in network namespaces of their own
  /// Members by "namespace, label, value", each list ascending.
  std::unordered_map<std::string, std::vector<std::size_t>> by_label;
  /// The ports that a WorkloadEntry names, by member.
  std::unordered_map<std::size_t, const WorkloadEntrySpec*> entries;
  std::unordered_map<std::size_t, const WorkloadSpec*> local_specs;
  /// Declared ports of mesh addresses and who claims them.
  std::map<SocketAddress, Claims> claims;
  std::map<SocketAddress, CatalogRoute> routes;
  std::set<SocketAddress> clashing;
  std::map<std::pair<std::string, std::string>, std::size_t> implicit_services;
  std::size_t budget = Catalog::kMaxRouteEndpoints;
  bool exhausted = false;

  /// Whether what is sent there ends on this node.
  bool is_own(const IpAddress& ip) const {
    return own_addresses.contains(ip) || namespace_addresses.contains(ip) || ip.is_loopback();
  }
  /// Whether an address is not for a workload of that namespace and account to have to itself.
  bool is_somebody_elses(const IpAddress& ip, const std::string& ns,
                         const std::string& account) const;
  void problem(std::string code, std::string object, std::string message, std::string hint,
               bool informational = false);
  /// False once the work this configuration asks for is over the limit; reported once.
  bool spend(std::size_t amount, std::string_view object);
};

IpAddress loopback(Family family);

/// Members: Workloads first (so that member and workload indices agree), then WorkloadEntries.
void join_node(Join& join, const CatalogInput& input);
void join_workloads(Join& join, const CatalogInput& input);
void join_entries(Join& join);
std::size_t add_entry(Join& join, const std::string& ns, std::string name,
                      const WorkloadEntrySpec& entry);
void index_labels(Join& join);
/// Services and their virtual addresses, then everything that is dialled by its own address.
void join_services(Join& join);
void join_addresses(Join& join);

}  // namespace meshnode::model
