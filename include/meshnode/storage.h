#pragma once
/// Seam: files. The product's is on the host's file system (io/file_storage.h); the simulator's
/// tears, loses and flips. Calls block: never on a proxy loop.

#include <cstdint>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <string>
#include <vector>

namespace meshnode {

struct FileInfo {
  std::string path;
  std::uint64_t size = 0;
  std::uint32_t mode = 0;  ///< st_mode, type bits included
  std::uint32_t owner = 0;
  WallTime modified{};
  std::uint64_t inode = 0;
};

class Storage {
 public:
  virtual ~Storage() = default;
  /// kLimit when the file is larger than `max_bytes`; nothing is read then.
  virtual Result<std::string> read(const std::string& path, std::uint64_t max_bytes) const = 0;
  virtual Result<FileInfo> info(const std::string& path) const = 0;  ///< follows symbolic links
  /// Regular files below `directory` whose name ends in `suffix`, sorted by path; at most
  /// `max_files`, else kLimit. Hidden files and directories (leading dot) are skipped.
  virtual Result<std::vector<FileInfo>> list(const std::string& directory,
                                             const std::string& suffix,
                                             std::size_t max_files) const = 0;
  /// Temporary file, fsync, rename, fsync of the directory: the old or the new content, never a
  /// mixture. `mode` is exact, whatever the umask.
  virtual Status write_atomic(const std::string& path, const std::string& content,
                              std::uint32_t mode) = 0;
  /// Like mkdir -p; an existing directory keeps its mode.
  virtual Status make_directory(const std::string& path, std::uint32_t mode) = 0;
  virtual Status remove(const std::string& path) = 0;
};

}  // namespace meshnode
