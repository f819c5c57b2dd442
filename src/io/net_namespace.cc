#include "io/net_namespace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "io/interfaces.h"
#include "io/loop.h"

namespace meshnode::io {
namespace {

void close_if_open(int fd) {
  if (fd >= 0) ::close(fd);
}

Error failed(const std::string& name, const char* step) {
  const int cause = errno;
  ErrorCode code = ErrorCode::kUnavailable;
  if (cause == ENOENT || cause == ENOTDIR || cause == ESRCH) code = ErrorCode::kNotFound;
  if (cause == EACCES || cause == EPERM) code = ErrorCode::kPermission;
  return {code, fmt::format("{}: {}: {}", name, step, std::strerror(cause))};
}

Error no_namespace(const std::string& name) {
  return {ErrorCode::kInvalid,
          name + ": not a network namespace; `ip netns` and `lsns -t net` list those there are"};
}

Result<NamespaceId> identity(int fd, const std::string& name) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return fail(failed(name, "fstat"));
  return NamespaceId{info.st_dev, info.st_ino};
}

bool has_ended(int pidfd) {
  pollfd asked{pidfd, POLLIN, 0};
  return ::poll(&asked, 1, 0) > 0;  // what cannot be asked has not ended
}

std::string file_of(std::uint32_t pid) { return fmt::format("/proc/{}/ns/net", pid); }

/// /proc/net is that of the process, which is its first thread's.
std::string of_thread(const std::string& path) {
  constexpr std::string_view kOfProcess = "/proc/net/";
  if (!path.starts_with(kOfProcess)) return path;
  return "/proc/thread-self/net/" + path.substr(kOfProcess.size());
}

}  // namespace

Result<NetNamespace> NetNamespace::open(std::string path, int pidfd) {
  // Opening a FIFO would wait, and a device might act; a path alone does neither.
  const int found = ::open(path.c_str(), O_PATH | O_CLOEXEC);
  if (found < 0) return fail(failed(path, "open"));
  struct statfs facts {};
  const bool known = ::fstatfs(found, &facts) == 0;
  if (!known || facts.f_type != NSFS_MAGIC) {
    ::close(found);
    return fail(no_namespace(path));
  }
  const int fd = ::open(fmt::format("/proc/self/fd/{}", found).c_str(), O_RDONLY | O_CLOEXEC);
  const int cause = errno;
  ::close(found);
  errno = cause;
  if (fd < 0) return fail(failed(path, "open"));
  const auto id = identity(fd, path);
  if (::ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET || !id) {
    ::close(fd);
    return fail(no_namespace(path));
  }
  return NetNamespace(std::move(path), fd, *id, pidfd);
}

Result<NetNamespace> NetNamespace::at(const std::string& path) { return open(path, -1); }

Result<NetNamespace> NetNamespace::of_process(std::uint32_t pid) {
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0));
  if (pidfd < 0) return fail(failed(fmt::format("process {}", pid), "pidfd_open"));
  auto opened = open(file_of(pid), pidfd);
  // Only if it lives on was the number its own all the while.
  if (opened && !has_ended(pidfd)) return opened;
  if (!opened) ::close(pidfd);
  if (!opened && opened.error().code != ErrorCode::kNotFound) return opened;
  return fail(ErrorCode::kNotFound, fmt::format("process {}: it has ended", pid));
}

NetNamespace::NetNamespace(NetNamespace&& other) noexcept
    : name_(std::move(other.name_)),
      fd_(std::exchange(other.fd_, -1)),
      id_(other.id_),
      pidfd_(std::exchange(other.pidfd_, -1)) {}

NetNamespace& NetNamespace::operator=(NetNamespace&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(fd_, other.fd_);
  std::swap(id_, other.id_);
  std::swap(pidfd_, other.pidfd_);
  return *this;
}

NetNamespace::~NetNamespace() {
  close_if_open(fd_);
  close_if_open(pidfd_);
}

bool NetNamespace::is_own() const {
  struct stat own {};
  return ::stat("/proc/self/ns/net", &own) == 0 && id_ == NamespaceId{own.st_dev, own.st_ino};
}

bool NetNamespace::process_ended() const { return pidfd_ >= 0 && has_ended(pidfd_); }

