#include "supervisor/spawn.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "supervisor/channel.h"
#include "supervisor/notify.h"
#include "supervisor/run_directory.h"
#include "supervisor/sockets.h"

using namespace meshnode;
using namespace meshnode::supervisor;

namespace {

struct Ended {
  std::string output;  // what the program wrote to its channel
  std::string how;
};

Ended run_as_worker(const std::string& program, const std::vector<std::string>& argv) {
  auto ends = make_channel();
  REQUIRE(ends);
  auto worker = spawn_worker(program, argv, ends->second.get());
  REQUIRE(worker);
  ends->second = Descriptor();
  Ended ended;
  std::array<char, 4096> buffer{};
  pollfd readable{ends->first.get(), POLLIN, 0};
  while (::poll(&readable, 1, 10'000) == 1) {
    const ssize_t got = ::read(ends->first.get(), buffer.data(), buffer.size());
    if (got <= 0) break;
    ended.output.append(buffer.data(), static_cast<std::size_t>(got));
  }
  pollfd death{worker->pidfd.get(), POLLIN, 0};
  REQUIRE(::poll(&death, 1, 10'000) == 1);
  ended.how = reap(worker->pid);
  return ended;
}

Ended run_script(const std::string& script) {
  return run_as_worker("/bin/sh", {"sh", "-c", script});
}

std::uint64_t capability_set(const std::string& status, const std::string& name) {
  const auto at = status.find(name + ":");
  REQUIRE(at != std::string::npos);
  return std::stoull(status.substr(at + name.size() + 1), nullptr, 16);
}

struct Directory {
  Directory() {
    std::string name = "/tmp/meshnode-supervisor-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::string path;
};

}  // namespace

TEST_CASE("a worker has CAP_NET_RAW at most and can gain nothing") {
  if (::geteuid() != 0) {
    WARN("SKIPPED: needs root");
    return;
  }
  const std::string status = run_script("cat /proc/self/status >&3").output;
  constexpr std::uint64_t kNetRaw = 1U << 13U;
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    INFO(set);
    CHECK((capability_set(status, set) & ~kNetRaw) == 0);
  }
  CHECK(capability_set(status, "CapEff") == kNetRaw);
  CHECK(status.find("NoNewPrivs:\t1") != std::string::npos);
  CHECK(capability_set(status, "SigBlk") == 0);
  const std::uint64_t ignored = 1U << (SIGHUP - 1) | 1U << (SIGINT - 1) | 1U << (SIGTERM - 1);
  CHECK(capability_set(status, "SigIgn") == ignored);
}

TEST_CASE("a worker inherits its channel and the standard streams and nothing else") {
  const int leaked = ::open("/dev/null", O_RDONLY);  // not close-on-exec, on purpose
  const Descriptor guard(leaked);
  REQUIRE(::dup2(leaked, 77) == 77);
  const Descriptor high(77);
  // The glob is expanded by the shell, which has one descriptor of its own open for it.
  const std::string open = run_script("for f in /proc/$$/fd/*; do echo ${f##*/} >&3; done").output;
  std::istringstream lines(open);
  std::vector<std::string> numbers;
  for (std::string line; lines >> line;) numbers.push_back(line);
  CHECK(numbers.size() <= 5);
  CHECK(std::find(numbers.begin(), numbers.end(), "77") == numbers.end());
  CHECK(run_script("readlink /proc/$$/fd/0 >&3").output == "/dev/null\n");
}

TEST_CASE("a worker writes no core, may use all descriptors and cannot report readiness") {
  REQUIRE(::setenv("NOTIFY_SOCKET", "@nowhere", 1) == 0);
  REQUIRE(::setenv("NOTIFY_SOCKETS_OTHER", "kept", 1) == 0);
  const std::string seen =
      run_script("ulimit -c >&3; ulimit -Sn >&3; ulimit -Hn >&3; env >&3").output;
  REQUIRE(::unsetenv("NOTIFY_SOCKET") == 0);
  REQUIRE(::unsetenv("NOTIFY_SOCKETS_OTHER") == 0);
  std::istringstream lines(seen);
  std::string core;
  std::string soft;
  std::string hard;
  lines >> core >> soft >> hard;
  CHECK(core == "0");
  CHECK(soft == hard);
  CHECK(seen.find("NOTIFY_SOCKET=") == std::string::npos);
  CHECK(seen.find("NOTIFY_SOCKETS_OTHER=kept") != std::string::npos);
}

TEST_CASE("how a worker ended is said in words") {
  CHECK(run_script("exit 3").how == "exited with code 3");
  CHECK(run_script("kill -9 $$").how == "killed by signal 9 (Killed)");
  CHECK(run_as_worker("/nonexistent/program", {"x"}).how ==
        "exited with code 127 (could not be started)");
}

TEST_CASE("a worker outlives the signals that a terminal sends to the whole group") {
  CHECK(run_script("kill -TERM $$; kill -INT $$; kill -HUP $$; exit 7").how ==
        "exited with code 7");
}

TEST_CASE("a worker dies with the supervisor") {
  std::array<int, 2> report{};
  REQUIRE(::pipe(report.data()) == 0);
  const pid_t parent = ::fork();
  if (parent == 0) {
    auto ends = make_channel();
    auto worker = spawn_worker("/bin/sleep", {"sleep", "60"}, ends->second.get());
    static_cast<void>(!::write(report[1], &worker->pid, sizeof(pid_t)));
    ::pause();
  }
  pid_t worker = -1;
  REQUIRE(::read(report[0], &worker, sizeof(worker)) == sizeof(worker));
  ::close(report[0]);
  ::close(report[1]);
  // The worker must have got past its own set-up, or the death signal is not armed yet and the
  // race check is what ends it; both are fine.
  ::kill(parent, SIGKILL);
  REQUIRE(::waitpid(parent, nullptr, 0) == parent);
  bool gone = false;
  for (int i = 0; i < 500 && !gone; ++i) {
    ::usleep(10'000);
    std::array<char, 64> path{};
    std::snprintf(path.data(), path.size(), "/proc/%d/exe", worker);
    gone = ::kill(worker, 0) != 0 || ::access(path.data(), F_OK) != 0;
  }
  CHECK(gone);
}

TEST_CASE("readiness goes to a path and to an abstract socket") {
  const Directory tree;
  const std::string& directory = tree.path;
  for (const std::string& name :
       {directory + "/notify", "@meshnode-test-" + directory.substr(25)}) {
    INFO(name);
    const Descriptor manager(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    name.copy(at.sun_path, name.size());
    if (name[0] == '@') at.sun_path[0] = '\0';
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    REQUIRE(::bind(manager.get(), reinterpret_cast<const sockaddr*>(&at), length) == 0);
    REQUIRE(notify(name, "READY=1"));
    std::array<char, 64> text{};
    REQUIRE(::recv(manager.get(), text.data(), text.size(), MSG_DONTWAIT) == 7);
    CHECK(std::string(text.data()) == "READY=1");
  }
  CHECK(notify("", "READY=1"));
  CHECK_FALSE(notify("relative", "READY=1"));
  CHECK_FALSE(notify("@", "READY=1"));
  CHECK_FALSE(notify("/" + std::string(108, 'x'), "READY=1"));
  CHECK_FALSE(notify(directory + "/nobody", "READY=1"));
}

TEST_CASE("a run directory has one agent at a time") {
  const Directory tree;
  const std::string& base = tree.path;
  const std::string run = base + "/deep/run";
  {
    auto first = RunDirectory::claim(run, base + "/state");
    REQUIRE(first);
    const auto second = RunDirectory::claim(run, base + "/state");
    REQUIRE_FALSE(second);
    CHECK(second.error().code == ErrorCode::kUnavailable);
    CHECK(second.error().message.find("process " + std::to_string(::getpid())) !=
          std::string::npos);
    CHECK(second.error().message.find("--run-dir") != std::string::npos);
  }
  CHECK(RunDirectory::claim(run, base + "/state"));
}

TEST_CASE("directories get their modes whatever the umask") {
  const Directory tree;
  const std::string& base = tree.path;
  const mode_t before = ::umask(0077);
  auto claimed = RunDirectory::claim(base + "/run", base + "/state");
  ::umask(before);
  REQUIRE(claimed);
  struct stat info {};
  REQUIRE(::stat((base + "/run").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777U) == 0755U);
  REQUIRE(::stat((base + "/state").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777U) == 0700U);
}

TEST_CASE("the admin socket is root's alone and replaces a stale one") {
  const Directory tree;
  const std::string path = tree.path + "/admin.sock";
  for (int round = 0; round < 2; ++round) {
    auto admin = open_admin_socket(path);
    REQUIRE(admin);
    CHECK(admin->name == "admin");
    struct stat info {};
    REQUIRE(::stat(path.c_str(), &info) == 0);
    CHECK((info.st_mode & 07777U) == 0600U);
  }
  const auto long_name = open_admin_socket("/tmp/" + std::string(120, 'x'));
  REQUIRE_FALSE(long_name);
  CHECK(long_name.error().message.find("--run-dir") != std::string::npos);
  CHECK_FALSE(open_admin_socket("/nonexistent/admin.sock"));
}
