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
    if (saved.error().code != ErrorCode::kNotFound) {
      save_problem_ = saved.error().message;
    }
    return;
  }
  if (auto restored = set_.restore(*saved); !restored) {
    save_problem_ = fmt::format("{}: {}", saved_path_, restored.error().message);
  }
}

bool Configuration::refresh() {
  if (first_) {
    restore();
  }
  const auto files = storage_.list(config_dir_, ".yaml", kMaxFiles);
  if (!files) {
    // What was in force stays: a directory that is gone for a moment must not empty the mesh.
    const bool news = problem_ != files.error().message;
    problem_ = files.error().message;
    return std::exchange(first_, false) || news;
  }
  bool changed = std::exchange(first_, false) || !problem_.empty();
  problem_.clear();
  std::map<std::string, FileInfo> now;
  for (const FileInfo& info : *files) {
    const auto before = seen_.find(info.path);
    if (before == seen_.end() || !same(before->second, info)) {
      read(info);
      changed = true;
    }
    now.emplace(info.path, info);
  }
  for (const auto& [path, info] : seen_) {
    if (!now.contains(path)) {
      set_.remove(path);
      changed = true;
    }
  }
  seen_ = std::move(now);
  set_.end_restore();
  if (changed) {
    save();
  }
  return changed;
}

void Configuration::read(const FileInfo& info) {
  constexpr std::uint32_t kWritableByOthers = 002;
  if ((info.mode & kWritableByOthers) != 0) {
    set_.update_failed(info.path, "anyone may write to this file; chmod o-w it");
    return;
  }
  const auto text = storage_.read(info.path, kMaxFile);
  if (text) {
    set_.update(info.path, *text);
  } else {
    set_.update_failed(info.path, text.error().message);
  }
}

void Configuration::save() {
  save_problem_.clear();
  if (auto saved = storage_.write_atomic(saved_path_, set_.save(), 0600); !saved) {
    save_problem_ = saved.error().message;
  }
}

}  // namespace meshnode::agent
