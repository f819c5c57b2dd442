#include "snapshot/snapshot.h"

#include <fmt/format.h>
#include <algorithm>

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

}  // namespace

const Route* Snapshot::route(const SocketAddress& destination) const {
  const auto it = routes.find(destination);
  return it == routes.end() ? nullptr : &it->second;
}

std::shared_ptr<const LocalWorkload> Snapshot::caller(std::uint16_t slot) const {
  const auto it = by_slot.find(slot);
  return it == by_slot.end() ? nullptr : it->second;
}

std::shared_ptr<const LocalWorkload> Snapshot::callee(const SocketAddress& destination) const {
  const auto it = inbound.find(normalised(destination));
  return it == inbound.end() ? nullptr : it->second;
}

SocketAddress Snapshot::dial_address(const SocketAddress& destination) const {
  if (!dialled_as || dialled_as->first != destination.ip) return destination;
  return {dialled_as->second, destination.port};
}

Result<std::shared_ptr<const LocalWorkload>> Snapshot::for_server_name(
    std::optional<std::string_view> server_name) const {
  if (server_name) {
    const auto it = by_server_name.find(lower(*server_name));
    if (it != by_server_name.end()) return it->second;
    return fail(ErrorCode::kNotFound,
                fmt::format("no workload of this node answers to the server name '{}'",
                            server_name->substr(0, 255)));
  }
  if (workloads.size() == 1) return workloads.front();
  std::shared_ptr<const LocalWorkload> chosen;
  for (const auto& workload : workloads) {
    if (!workload->is_default) continue;
    if (chosen != nullptr) {
      return fail(ErrorCode::kNotFound,
                  fmt::format("no server name was sent, and {} and {} are both marked default",
                              chosen->id.text(), workload->id.text()));
    }
    chosen = workload;
  }
  if (chosen != nullptr) return chosen;
  return fail(ErrorCode::kNotFound,
              workloads.empty() ? "this node has no workload"
                                : "no server name was sent, and none of this node's workloads is "
                                  "marked default: true");
}

}  // namespace meshnode::snapshot
