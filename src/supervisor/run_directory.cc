#include "supervisor/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace meshnode::supervisor {
namespace {

Error failed(const std::string& what, int code, const std::string& next_step) {
  const bool denied = code == EACCES || code == EPERM || code == EROFS;
  return {denied ? ErrorCode::kPermission : ErrorCode::kUnavailable,
          what + ": " + std::strerror(code) + "; " + next_step};
}

Status make_directory(const std::string& path, mode_t mode, const char* option) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return {};
  const std::string step = std::string("run as root, or choose another with ") + option;
  const auto parent = std::filesystem::path(path).parent_path();
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  if (error) return fail(failed(path, error.value(), step));
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return fail(failed(path, errno, step));
  // mkdir() subtracts the umask; the modes are part of the contract.
  if (::chmod(path.c_str(), mode) != 0) return fail(failed(path, errno, step));
  return {};
}

std::string holder(int lock) {
  std::array<char, 32> text{};
  const ssize_t got = ::pread(lock, text.data(), text.size() - 1, 0);
  std::string pid(text.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  while (!pid.empty() && pid.back() == '\n') pid.pop_back();
  const bool number = !pid.empty() && pid.find_first_not_of("0123456789") == std::string::npos;
  return number ? "another agent (process " + pid + ")" : "another agent";
}

}  // namespace

Result<RunDirectory> RunDirectory::claim(const std::string& run_dir, const std::string& state_dir) {
  if (auto ok = make_directory(run_dir, 0755, "--run-dir"); !ok) return fail(ok.error());
  if (auto ok = make_directory(state_dir, 0700, "--state-dir"); !ok) return fail(ok.error());

  const std::string path = run_dir + "/lock";
  Descriptor lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return fail(failed(path, errno, "run as root, or choose another with --run-dir"));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail(failed(path, errno, "check the file system"));
    return fail(ErrorCode::kUnavailable, run_dir + ": " + holder(lock.get()) +
                                             " runs there; stop it first, or choose another "
                                             "directory with --run-dir");
  }
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(lock.get(), 0) != 0 ||
      ::pwrite(lock.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return fail(failed(path, errno, "free some space there"));
  }
  return RunDirectory(std::move(lock));
}

}  // namespace meshnode::supervisor
