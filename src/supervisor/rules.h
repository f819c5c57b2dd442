#pragma once
/// Keeps the kernel's capture rules equal to what the worker asked for last. Blocks while the
/// packet filter's tools run, which only the supervisor may. One thread.

#include <meshnode/kernel.h>
#include <optional>
#include <string>
#include <utility>

#include "capture/applier.h"
#include "supervisor/message.h"

namespace meshnode::supervisor {

class Rules {
 public:
  /// `kernel` must outlive this. `where` is for the log; `agent`: capture::HostFacts.
  explicit Rules(Kernel& kernel, std::string where = "host", std::string agent = {})
      : kernel_(kernel), applier_(kernel, std::move(agent)), where_(std::move(where)) {}

  /// Reads whom rules of an earlier run steer, before the first want(). An error leaves it unknown.
  Status recall();
  /// Takes effect with the next refresh().
  void want(capture::Spec spec);
  /// `all`: also what is wanted in other network namespaces. `next_slot`: CaptureRequest.
  void steer(const capture::Spec& all, std::uint16_t next_slot);
  /// How connections that wait in the listeners are to be read.
  const Steering& steering() const { return steering_; }
  /// Applies what is wanted, or verifies it and repairs what went missing. Without any wish since
  /// the start it touches nothing: rules of an earlier run stay closed until the worker speaks.
  /// Returns whether report() changed.
  bool refresh();
  /// Whether refresh() has something to do although no rule was touched: a new wish, an error to
  /// get over, a cgroup that changed. Cheap.
  bool due() { return stale_ || (wanted_ && applier_.facts_changed()); }
  const CaptureReport& report() const { return report_; }
  /// Whether the last wish is in force.
  bool settled() const { return wanted_.has_value() && !stale_ && report_.ok; }

  /// Captures nothing any more but keeps what live connections need.
  Status release();
  /// Takes everything out, also of earlier runs.
  Status remove();

 private:
  Result<capture::Report> bring_about();
  void take_over(const capture::Report& now, bool repaired);

  Kernel& kernel_;
  capture::Applier applier_;
  std::string where_;
  std::optional<capture::Spec> wanted_;
  bool stale_ = false;      // wanted_ differs from what is in the kernel, as far as we know
  bool installed_ = false;  // this run has had rules, so there may be live steered connections
  CaptureReport report_;
  Steering steering_;
};

}  // namespace meshnode::supervisor
