#pragma once
/// Puts capture rules (capture/rules.h) into the kernel, keeps them there and takes them out. The
/// shell around the pure parts; the only state is what it applied last and the counters it has
/// seen. Thread: one; calls block while iptables and ip run (up to 10 s each, typically 10 ms).
///
/// A workload enrolled by a cgroup that does not exist yet is "waiting": its declared ports are
/// guarded, but what it dials is not, because no rule can name it; it is bound by the first
/// verify_and_repair() after the cgroup appeared, and bound anew when the cgroup was removed and
/// created again. Until then its connections go direct and no backstop can tell them apart: enroll
/// a parent that outlives restarts (a slice) where that matters.

#include <meshnode/kernel.h>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "capture/restore.h"
#include "capture/rules.h"
#include "capture/save.h"
#include "capture/spec.h"

namespace meshnode::capture {

struct Report {
  bool v4 = false;                    ///< rules are in force for the family
  bool v6 = false;                    ///< false on a host without IPv6
  std::vector<std::string> waiting;   ///< workloads whose cgroup does not exist
  std::vector<std::string> repaired;  ///< what was missing or different, one line each
  std::vector<std::string> conflicts;  ///< capture/conflicts.h, both families
  bool operator==(const Report&) const = default;
};

/// Hits of one backstop, both families together, since this Applier exists.
struct Bypass {
  std::string reason;    ///< "inbound", "outbound" or "own-port"
  std::string workload;  ///< "namespace/name"; empty for "own-port"
  std::uint64_t packets = 0;
  bool operator==(const Bypass&) const = default;
};

class Applier {
 public:
  /// `kernel` must outlive this. `agent`: HostFacts.
  explicit Applier(Kernel& kernel, std::string agent = {})
      : kernel_(kernel), agent_(std::move(agent)) {}

  /// All or nothing, both families: on an error the rules are as before the call. Rules of an
  /// earlier run are taken over without a gap. An empty `spec` keeps what live connections need
  /// (the conntrack anchor, the route of preserved sources) and captures nothing.
  Result<Report> apply(const Spec& spec);
  /// Looks, and repairs what differs from the last apply(); a report without rules before it. To be
  /// called every 1 to 2 s: two iptables-save, two ip and, for cgroups, a stat each.
  Result<Report> verify_and_repair();
  /// Whether a cgroup appeared, went or was re-created since: needs verify_and_repair() although
  /// nobody touched a rule. Runs no program.
  bool facts_changed();
  /// See capture::remove(); apply() may follow.
  Result<std::vector<std::string>> remove();
  /// As of the last apply() or verify_and_repair(); runs nothing.
  std::vector<Bypass> counters() const;

 private:
  struct Applied {
    Spec spec;
    HostFacts facts;
    std::map<Family, Ruleset> expected;  ///< as the kernel prints it
  };
  struct Count {
    std::uint64_t earlier = 0;  ///< of rules that are gone
    std::uint64_t now = 0;
  };

  Result<HostFacts> look(const Spec& spec) const;
  Result<Report> install(const Spec& spec);
  Status install_once(const Spec& spec, const HostFacts& facts);
  Result<Ruleset> install_family(Family family, const Spec& spec, const HostFacts& facts,
                                 const Saved& before, bool again);
  Error roll_back(Error cause, const std::map<Family, Saved>& before);
  Result<std::vector<std::string>> repair(Family family, const Ruleset& expected);
  Result<Saved> dump(Family family);
  void count(Family family, const Saved& saved);
  Report report() const;

  Kernel& kernel_;
  std::string agent_;
  std::optional<Applied> applied_;
  std::map<Family, std::vector<std::string>> conflicts_;
  std::map<std::pair<Family, std::string>, Count> counts_;
};

/// Takes out whatever of ours is there: both families, both iptables backends, routing rules and
/// routes. Needs no agent and no state and may be repeated; says what it removed, a line each. An
/// agent that still runs puts its rules back within 2 s.
Result<std::vector<std::string>> remove(Kernel& kernel);

/// Whether rules here are those of that agent (HostFacts), which sees this network namespace from
/// outside. Looks only.
Result<bool> is_of_agent(Kernel& kernel, std::string_view agent);

/// Whom rules steer now, also those of an earlier run: both families and iptables backends; a
/// workload once for each slot.
Result<std::vector<Steered>> steered(Kernel& kernel);

/// Whether changes of rules made with the iptables of this host are told (io/rule_events.h); those
/// of iptables-legacy are not.
Result<bool> kernel_tells(Kernel& kernel);

/// What of ours is in the kernel, as text for people; empty when there is nothing.
Result<std::string> show(Kernel& kernel);

}  // namespace meshnode::capture
