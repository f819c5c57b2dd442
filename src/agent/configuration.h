#pragma once
/// The configuration directory as a ConfigSet: reads what changed, keeps the last good version on
/// disk. Thread: the control loop's; blocks for file reads.

#include <meshnode/storage.h>
#include <map>
#include <string>
#include <vector>

#include "model/config_set.h"

namespace meshnode::agent {

class Configuration {
 public:
  static constexpr std::uint64_t kMaxFile = std::uint64_t{1} << 20U;
  static constexpr std::size_t kMaxFiles = 10'000;
  static constexpr std::uint64_t kMaxSaved = std::uint64_t{256} << 20U;

  Configuration(Storage& storage, std::string config_dir, std::string state_dir);

  /// Looks at every file and reads those that changed since the last call, or could not be read
  /// then; whether that made a difference.
  bool refresh();
  /// Whether set() is what the operator wants, as far as can be told: the directory was read once,
  /// or else there is a last good version. While it is not, nothing may be concluded from what is
  /// missing in set(): rules of an earlier run have to stay.
  bool known() const { return known_; }
  model::ConfigSet& set() { return set_; }
  /// Why the directory could not be read; empty when it could.
  const std::string& problem() const { return problem_; }
  /// Why the last good version could not be kept on disk; empty when it could.
  const std::string& save_problem() const { return save_problem_; }

 private:
  void restore();
  void save();
  bool list_failed(const std::string& why);
  bool read_changed(const std::vector<FileInfo>& files);
  bool read(const FileInfo& info);

  Storage& storage_;
  std::string config_dir_;
  std::string saved_path_;
  model::ConfigSet set_;
  std::map<std::string, FileInfo> seen_;
  std::map<std::string, std::string> unread_;  // why, of files that have to be tried again
  bool first_ = true;
  bool restored_ = false;  // the last good version was read, or there is none
  bool known_ = false;
  std::string problem_;
  std::string save_problem_;
};

}  // namespace meshnode::agent
