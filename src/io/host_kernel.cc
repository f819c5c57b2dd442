#include "io/host_kernel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <utility>

namespace meshnode::io {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

constexpr int kCannotStart = 127;
constexpr std::string_view kNoStart = "cannot be started\n";

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    close();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~Descriptor() { close(); }
  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

struct Channel {
  Descriptor ours;
  Descriptor theirs;
};

/// Sockets instead of pipes: send() can refrain from SIGPIPE, write() to a pipe cannot.
Result<Channel> make_channel() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return fail(ErrorCode::kUnavailable,
                fmt::format("socketpair: {}; raise the limit of open files", std::strerror(errno)));
  }
  Channel channel{Descriptor(ends[0]), Descriptor(ends[1])};
  if (::fcntl(channel.ours.get(), F_SETFL, O_NONBLOCK) != 0) {
    return fail(ErrorCode::kInternal, fmt::format("fcntl: {}", std::strerror(errno)));
  }
  return channel;
}

Result<std::string> find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    return fail(ErrorCode::kInvalid, fmt::format("{}: a program is named without a path", name));
  }
  for (const char* directory : {"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"}) {
    std::string path = directory + name;
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return fail(ErrorCode::kUnavailable,
              fmt::format("{}: not found in /usr/sbin:/usr/bin:/sbin:/bin; install it", name));
}

/// Between fork and exec: system calls only, for another thread may have held any lock.
[[noreturn]] void become(const char* program, char* const* arguments, char* const* environment,
                         const std::array<int, 3>& streams, pid_t parent) {
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) ::sigaction(number, &standard, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setpgid(0, 0);
  // What an agent that is gone wanted must not be written over what its successor, or a removal of
  // the rules, has written meanwhile.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (::getppid() != parent) ::_exit(kCannotStart);
  for (int target = 0; target < 3; ++target) {
    if (::dup2(streams[static_cast<std::size_t>(target)], target) != target) ::_exit(kCannotStart);
  }
  if (::syscall(SYS_close_range, 3, UINT_MAX, 0) != 0) ::_exit(kCannotStart);
  ::execve(program, arguments, environment);
  static_cast<void>(!::write(STDERR_FILENO, kNoStart.data(), kNoStart.size()));
  ::_exit(kCannotStart);
}

/// -1 and errno when there is no room for a process.
pid_t start(const char* program, char* const* arguments, char* const* environment,
            const std::array<int, 3>& streams) {
  const pid_t parent = ::getpid();
  // A signal that hit the child before it reset its handlers would be written into our loop.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = ::fork();
  if (pid == 0) become(program, arguments, environment, streams, parent);
  const int code = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = code;
  return pid;
}

/// A started program in a process group of its own, killed and reaped when this goes.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(-pid_, SIGKILL);
    int ignored = 0;
    while (::waitpid(pid_, &ignored, 0) < 0 && errno == EINTR) {
    }
  }
  /// The exit code, -1 while it runs.
  int poll_exit() {
    int state = 0;
    const pid_t done = ::waitpid(pid_, &state, WNOHANG);
    if (done == 0 || (done < 0 && errno == EINTR)) return -1;
    pid_ = -1;
    if (done < 0) return kCannotStart;
    return WIFSIGNALED(state) ? 128 + WTERMSIG(state) : WEXITSTATUS(state);
  }

 private:
  pid_t pid_;
};

int milliseconds_until(SteadyTime deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  return left.count() > 0 ? static_cast<int>(left.count()) : 0;
}

/// The conversation with one program over its three descriptors.
class Exchange {
 public:
  Exchange(Descriptor in, Descriptor out, Descriptor err, const std::string& input,
           std::size_t limit)
      : in_(std::move(in)),
        out_(std::move(out)),
        err_(std::move(err)),
        input_(input),
        limit_(limit) {}

  bool finished() const { return !out_.open() && !err_.open(); }
  bool over_limit() const { return result.output.size() + result.error.size() > limit_; }

  /// One poll and what it allows; false when `wait` milliseconds passed without an event.
  bool step(int wait) {
    std::array<pollfd, 3> polls{pollfd{in_.get(), POLLOUT, 0}, pollfd{out_.get(), POLLIN, 0},
                                pollfd{err_.get(), POLLIN, 0}};
    const int ready = ::poll(polls.data(), polls.size(), wait);
    if (ready < 0) return errno == EINTR;
    if (polls[0].revents != 0) feed();
    if (polls[1].revents != 0) drain(out_, result.output);
    if (polls[2].revents != 0) drain(err_, result.error);
    return ready > 0;
  }

  void close_finished_input() {
    if (sent_ == input_.size()) in_.close();
  }

  CommandResult result;

 private:
  void feed() {
    const ssize_t sent =
        ::send(in_.get(), input_.data() + sent_, input_.size() - sent_, MSG_NOSIGNAL);
    if (sent >= 0) {
      sent_ += static_cast<std::size_t>(sent);
      close_finished_input();
    } else if (errno != EAGAIN && errno != EINTR) {
      in_.close();
    }
  }

  void drain(Descriptor& from, std::string& into) {
    std::array<char, 65536> chunk;
    const ssize_t got = ::recv(from.get(), chunk.data(), chunk.size(), 0);
    if (got > 0) {
      into.append(chunk.data(), static_cast<std::size_t>(got));
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      from.close();
    }
  }

  Descriptor in_;
  Descriptor out_;
  Descriptor err_;
  const std::string& input_;
  std::size_t limit_;
  std::size_t sent_ = 0;
};

Error too_slow(const std::string& program, int milliseconds) {
  return {ErrorCode::kTimeout,
          fmt::format("{}: no end after {} ms and was killed; look for what holds its lock",
                      program, milliseconds)};
}

