#include "supervisor/spawn.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "supervisor/worker_link.h"

namespace meshnode::supervisor {
namespace {

// What a started program cannot be told by exec itself.
constexpr int kExitSetup = 126;
constexpr int kExitExec = 127;

bool assigns(const char* entry, std::string_view name) {
  const std::string_view text(entry);
  return text.size() > name.size() && text.starts_with(name) && text[name.size()] == '=';
}

std::vector<char*> worker_environment() {
  std::vector<char*> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    // Readiness is the supervisor's to report; a worker must not be able to forge it.
    if (!assigns(*entry, "NOTIFY_SOCKET")) kept.push_back(*entry);
  }
  kept.push_back(nullptr);
  return kept;
}

// Everything below, down to spawn_worker(), runs between fork and exec: system calls only, for the
// log's thread may have held any lock at the fork.

[[noreturn]] void give_up(const char* what, int exit_code) {
  const char* const prefix = "meshnode: cannot start the worker: ";
  static_cast<void>(!::write(STDERR_FILENO, prefix, std::strlen(prefix)));
  static_cast<void>(!::write(STDERR_FILENO, what, std::strlen(what)));
  static_cast<void>(!::write(STDERR_FILENO, "\n", 1));
  ::_exit(exit_code);
}

void require(bool done, const char* what) {
  if (!done) give_up(what, kExitSetup);
}

void reset_signals() {
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) ::sigaction(number, &standard, nullptr);
  // A service manager and a terminal signal the whole group; a worker that obeyed would die before
  // it could drain. Its orders come over the channel.
  struct sigaction ignored {};
  ignored.sa_handler = SIG_IGN;
  for (const int number : {SIGHUP, SIGINT, SIGTERM}) ::sigaction(number, &ignored, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

void keep_only(int channel) {
  // dup2() to the same number would keep close-on-exec.
  if (channel == kChannelDescriptor) {
    require(::fcntl(channel, F_SETFD, 0) == 0, "fcntl");
  } else {
    require(::dup2(channel, kChannelDescriptor) == kChannelDescriptor, "dup2");
  }
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  require(null >= 0 && ::dup2(null, STDIN_FILENO) == STDIN_FILENO, "/dev/null");
  require(::syscall(SYS_close_range, kChannelDescriptor + 1, UINT_MAX, 0) == 0, "close_range");
}

void limit_resources() {
  const rlimit no_core{0, 0};
  require(::setrlimit(RLIMIT_CORE, &no_core) == 0, "RLIMIT_CORE");
  rlimit files{};
  require(::getrlimit(RLIMIT_NOFILE, &files) == 0, "RLIMIT_NOFILE");
  files.rlim_cur = files.rlim_max;
  require(::setrlimit(RLIMIT_NOFILE, &files) == 0, "RLIMIT_NOFILE");
}

void shed_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> sets{};
  require(::syscall(SYS_capget, &header, sets.data()) == 0, "capget");
  const bool has_raw = (sets[0].permitted & (1U << CAP_NET_RAW)) != 0;

  // root gains the whole bounding set at exec, so dropping it is what binds; another user gains
  // nothing there and may lack the right to drop.
  for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if (capability == CAP_NET_RAW) continue;
    const bool dropped = ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0;
    require(dropped || ::geteuid() != 0, "PR_CAPBSET_DROP");
  }
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  const std::uint32_t kept = has_raw ? 1U << CAP_NET_RAW : 0U;
  sets[0] = {kept, kept, kept};
  sets[1] = {0, 0, 0};
  require(::syscall(SYS_capset, &header, sets.data()) == 0, "capset");
  if (has_raw) {
    // Without a file capability this is what carries it over exec for a user other than root.
    require(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0) == 0, "ambient");
  }
  require(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS");
}

[[noreturn]] void become_worker(const char* program, char* const* argv, char* const* environment,
                                int channel, pid_t supervisor) {
  reset_signals();
  keep_only(channel);
  limit_resources();
  shed_capabilities();
  require(::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0, "PR_SET_PDEATHSIG");
  // The supervisor may have died before the line above took effect.
  if (::getppid() != supervisor) ::_exit(kExitSetup);
  ::execve(program, argv, environment);
  give_up("execve", kExitExec);
}

}  // namespace

Result<WorkerProcess> spawn_worker(const std::string& program, const std::vector<std::string>& argv,
                                   int channel) {
  std::vector<char*> arguments;
  arguments.reserve(argv.size() + 1);
  for (const auto& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const auto environment = worker_environment();
  const pid_t supervisor = ::getpid();

  // A signal that hit the child before it reset its handlers would be written into the parent's
  // loop.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = ::fork();
  if (pid == 0)
    become_worker(program.c_str(), arguments.data(), environment.data(), channel, supervisor);
  const int fork_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) {
    return fail(ErrorCode::kUnavailable, std::string("fork: ") + std::strerror(fork_error));
  }

  WorkerProcess worker;
  worker.pid = pid;
  worker.pidfd = Descriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!worker.pidfd) {
    const std::string why = std::string("pidfd_open: ") + std::strerror(errno);
    ::kill(pid, SIGKILL);
    reap(pid);
    return fail(ErrorCode::kUnavailable, why + "; Linux 5.3 or newer is needed");
  }
  return worker;
}

std::string reap(pid_t pid) {
  int status = 0;
  pid_t got = -1;
  do {
    got = ::waitpid(pid, &status, 0);
  } while (got < 0 && errno == EINTR);
  if (got != pid) return "ended for an unknown reason";
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    return "killed by signal " + std::to_string(number) + " (" + ::strsignal(number) + ")";
  }
  const int code = WEXITSTATUS(status);
  std::string text = "exited with code " + std::to_string(code);
  if (code == kExitSetup) text += " (could not shed its privileges)";
  if (code == kExitExec) text += " (could not be started)";
  return text;
}

}  // namespace meshnode::supervisor
