#include "usage.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace meshnode::bench {
namespace {

double ticks_to_seconds(double ticks) {
  static const auto per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  return ticks / per_second;
}

double cpu_of(int pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  // The second field is the program's name in brackets and may hold blanks and brackets itself.
  const auto close = line.rfind(')');
  if (close == std::string::npos) {
    std::fprintf(stderr, "load: %s: watched process is gone; see its log\n", path.c_str());
    std::exit(1);
  }
  std::istringstream fields(line.substr(close + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  double user = 0;
  double system = 0;
  double ended_user = 0;
  double ended_system = 0;
  fields >> user >> system >> ended_user >> ended_system;
  return ticks_to_seconds(user + system + ended_user + ended_system);
}

double own_cpu() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

Usage sample(const std::vector<int>& pids) {
  Usage usage;
  for (const int pid : pids) usage.watched.push_back(cpu_of(pid));
  usage.own = own_cpu();
  std::ifstream file("/proc/stat");
  std::string label;
  double user = 0;
  double nice = 0;
  double system = 0;
  double idle = 0;
  double iowait = 0;
  double irq = 0;
  double softirq = 0;
  double steal = 0;
  file >> label >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal;
  usage.busy = ticks_to_seconds(user + nice + system + irq + softirq);
  usage.steal = ticks_to_seconds(steal);
  usage.total = usage.busy + usage.steal + ticks_to_seconds(idle + iowait);
  return usage;
}

std::string difference(const std::vector<int>& pids, const Usage& from, const Usage& to) {
  std::ostringstream out;
  out << "\"cpu\":{";
  for (std::size_t i = 0; i < pids.size(); ++i) {
    out << (i == 0 ? "" : ",") << '"' << pids[i] << "\":" << to.watched[i] - from.watched[i];
  }
  out << "},\"own\":" << to.own - from.own << ",\"busy\":" << to.busy - from.busy
      << ",\"steal\":" << to.steal - from.steal << ",\"total\":" << to.total - from.total;
  return out.str();
}

}  // namespace meshnode::bench
