#include "io/host_kernel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>

using namespace meshnode;
using meshnode::io::cgroup2_mount;
using meshnode::io::HostKernel;

TEST_CASE("a program gets its input and arguments and gives output, errors and exit code") {
  HostKernel kernel;
  auto ran =
      kernel.run({"sh", "-c", "cat; echo \"$0\" >&2; exit 3", "an argument; $(id)"}, "input");
  REQUIRE(ran);
  CHECK(ran->exit_code == 3);
  CHECK(ran->output == "input");
  CHECK(ran->error == "an argument; $(id)\n");
}

TEST_CASE("megabytes in every direction at once do not deadlock") {
  HostKernel kernel;
  const std::string input(std::size_t{4} << 20, 'x');
  auto ran = kernel.run({"sh", "-c", "head -c 4194304 /dev/zero >&2 & cat; wait"}, input);
  REQUIRE(ran);
  CHECK((ran->output == input));
  CHECK(ran->error.size() == input.size());
}

TEST_CASE("a program that reads nothing of its input does no harm") {
  HostKernel kernel;
  auto ran = kernel.run({"true"}, std::string(std::size_t{4} << 20, 'x'));
  REQUIRE(ran);
  CHECK(ran->exit_code == 0);
}

TEST_CASE("nothing of our environment and no descriptor of ours reaches a program") {
  HostKernel kernel;
  ::setenv("MESHNODE_SECRET", "x", 1);
  const int leak = ::open("/dev/null", O_RDONLY);
  auto ran = kernel.run({"env"}, "");
  REQUIRE(ran);
  CHECK(ran->output == "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nLC_ALL=C\n");
  ran = kernel.run({"sh", "-c", "ls /proc/$$/fd"}, "");
  REQUIRE(ran);
  CHECK(ran->output == "0\n1\n2\n");
  ::close(leak);
  ::unsetenv("MESHNODE_SECRET");
}

TEST_CASE("a program is found on the fixed path only") {
  HostKernel kernel;
  CHECK(kernel.run({"no-such-program"}, "").error().code == ErrorCode::kUnavailable);
  CHECK(kernel.run({"/bin/true"}, "").error().code == ErrorCode::kInvalid);
  CHECK(kernel.run({}, "").error().code == ErrorCode::kInvalid);
}

TEST_CASE("a program killed by a signal says which") {
  HostKernel kernel;
  auto ran = kernel.run({"sh", "-c", "kill -9 $$"}, "");
  REQUIRE(ran);
  CHECK(ran->exit_code == 128 + 9);
}

TEST_CASE("a program that does not end is killed with its children when the time is over") {
  HostKernel kernel({.timeout_milliseconds = 200});
  const auto begin = std::chrono::steady_clock::now();
  auto ran = kernel.run({"sh", "-c", "sleep 60 & sleep 60"}, "");
  REQUIRE_FALSE(ran);
  CHECK(ran.error().code == ErrorCode::kTimeout);
  ran = kernel.run({"sh", "-c", "exec >&- 2>&-; sleep 60"}, "");
  REQUIRE_FALSE(ran);
  CHECK(ran.error().code == ErrorCode::kTimeout);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
}

TEST_CASE("a program dies with the process that started it") {
  std::array<int, 2> alive{};  // closed by the last process that has it
  REQUIRE(::pipe(alive.data()) == 0);
  const pid_t agent = ::fork();
  REQUIRE(agent >= 0);
  if (agent == 0) {
    // Opened by the program anew, for it inherits nothing.
    const std::string pipe =
        "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(alive[1]);
    HostKernel kernel;
    static_cast<void>(
        kernel.run({"sh", "-c", "exec 3> " + pipe + "; echo x >&3; exec sleep 60"}, ""));
    ::_exit(0);
  }
  ::close(alive[1]);
  std::array<char, 8> text{};
  REQUIRE(::read(alive[0], text.data(), text.size()) == 2);
  ::kill(agent, SIGKILL);
  ::waitpid(agent, nullptr, 0);
  pollfd over{alive[0], POLLIN, 0};
  CHECK(::poll(&over, 1, 5'000) == 1);
  CHECK(::read(alive[0], text.data(), text.size()) == 0);
  ::close(alive[0]);
}

TEST_CASE("a program may print up to the limit and not a byte more") {
  HostKernel kernel({.output_bytes = 100'000});
  auto ran = kernel.run({"head", "-c", "100000", "/dev/zero"}, "");
  REQUIRE(ran);
  CHECK(ran->output.size() == 100'000);
  ran = kernel.run({"head", "-c", "100001", "/dev/zero"}, "");
  REQUIRE_FALSE(ran);
  CHECK(ran.error().code == ErrorCode::kLimit);
}

TEST_CASE("files are read and written whole, within bounds") {
  std::string path = "/tmp/host_kernel_test.XXXXXX";
  const int fd = ::mkstemp(path.data());
  REQUIRE(fd >= 0);
  ::close(fd);
  HostKernel kernel({.file_bytes = 10});
  REQUIRE(kernel.write(path, "0123456789"));
  CHECK(kernel.read(path).value() == "0123456789");
  REQUIRE(kernel.write(path, "0123456789x"));
  CHECK(kernel.read(path).error().code == ErrorCode::kLimit);
  ::unlink(path.c_str());
  CHECK(kernel.read(path).error().code == ErrorCode::kNotFound);
  CHECK(kernel.write(path, "x").error().code == ErrorCode::kNotFound);
}

TEST_CASE("the cgroup2 mount is found wherever it is") {
  const std::string hybrid =
      "24 1 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n"
      "25 24 0:23 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n"
      "26 24 0:24 /part /mnt/part rw shared:6 master:7 - cgroup2 cgroup2 rw\n"
      "27 24 0:24 / /sys/fs/my\\040cgroup rw - cgroup2 cgroup2 rw\n";
  CHECK(cgroup2_mount(hybrid).value() == "/sys/fs/my cgroup");
  CHECK(cgroup2_mount(hybrid.substr(0, hybrid.find("27 "))).value() == "/mnt/part");
  CHECK(cgroup2_mount(hybrid.substr(0, hybrid.find("26 "))).error().code ==
        ErrorCode::kUnavailable);
  CHECK_FALSE(cgroup2_mount(""));
  CHECK_FALSE(cgroup2_mount("a b c\n- cgroup2\n"));
  CHECK_FALSE(cgroup2_mount("27 24 0:24 / /sys rw -\n"));
}

TEST_CASE("a cgroup's inode tells two lives of one path apart") {
  HostKernel kernel;
  auto mountinfo = kernel.read("/proc/self/mountinfo");
  REQUIRE(mountinfo);
  auto mount = cgroup2_mount(*mountinfo);
  const std::string name = "meshnode-io-test-" + std::to_string(::getpid());
  if (!mount || ::mkdir((*mount + "/" + name).c_str(), 0755) != 0) {
    WARN("no writable cgroup2 here: inodes of cgroups were not tested");
    return;
  }
  auto first = kernel.cgroup_inode(name);
  ::rmdir((*mount + "/" + name).c_str());
  CHECK(kernel.cgroup_inode(name).error().code == ErrorCode::kNotFound);
  REQUIRE(::mkdir((*mount + "/" + name).c_str(), 0755) == 0);
  auto second = kernel.cgroup_inode(name);
  ::rmdir((*mount + "/" + name).c_str());
  REQUIRE(first);
  REQUIRE(second);
  CHECK(*first != *second);
}
