#include "agent/configuration.h"

#include <fmt/format.h>

#include <utility>

namespace meshnode::agent {
namespace {

bool same(const FileInfo& a, const FileInfo& b) {
  return a.size == b.size && a.modified == b.modified && a.inode == b.inode && a.mode == b.mode &&
         a.owner == b.owner;
}

}  // namespace

Configuration::Configuration(Storage& storage, std::string config_dir, std::string state_dir)
    : storage_(storage),
      config_dir_(std::move(config_dir)),
      saved_path_(std::move(state_dir) + "/last-good") {}

void Configuration::restore() {
  const auto saved = storage_.read(saved_path_, kMaxSaved);
  if (!saved) {
    const ErrorCode code = saved.error().code;
    restored_ = code == ErrorCode::kNotFound || code == ErrorCode::kLimit;
    if (code != ErrorCode::kNotFound) {
      save_problem_ = saved.error().message;
    }
    return;
  }
  restored_ = true;
  // At a later try files may have been seen without it already: see them again.
  set_ = {};
  seen_.clear();
  unread_.clear();
  if (auto restored = set_.restore(*saved); !restored) {
    save_problem_ = fmt::format("{}: {}", saved_path_, restored.error().message);
  }
}

bool Configuration::refresh() {
  if (!restored_) {
    restore();
  }
  const auto files = storage_.list(config_dir_, ".yaml", kMaxFiles);
  if (!files) {
    return list_failed(files.error().message);
  }
  const bool news = std::exchange(first_, false) || !problem_.empty();
  problem_.clear();
  const bool changed = read_changed(*files) || news;
  if (!restored_ && !set_.rejected().empty()) {
    // What is missing here may be in the last good version, which cannot be read just now: saving
    // would overwrite it.
    return changed;
  }
  restored_ = true;
  known_ = true;
  set_.end_restore();
  if (changed) {
    save();
  }
  return changed;
}

/// What was in force stays: a directory that is gone for a moment must not empty the mesh. Neither
/// must it at a start, so what was last good comes into force as if its files had been seen.
bool Configuration::list_failed(const std::string& why) {
  const bool news = std::exchange(first_, false) || problem_ != why;
  problem_ = why;
  const std::vector<std::string> adopted = set_.adopt_saved();
  for (const std::string& path : adopted) {
    seen_.emplace(path, FileInfo{});
  }
  known_ = known_ || !adopted.empty();
  return news || !adopted.empty();
}

bool Configuration::read_changed(const std::vector<FileInfo>& files) {
  bool changed = false;
  std::map<std::string, FileInfo> now;
  for (const FileInfo& info : files) {
    const auto before = seen_.find(info.path);
    if (before == seen_.end() || !same(before->second, info) || unread_.contains(info.path)) {
      changed = read(info) || changed;
    }
    now.emplace(info.path, info);
  }
  for (const auto& [path, info] : seen_) {
    if (!now.contains(path)) {
      set_.remove(path);
      unread_.erase(path);
      changed = true;
    }
  }
  seen_ = std::move(now);
  return changed;
}

/// Whether that made a difference.
bool Configuration::read(const FileInfo& info) {
  constexpr std::uint32_t kWritableByOthers = 002;
  if ((info.mode & kWritableByOthers) != 0) {
    unread_.erase(info.path);
    set_.update_failed(info.path, "anyone may write to this file; chmod o-w it");
    return true;
  }
  const auto text = storage_.read(info.path, kMaxFile);
  if (text) {
    unread_.erase(info.path);
    set_.update(info.path, *text);
    return true;
  }
  const std::string& why = text.error().message;
  const bool again = std::exchange(unread_[info.path], why) == why;
  if (!again) {
    set_.update_failed(info.path, why);
  }
  return !again;
}

void Configuration::save() {
  save_problem_.clear();
  if (auto saved = storage_.write_atomic(saved_path_, set_.save(), 0600); !saved) {
    save_problem_ = saved.error().message;
  }
}

}  // namespace meshnode::agent
