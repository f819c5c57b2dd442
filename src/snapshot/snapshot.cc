#include "snapshot/snapshot.h"

#include <fmt/format.h>
#include <algorithm>
#include <iterator>

namespace meshnode::snapshot {
namespace {

/// All of 127.0.0.0/8 is this host: one key stands for it.
SocketAddress normalised(const SocketAddress& address) {
  if (!address.ip.is_v4() || !address.ip.is_loopback()) return address;
  return {IpAddress::v4({127, 0, 0, 1}), address.port};
}

/// TLS server names are compared without regard to case (RFC 6066 §3).
std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return out;
}

Error unknown_name(std::string_view server_name) {
  return {ErrorCode::kNotFound,
          fmt::format("no workload of this node answers to the server name '{}'",
                      server_name.substr(0, 255))};
}

}  // namespace

const Route* Snapshot::route(const SocketAddress& destination) const {
  const auto it = routes.find(destination);
  return it == routes.end() ? nullptr : &it->second;
}

std::shared_ptr<const LocalWorkload> Snapshot::caller(std::uint16_t slot,
                                                      std::uint16_t space) const {
  const auto it = by_slot.find(slot);
  if (it != by_slot.end() && it->second->space == space) return it->second;
  const auto left = departed.find({slot, space});
  return left != departed.end() ? left->second : nullptr;
}

std::shared_ptr<const LocalWorkload> Snapshot::owner(std::uint16_t space) const {
  const auto it = by_slot.find(space);
  return it != by_slot.end() && it->second->space == space ? it->second : nullptr;
}

std::shared_ptr<const LocalWorkload> Snapshot::callee(const SocketAddress& destination,
                                                      std::uint16_t space) const {
  if (space != 0) {
    auto workload = owner(space);
    return workload && workload->declares(destination.port) ? workload : nullptr;
  }
  const auto it = inbound.find(normalised(destination));
  return it == inbound.end() ? nullptr : it->second;
}

SocketAddress Snapshot::dial_address(const SocketAddress& destination) const {
  if (!dialled_as || dialled_as->first != destination.ip) return destination;
  return {dialled_as->second, destination.port};
}

Result<std::shared_ptr<const LocalWorkload>> Snapshot::for_server_name(
    std::optional<std::string_view> server_name, const Arrival& arrival) const {
  if (arrival.space != 0) return in_namespace(server_name, arrival.space);
  if (server_name) {
    const auto it = by_server_name.find(lower(*server_name));
    if (it != by_server_name.end()) return it->second;
    return fail(unknown_name(*server_name));
  }
  const auto own = by_address.find(arrival.local);
  if (own != by_address.end()) return own->second;
  std::vector<std::shared_ptr<const LocalWorkload>> sharing;
  std::copy_if(workloads.begin(), workloads.end(), std::back_inserter(sharing),
               [](const auto& workload) { return workload->shares_addresses; });
  if (sharing.size() == 1) return sharing.front();
  std::erase_if(sharing, [](const auto& workload) { return !workload->is_default; });
  if (sharing.size() == 1) return sharing.front();
  if (sharing.size() > 1) {
    return fail(ErrorCode::kNotFound,
                fmt::format("no server name was sent, and {} and {} are both marked default",
                            sharing[0]->id.text(), sharing[1]->id.text()));
  }
  return fail(ErrorCode::kNotFound,
              workloads.empty() ? "this node has no workload"
                                : "no server name was sent, and none of this node's workloads is "
                                  "marked default: true");
}

Result<std::shared_ptr<const LocalWorkload>> Snapshot::in_namespace(
    std::optional<std::string_view> server_name, std::uint16_t space) const {
  auto workload = owner(space);
  if (!workload) {
    return fail(ErrorCode::kNotFound, "the workload of this network namespace is not enrolled now");
  }
  if (server_name && lower(*server_name) != workload->identity.server_name()) {
    return fail(unknown_name(*server_name));
  }
  return workload;
}

}  // namespace meshnode::snapshot
