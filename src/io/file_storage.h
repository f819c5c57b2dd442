#pragma once
/// The Storage seam on the host's file system.
///
/// Symbolic links: reading follows them, since configuration and certificates are often links
/// (Kubernetes and SPIRE swap a directory behind one); list() follows links to files, never to
/// directories, so that a link cycle cannot trap it. Writing never follows one: a link at the
/// target is replaced, and the temporary file is created with O_EXCL | O_NOFOLLOW under a
/// fixed name in the target's directory, so a leftover of a crash is overwritten, not collected.
///
/// Durability: a file's data is fsynced before the rename and its directory after it, as are the
/// parents of directories that were made. Errors of fsync and close are errors of the write.
///
/// Only regular files are read: a FIFO or device would block, so it is refused. Thread: any; calls
/// on the same path must not overlap.

#include <meshnode/storage.h>

namespace meshnode::io {

class FileStorage final : public Storage {
 public:
  Result<std::string> read(const std::string& path, std::uint64_t max_bytes) const override;
  Result<FileInfo> info(const std::string& path) const override;
  Result<std::vector<FileInfo>> list(const std::string& directory, const std::string& suffix,
                                     std::size_t max_files) const override;
  Status write_atomic(const std::string& path, const std::string& content,
                      std::uint32_t mode) override;
  Status make_directory(const std::string& path, std::uint32_t mode) override;
  Status remove(const std::string& path) override;
};

}  // namespace meshnode::io
