#include "io/file_storage.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace meshnode::io {
namespace {

constexpr unsigned kMaxDirectoryDepth = 32;
constexpr std::uint32_t kModeBits = 07777;

class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  /// Network and quota errors may come as late as here.
  bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

tl::unexpected<Error> os_error(std::string_view doing, const std::string& path, int code) {
  ErrorCode kind = ErrorCode::kUnavailable;
  if (code == ENOENT || code == ENOTDIR) kind = ErrorCode::kNotFound;
  if (code == EACCES || code == EPERM || code == EROFS) kind = ErrorCode::kPermission;
  if (code == ELOOP || code == ENAMETOOLONG || code == EISDIR) kind = ErrorCode::kInvalid;
  return fail(kind, fmt::format("cannot {} {}: {}", doing, path, std::strerror(code)));
}

FileInfo to_info(std::string path, const struct stat& raw) {
  FileInfo info;
  info.path = std::move(path);
  info.size = static_cast<std::uint64_t>(raw.st_size);
  info.mode = raw.st_mode;
  info.owner = raw.st_uid;
  info.modified = WallTime(std::chrono::seconds(raw.st_mtim.tv_sec) +
                           std::chrono::nanoseconds(raw.st_mtim.tv_nsec));
  info.inode = raw.st_ino;
  return info;
}

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status sync_directory(const std::string& path) {
  const File directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.open()) return os_error("open", path, errno);
  if (::fsync(directory.fd()) != 0) return os_error("sync", path, errno);
  return {};
}

tl::unexpected<Error> too_large(const std::string& path, std::uint64_t max_bytes) {
  return fail(ErrorCode::kLimit,
              fmt::format("{} is larger than the {} bytes allowed", path, max_bytes));
}

bool ends_with(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

class Lister {
 public:
  Lister(const std::string& suffix, std::size_t max_files)
      : suffix_(suffix), max_files_(max_files) {}

  Status walk(const std::string& directory, unsigned depth) {
    if (depth > kMaxDirectoryDepth) {
      return fail(ErrorCode::kLimit, fmt::format("{} lies more than {} directories deep", directory,
                                                 kMaxDirectoryDepth));
    }
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(directory.c_str()), ::closedir);
    if (!stream) {
      // Removed since its parent was read: as if it had never been there.
      if (depth > 0 && errno == ENOENT) return {};
      return os_error("read directory", directory, errno);
    }
    for (;;) {
      errno = 0;
      const dirent* entry = ::readdir(stream.get());
      if (entry == nullptr) break;
      if (entry->d_name[0] == '.') continue;
      Status status = visit(directory + "/" + entry->d_name, depth);
      if (!status) return status;
    }
    if (errno != 0) return os_error("read directory", directory, errno);
    return {};
  }

  std::vector<FileInfo> files;

 private:
  Status visit(std::string path, unsigned depth) {
    struct stat raw {};
    if (::lstat(path.c_str(), &raw) != 0) {
      if (errno == ENOENT) return {};
      return os_error("look at", path, errno);
    }
    if (S_ISDIR(raw.st_mode)) return walk(path, depth + 1);
    if (!ends_with(path, suffix_)) return {};
    if (S_ISLNK(raw.st_mode) && ::stat(path.c_str(), &raw) != 0) return {};
    if (!S_ISREG(raw.st_mode)) return {};
    if (files.size() >= max_files_) {
      return fail(ErrorCode::kLimit,
                  fmt::format("more than {} files, {} is one too many", max_files_, path));
    }
    files.push_back(to_info(std::move(path), raw));
    return {};
  }

  const std::string& suffix_;
  std::size_t max_files_;
};

Status write_all(int fd, const std::string& path, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return os_error("write", path, errno);
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

/// Writes and syncs a fresh file; removes it again when that fails.
Status write_new(const std::string& path, const std::string& content, std::uint32_t mode) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return os_error("remove", path, errno);
  // Closed to others until the content is complete and the mode set.
  File file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.open()) return os_error("create", path, errno);
  Status status = write_all(file.fd(), path, content);
  if (status && ::fchmod(file.fd(), mode & kModeBits) != 0) {
    status = os_error("set the mode of", path, errno);
  }
  if (status && ::fsync(file.fd()) != 0) status = os_error("sync", path, errno);
  if (status && !file.close()) status = os_error("close", path, errno);
  if (!status) ::unlink(path.c_str());
  return status;
}

}  // namespace

