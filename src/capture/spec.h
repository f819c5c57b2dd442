#pragma once
/// What to capture, as a value: the worker computes it from the configuration, the supervisor
/// turns it into rules (capture/rules.h). Everything in it is checked again by check(): the
/// supervisor does not trust the worker.

#include <meshnode/address.h>
#include <meshnode/result.h>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace meshnode::capture {

struct ByUser {
  std::uint32_t uid = 0;
  bool operator==(const ByUser&) const = default;
};
struct ByCgroup {
  std::string path;  ///< below the cgroup2 mount, no leading slash
  bool operator==(const ByCgroup&) const = default;
};
/// Whatever leaves the host from this address of its own, and comes in at it.
struct ByAddress {
  IpAddress address;
  bool operator==(const ByAddress&) const = default;
};
/// Everything in another network namespace; its rules and sockets are inside it.
struct ByNamespace {
  std::string path;       ///< of an nsfs file, absolute; empty when it is named by a process
  std::uint32_t pid = 0;  ///< a process in it; 0 when it is named by a path
  bool operator==(const ByNamespace&) const = default;
};
using Owner = std::variant<ByUser, ByCgroup, ByAddress, ByNamespace>;

struct Enrolled {
  std::string name;  ///< "namespace/name", for comments and status
  std::uint16_t slot = 0;
  Owner owner;
  std::vector<std::uint16_t> ports;  ///< declared inbound
  bool operator==(const Enrolled&) const = default;
};

struct Spec {
  std::vector<Enrolled> workloads;
  bool capture_loopback = true;
  bool preserve_source = true;
  /// Left alone: what goes to or comes in at these ports, goes to or comes from these addresses.
  /// Ascending, so that two of the same meaning are equal.
  std::vector<std::uint16_t> exclude_ports;
  std::vector<IpPrefix> exclude_cidrs;
  bool operator==(const Spec&) const = default;
};

inline constexpr std::uint16_t kOutboundPort = 15001;
inline constexpr std::uint16_t kInboundPort = 15006;
inline constexpr std::uint16_t kTunnelPort = 15008;
inline constexpr std::uint32_t kOwnMark = 0x539;
inline constexpr std::uint32_t kReplyMark = 0x111;
inline constexpr std::uint32_t kMarkMask = 0xfff;

inline constexpr std::size_t kMaxWorkloads = 1024;  ///< of one host
inline constexpr std::size_t kMaxPorts = 64;        ///< of one workload
inline constexpr std::size_t kMaxExcludes = 64;     ///< ports, and as many address blocks
inline constexpr unsigned kWidestExclude = 7;       ///< length of a block: fc00::/7 is one
inline constexpr std::uint16_t kMaxSlot = 65'000;

/// What of `spec` concerns the agent's own network namespace, and what that of `workload`, which is
/// enrolled by one.
Spec of_host(const Spec& spec);
Spec of_namespace(const Spec& spec, const Enrolled& workload);

/// For people: "uid 5", "cgroup a/b", "address 10.0.0.5", "network namespace /run/netns/a". No two
/// workloads have the same.
std::string text_of(const Owner& owner);

/// 127.15.<slot/256>.<slot%256>, and the same in our IPv6 ULA prefix.
IpAddress capture_address(Family family, std::uint16_t slot);
/// The slot that a capture address names; an error for any other address.
Result<std::uint16_t> slot_of(const IpAddress& address);

/// Whether an agent listens there; capturing it would lead it to itself.
bool is_own_port(std::uint16_t port);

/// Whether it is "namespace/name", both DNS labels.
bool is_workload_name(std::string_view name);

/// Bounds: kMaxWorkloads, kMaxPorts, kMaxExcludes (ascending, no port 0, no block wider than /7),
/// unique slots 1 to 65,000, unique owners, names and paths of printable characters only, no ".."
/// in a path, no port of ours.
Status check(const Spec& spec);

/// JSON, for the channel between worker and supervisor; decode() checks.
std::string encode(const Spec& spec);
Result<Spec> decode(std::string_view text);

}  // namespace meshnode::capture
