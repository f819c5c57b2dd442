#pragma once
/// CPU time of the watched processes, of this one and of the whole machine, at one moment.

#include <string>
#include <vector>

namespace meshnode::bench {

struct Usage {
  /// Seconds, user and system, of all threads that ever ran and of children that have ended: a
  /// proxy that lets short-lived helpers work for it pays for them too.
  std::vector<double> watched;
  double own = 0;    ///< seconds, of this process
  double busy = 0;   ///< seconds, all CPUs: user, nice, system, irq, softirq
  double steal = 0;  ///< seconds, all CPUs
  double total = 0;  ///< seconds, all CPUs, idle included
};

/// Ends the program with a message when a watched process is gone: a figure without it would lie.
Usage sample(const std::vector<int>& pids);

/// `"cpu":{"PID":s,...},"own":s,"busy":s,"steal":s,"total":s`, the difference of two samples.
std::string difference(const std::vector<int>& pids, const Usage& from, const Usage& to);

}  // namespace meshnode::bench