Result<std::string> FileStorage::read(const std::string& path, std::uint64_t max_bytes) const {
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  const File file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!file.open()) return os_error("read", path, errno);
  struct stat raw {};
  if (::fstat(file.fd(), &raw) != 0) return os_error("look at", path, errno);
  if (!S_ISREG(raw.st_mode)) {
    return fail(ErrorCode::kInvalid, fmt::format("{} is not a regular file", path));
  }
  const auto size = static_cast<std::uint64_t>(raw.st_size);
  if (size > max_bytes) return too_large(path, max_bytes);
  // Files of /proc have size 0, and any file may grow meanwhile: read to the end, not to the size.
  // Those of /proc/sys give all they have to the first read, and nothing to another.
  constexpr std::uint64_t kUntold = 4096;
  const std::uint64_t first = size == 0 ? std::min(kUntold, max_bytes) : size;
  std::string content(static_cast<std::size_t>(first) + 1, '\0');
  std::size_t used = 0;
  for (;;) {
    if (used == content.size()) {
      content.resize(std::min<std::size_t>(content.size() * 2 + 4096,
                                           static_cast<std::size_t>(max_bytes) + 1));
    }
    const ssize_t got = ::read(file.fd(), content.data() + used, content.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error("read", path, errno);
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
    if (used > max_bytes) return too_large(path, max_bytes);
  }
  content.resize(used);
  return content;
}

Result<FileInfo> FileStorage::info(const std::string& path) const {
  struct stat raw {};
  if (::stat(path.c_str(), &raw) != 0) return os_error("look at", path, errno);
  return to_info(path, raw);
}

Result<std::vector<FileInfo>> FileStorage::list(const std::string& directory,
                                                const std::string& suffix,
                                                std::size_t max_files) const {
  Lister lister(suffix, max_files);
  Status status = lister.walk(directory, 0);
  if (!status) return fail(status.error());
  std::sort(lister.files.begin(), lister.files.end(),
            [](const FileInfo& a, const FileInfo& b) { return a.path < b.path; });
  return std::move(lister.files);
}

Status FileStorage::write_atomic(const std::string& path, const std::string& content,
                                 std::uint32_t mode) {
  const std::string directory = parent_of(path);
  const std::string name = path.substr(path.find_last_of('/') + 1);
  // Hidden, so that list() never takes it for a file of its own.
  const std::string temporary = directory + "/." + name + ".new";
  Status status = write_new(temporary, content, mode);
  if (!status) return status;
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary.c_str());
    return os_error("replace", path, code);
  }
  return sync_directory(directory);
}

Status FileStorage::make_directory(const std::string& path, std::uint32_t mode) {
  struct stat raw {};
  if (::stat(path.c_str(), &raw) == 0) {
    if (S_ISDIR(raw.st_mode)) return {};
    return fail(ErrorCode::kInvalid, fmt::format("{} exists and is not a directory", path));
  }
  if (errno != ENOENT) return os_error("look at", path, errno);
  const std::string parent = parent_of(path);
  if (parent != path) {
    Status status = make_directory(parent, mode);
    if (!status) return status;
  }
  // Made closed, then opened to `mode`: mkdir() would apply the umask.
  if (::mkdir(path.c_str(), 0700) != 0) {
    const int code = errno;
    // Someone else may have been faster; a dangling link stays an error.
    if (code == EEXIST && ::stat(path.c_str(), &raw) == 0 && S_ISDIR(raw.st_mode)) return {};
    return os_error("make", path, code);
  }
  if (::chmod(path.c_str(), mode & kModeBits) != 0) {
    return os_error("set the mode of", path, errno);
  }
  return sync_directory(parent);
}

Status FileStorage::remove(const std::string& path) {
  if (::unlink(path.c_str()) != 0) return os_error("remove", path, errno);
  return sync_directory(parent_of(path));
}

}  // namespace meshnode::io
