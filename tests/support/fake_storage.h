#pragma once
/// Storage in memory, for tests: files with a mode, a modification time and an inode that behave as
/// on a real file system, and reads that can be made to fail.

#include <meshnode/storage.h>
#include <sys/stat.h>

#include <map>
#include <optional>
#include <string>

namespace meshnode::test {

class FakeStorage final : public Storage {
 public:
  /// Like a rename over the path: a new inode and a later modification time.
  void put(const std::string& path, std::string content, std::uint32_t mode = 0644) {
    files_[path] = File{std::move(content), S_IFREG | mode, tick(), ++last_inode_, std::nullopt};
  }
  /// Something that is no regular file.
  void put_special(const std::string& path, std::uint32_t type) {
    files_[path] = File{"", type | 0600, tick(), ++last_inode_, std::nullopt};
  }
  /// Written in place: the inode stays.
  void rewrite(const std::string& path, std::string content) {
    files_.at(path).content = std::move(content);
    files_.at(path).modified = tick();
  }
  void chmod(const std::string& path, std::uint32_t mode) {
    File& file = files_.at(path);
    file.mode = (file.mode & S_IFMT) | mode;
  }
  /// Every read of `path` fails so until it is put anew.
  void fail_reads(const std::string& path, Error error) { files_.at(path).broken = error; }
  void mend_reads(const std::string& path) { files_.at(path).broken.reset(); }
  /// Every list() fails so, until nothing is given.
  void fail_lists(std::optional<Error> error) { lists_broken_ = std::move(error); }
  bool has(const std::string& path) const { return files_.contains(path); }
  int reads() const { return reads_; }

  Result<std::string> read(const std::string& path, std::uint64_t max_bytes) const override {
    ++reads_;
    auto found = files_.find(path);
    if (found == files_.end()) return fail(ErrorCode::kNotFound, path + ": no such file");
    if (found->second.broken) return fail(*found->second.broken);
    if (found->second.content.size() > max_bytes) {
      return fail(ErrorCode::kLimit, path + ": larger than allowed");
    }
    return found->second.content;
  }

  Result<FileInfo> info(const std::string& path) const override {
    auto found = files_.find(path);
    if (found == files_.end()) return fail(ErrorCode::kNotFound, path + ": no such file");
    return info_of(path, found->second);
  }

  Result<std::vector<FileInfo>> list(const std::string& directory, const std::string& suffix,
                                     std::size_t max_files) const override {
    if (lists_broken_) return fail(*lists_broken_);
    std::vector<FileInfo> found;
    for (const auto& [path, file] : files_) {
      bool below = path.starts_with(directory + "/") && path.ends_with(suffix);
      if (!below || path.find("/.", directory.size()) != path.npos) continue;
      if (found.size() == max_files) return fail(ErrorCode::kLimit, directory + ": too many files");
      found.push_back(info_of(path, file));
    }
    return found;
  }

  Status write_atomic(const std::string& path, const std::string& content,
                      std::uint32_t mode) override {
    put(path, content, mode);
    return {};
  }
  Status make_directory(const std::string&, std::uint32_t) override { return {}; }
  Status remove(const std::string& path) override {
    if (files_.erase(path) == 0) return fail(ErrorCode::kNotFound, path + ": no such file");
    return {};
  }

 private:
  struct File {
    std::string content;
    std::uint32_t mode = 0;
    WallTime modified{};
    std::uint64_t inode = 0;
    std::optional<Error> broken;
  };

  static FileInfo info_of(const std::string& path, const File& file) {
    return {path, file.content.size(), file.mode, 0, file.modified, file.inode};
  }
  WallTime tick() { return last_change_ += std::chrono::seconds(1); }

  std::map<std::string, File> files_;
  WallTime last_change_{};
  std::uint64_t last_inode_ = 0;
  std::optional<Error> lists_broken_;
  mutable int reads_ = 0;
};

}  // namespace meshnode::test
