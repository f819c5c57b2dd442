#pragma once
/// Spec -> packet filter rules of one family. Pure; the whole meaning of capture is here.
///
/// Steering is in nat and mangle, enforcement in filter. Every chain of ours ends in RETURN, so the
/// host's own firewall keeps its meaning. Every steering and rejecting rule matches a TCP SYN only:
/// connections that live never notice. In the order a packet meets them:
///
/// - raw, on lo only: what we dial and what we steered passes, whatever others do there.
/// - mangle PREROUTING (from other hosts and from containers): a SYN to a declared port of a local
///   address goes to 15006 by TPROXY, keeping its destination, and gets kInboundMark. Ours is the
///   last rule there, because TPROXY ends the table and a host's own rules must be heard first.
/// - mangle OUTPUT: our dial with a foreign source to a local address marks its connection with
///   kReplyMark, and the answers of such a connection get that mark as packets, which a routing
///   rule (capture/routes.h) leads back to us.
/// - nat OUTPUT: our own packets pass. To a LOCAL destination: a declared port is steered, to
///   the caller's capture address if the caller is enrolled, else to 15006; anything else passes,
///   so that a workload's own database on 127.0.0.1 is none of our business. To any other
///   destination: an enrolled caller is steered to its capture address. IPv6 link-local
///   destinations pass: the socket is bound to an interface and cannot be led to lo.
/// - nat POSTROUTING, on lo only: what we steered and what we dial keeps its source. A container
///   engine's MASQUERADE is meant for what leaves the host, which these would have done, or never
///   would have met.
/// - filter OUTPUT: the SYN of an enrolled caller that is neither ours nor DNATed nor LOCAL nor
///   link-local is rejected.
/// - filter INPUT: 15001 and 15006 take what was steered there and nothing else; a SYN to a
///   declared port with neither our mark nor kInboundMark and the socket that TPROXY chose is
///   rejected: bridges whose packets lose that socket (bridge-nf-call-iptables), forwards by DNAT,
///   local callers after someone flushed the nat table.
///
/// `capture_loopback` = false leaves callers on this host alone altogether: LOCAL destinations
/// pass in nat OUTPUT, and so does loopback input in the backstop.
///
/// Cgroups are matched before users, deeper cgroups before their parents: the narrower statement
/// names the caller. `user` means the user that created the socket. Addresses come last, since any
/// program may bind to one; such a workload's ports are declared at that address alone.
///
/// In the network namespace of a workload (of_namespace(): one workload, which is everything in
/// it) mangle OUTPUT begins by taking our mark off every SYN that is not of the agent's cgroup:
/// containers commonly have CAP_NET_RAW, and with it could mark their own.
///
/// MESHNODE_ANCHOR in mangle is not called by anyone: a rule with -m conntrack keeps connection
/// tracking on while it exists, also after the last NAT rule is gone, without which live steered
/// connections would be reset. It goes with remove(), when they have been drained.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "capture/restore.h"
#include "capture/spec.h"

namespace meshnode::capture {

/// On packets that TPROXY took, within kMarkMask; only the INPUT backstop looks at it.
inline constexpr std::uint32_t kInboundMark = 0x53a;

/// "fd6d:6573:686e::/64" ("meshn"): our part of the unique local addresses (RFC 4193), routed to lo
/// and unreachable from outside. Its interface identifiers are slots.
inline constexpr std::string_view kPrefix6 = "fd6d:6573:686e::/64";

struct CgroupFact {
  std::string path;
  std::uint64_t inode = 0;  ///< 0: does not exist
  bool operator==(const CgroupFact&) const = default;
};

/// What the rules depend on besides the Spec.
struct HostFacts {
  bool ipv6 = false;
  std::vector<CgroupFact> cgroups;  ///< of every ByCgroup, in order of the workloads
  /// For the rules of another network namespace: the agent's cgroup, below the cgroup2 mount;
  /// empty when it is the root, which tells nobody apart.
  std::string own_cgroup{};
  /// For the same: which agent, by its own network namespace (an inode number); the anchor's
  /// comment has it, so that rules are found and removed from there and nowhere else.
  std::string agent{};
  bool exists(std::string_view path) const;
  bool operator==(const HostFacts&) const = default;
};

/// Names of workloads that cannot be bound yet.
std::vector<std::string> waiting(const Spec& spec, const HostFacts& facts);

/// `spec` must have passed check() and be of_host() or of_namespace(). Workloads whose cgroup does
/// not exist have no outbound rules.
/// Tables in the order raw, mangle, nat, filter: a backstop never comes before its steering.
Ruleset rules(const Spec& spec, const HostFacts& facts, Family family);

/// What two specs both enroll: the backstops of this may stand while steering changes from one to
/// the other, so nothing withdrawn is rejected on the way.
Spec common(const Spec& a, const Spec& b);

/// Which backstop a rule of ours is, from its comment ("meshnode bypass inbound ns/name"); empty
/// reason for every other rule.
struct Backstop {
  std::string reason;
  std::string workload;
};
Backstop backstop_of(std::string_view comment);

}  // namespace meshnode::capture