Result<CommandResult> converse(Child& child, Exchange& exchange, const std::string& program,
                               const HostKernelLimits& limits) {
  const SteadyTime deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(limits.timeout_milliseconds);
  exchange.close_finished_input();
  while (!exchange.finished()) {
    const int wait = milliseconds_until(deadline);
    if (wait == 0) return fail(too_slow(program, limits.timeout_milliseconds));
    exchange.step(wait);
    if (exchange.over_limit()) {
      return fail(ErrorCode::kLimit,
                  fmt::format("{}: printed more than {} bytes and was killed; are there too many "
                              "packet filter rules?",
                              program, limits.output_bytes));
    }
  }
  for (int code = child.poll_exit();; code = child.poll_exit()) {
    if (code >= 0) {
      exchange.result.exit_code = code;
      return std::move(exchange.result);
    }
    if (milliseconds_until(deadline) == 0) {
      return fail(too_slow(program, limits.timeout_milliseconds));
    }
    // Both its outputs are closed, so it is about to end: there is no event to wait for.
    ::poll(nullptr, 0, 1);
  }
}

Error file_error(const std::string& path) {
  const int cause = errno;
  ErrorCode code = ErrorCode::kUnavailable;
  if (cause == ENOENT || cause == ENOTDIR) code = ErrorCode::kNotFound;
  if (cause == EACCES || cause == EPERM) code = ErrorCode::kPermission;
  return {code, fmt::format("{}: {}", path, std::strerror(cause))};
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
std::string unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 3 >= text.size()) {
      plain += text[i];
      continue;
    }
    int value = 0;
    for (std::size_t digit = 1; digit <= 3; ++digit) value = value * 8 + (text[i + digit] - '0');
    plain += static_cast<char>(value);
    i += 3;
  }
  return plain;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    parts.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

}  // namespace

Result<CommandResult> HostKernel::run(const std::vector<std::string>& argv,
                                      const std::string& input) {
  if (argv.empty()) return fail(ErrorCode::kInvalid, "no program was named");
  auto program = find_program(argv[0]);
  if (!program) return fail(program.error());
  auto in = make_channel();
  auto out = make_channel();
  auto err = make_channel();
  if (!in) return fail(in.error());
  if (!out) return fail(out.error());
  if (!err) return fail(err.error());

  std::vector<char*> arguments;
  arguments.reserve(argv.size() + 1);
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  std::string path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
  std::string locale = "LC_ALL=C";
  std::array<char*, 3> environment{path.data(), locale.data(), nullptr};

  const pid_t pid = start(program->c_str(), arguments.data(), environment.data(),
                          {in->theirs.get(), out->theirs.get(), err->theirs.get()});
  if (pid < 0) {
    return fail(ErrorCode::kUnavailable,
                fmt::format("{}: cannot be started: {}", *program, std::strerror(errno)));
  }
  Child child(pid);
  in->theirs.close();
  out->theirs.close();
  err->theirs.close();
  Exchange exchange(std::move(in->ours), std::move(out->ours), std::move(err->ours), input,
                    limits_.output_bytes);
  return converse(child, exchange, argv[0], limits_);
}

Result<std::string> HostKernel::read(const std::string& path) const {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.open()) return fail(file_error(path));
  std::string content;
  std::array<char, 16384> chunk;
  for (;;) {
    const ssize_t got = ::read(file.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(file_error(path));
    if (got == 0) return content;
    content.append(chunk.data(), static_cast<std::size_t>(got));
    if (content.size() > limits_.file_bytes) {
      return fail(ErrorCode::kLimit,
                  fmt::format("{}: larger than {} bytes", path, limits_.file_bytes));
    }
  }
}

Status HostKernel::write(const std::string& path, const std::string& value) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.open()) return fail(file_error(path));
  // One write: the files of /proc and cgroupfs take a value whole or not at all.
  const ssize_t written = ::write(file.get(), value.data(), value.size());
  if (written < 0) return fail(file_error(path));
  if (static_cast<std::size_t>(written) != value.size()) {
    return fail(ErrorCode::kInvalid, fmt::format("{}: took only a part of the value", path));
  }
  return {};
}

Result<std::uint64_t> HostKernel::cgroup_inode(const std::string& path) const {
  auto mounts = read("/proc/self/mountinfo");
  if (!mounts) return fail(mounts.error());
  auto mount = cgroup2_mount(*mounts);
  if (!mount) return fail(mount.error());
  const std::string directory = *mount + "/" + path;
  struct stat info {};
  if (::stat(directory.c_str(), &info) != 0) return fail(file_error(directory));
  if (!S_ISDIR(info.st_mode)) {
    return fail(ErrorCode::kNotFound, fmt::format("{}: not a cgroup", directory));
  }
  return static_cast<std::uint64_t>(info.st_ino);
}

Result<std::string> cgroup2_mount(std::string_view mountinfo) {
  std::string part;
  for (const std::string_view line : split(mountinfo, '\n')) {
    const std::vector<std::string_view> fields = split(line, ' ');
    // id parent major:minor root mount-point options optional... - type source super-options
    std::size_t dash = 6;
    while (dash < fields.size() && fields[dash] != "-") ++dash;
    if (dash + 1 >= fields.size() || fields[dash + 1] != "cgroup2") continue;
    if (fields[3] == "/") return unescape(fields[4]);
    if (part.empty()) part = unescape(fields[4]);
  }
  if (!part.empty()) return part;
  return fail(ErrorCode::kUnavailable,
              "no cgroup2 is mounted; mount it (mount -t cgroup2 none /sys/fs/cgroup/unified) or "
              "enroll the workload by user");
}

}  // namespace meshnode::io
