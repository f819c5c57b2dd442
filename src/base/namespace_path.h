#pragma once
/// By which paths network namespaces may be named: where looking one up waits for nobody. Below
/// /run are memory file systems that only root fills (a link or a mount there may lead elsewhere,
/// which is root's doing); of /proc only a process's own file, as what is behind its `root` is for
/// the process to mount. Pure.

#include <algorithm>
#include <string_view>

namespace meshnode {

inline constexpr std::string_view kNamespacePaths = "below /run or /var/run, or /proc/PID/ns/net";

inline bool is_namespace_path(std::string_view path) {
  constexpr std::string_view kProcess = "/proc/";
  constexpr std::string_view kOfProcess = "/ns/net";
  if (path.starts_with(kProcess) && path.ends_with(kOfProcess) &&
      path.size() > kProcess.size() + kOfProcess.size()) {
    path.remove_prefix(kProcess.size());
    path.remove_suffix(kOfProcess.size());
    return std::all_of(path.begin(), path.end(), [](char c) { return c >= '0' && c <= '9'; });
  }
  return path.starts_with("/run/") || path.starts_with("/var/run/");
}

}  // namespace meshnode