bool NetNamespace::is_named() const {
  struct stat now {};
  return ::stat(name_.c_str(), &now) == 0 && id_ == NamespaceId{now.st_dev, now.st_ino} &&
         !process_ended();
}

InNamespace::InNamespace(const NetNamespace& place) {
  home_ = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (home_ < 0) {
    entered_ = fail(failed("the agent's network namespace", "open"));
    return;
  }
  if (::setns(place.fd(), CLONE_NEWNET) != 0) {
    entered_ = fail(failed("entering a network namespace needs CAP_SYS_ADMIN", "setns"));
    ::close(std::exchange(home_, -1));
  }
}

InNamespace::~InNamespace() {
  if (home_ < 0) return;
  if (::setns(home_, CLONE_NEWNET) != 0) {
    log::error("io", "no way back into the agent's network namespace",
               {{"error", std::strerror(errno)}});
    std::abort();
  }
  ::close(home_);
}

Result<NamespaceAddresses> addresses_in(const NetNamespace& place) {
  const InNamespace inside(place);
  if (!inside.entered()) return fail(inside.entered().error());
  auto addresses = host_addresses();
  if (!addresses) return fail(addresses.error());
  const int any = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq loopback{};
  std::strncpy(loopback.ifr_name, "lo", IFNAMSIZ - 1);
  const bool up = any >= 0 && ::ioctl(any, SIOCGIFFLAGS, &loopback) == 0 &&
                  (static_cast<unsigned>(loopback.ifr_flags) & IFF_UP) != 0;
  close_if_open(any);
  return NamespaceAddresses{up, std::move(*addresses)};
}

void NamespaceKernel::begin_turn(Duration budget) {
  budget_ = budget;
  turn_ends_ = monotonic_now() + budget;
}

void NamespaceKernel::prolong() {
  if (turn_ends_) turn_ends_ = std::max(*turn_ends_, monotonic_now() + kProlonged);
}

Result<CommandResult> NamespaceKernel::run(const std::vector<std::string>& argv,
                                           const std::string& input) {
  if (turn_ends_ && monotonic_now() >= *turn_ends_) {
    return fail(ErrorCode::kTimeout,
                fmt::format("{}: not run, as the programs before it took {} ms together; are there "
                            "very many rules, routes or addresses inside?",
                            argv.empty() ? "" : argv[0], budget_ / std::chrono::milliseconds(1)));
  }
  const InNamespace inside(place_);
  if (!inside.entered()) return fail(inside.entered().error());
  return outside_.run(argv, input);
}

Result<std::string> NamespaceKernel::read(const std::string& path) const {
  const InNamespace inside(place_);
  if (!inside.entered()) return fail(inside.entered().error());
  return outside_.read(of_thread(path));
}

Status NamespaceKernel::write(const std::string& path, const std::string& value) {
  const InNamespace inside(place_);
  if (!inside.entered()) return fail(inside.entered().error());
  return outside_.write(of_thread(path), value);
}

Result<std::uint64_t> NamespaceKernel::cgroup_inode(const std::string& path) const {
  return outside_.cgroup_inode(path);
}

std::vector<std::string> find_namespaces() {
  std::vector<std::string> found;
  std::set<NamespaceId> seen;
  const auto take = [&](const std::string& path) {
    // Most processes are in a namespace that is known already: asking is cheaper than opening.
    struct stat info {};
    if (found.size() == kMaxFound || ::stat(path.c_str(), &info) != 0 ||
        seen.contains({info.st_dev, info.st_ino})) {
      return;
    }
    auto place = NetNamespace::at(path);
    if (!place || !seen.insert(place->id()).second || place->is_own()) return;
    found.push_back(path);
  };
  const auto each = [](const char* directory, const auto& visit) {
    std::error_code failed;
    for (std::filesystem::directory_iterator at(directory, failed), end; !failed && at != end;
         at.increment(failed)) {
      visit(at->path());
    }
  };
  for (const char* directory : {"/run/netns", "/run/docker/netns"}) {
    each(directory, [&](const std::filesystem::path& path) { take(path.string()); });
  }
  each("/proc", [&](const std::filesystem::path& path) {
    const std::string name = path.filename().string();
    if (name.find_first_not_of("0123456789") == std::string::npos) take(path.string() + "/ns/net");
  });
  return found;
}

}  // namespace meshnode::io
