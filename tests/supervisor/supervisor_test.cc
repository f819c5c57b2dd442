#include "supervisor/supervisor.h"

#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <array>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "io/host_kernel.h"
#include "io/loop.h"
#include "support/namespaces.h"
#include "supervisor/worker_link.h"

using namespace meshnode;
using namespace meshnode::supervisor;
using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;

// The workers of these tests are this program, started again with the name of one of the hidden
// cases below. Each answers a connection to the tunnel port with one line about itself.

namespace {

class FakeWorker {
 public:
  enum class Kind { kPlain, kStubborn, kTalksNonsense, kEnrolls, kNoisy, kHangs, kHurried };

  explicit FakeWorker(Kind kind)
      : kind_(kind),
        link_(loop_, kChannelDescriptor,
              {[this](auto by_name, auto history, auto steering) {
                 serve(std::move(by_name), history, steering);
               },
               [this] { ++reloads_; }, [this] { drain(); },
               // Nothing of these tests has to be waited for.
               [](const CaptureReport& report) {
                 if (!report.waiting.empty()) ::_exit(8);
               },
               [](const Error&) { ::_exit(9); },
               [this](auto, auto by_name) { serve_tunnels(by_name); }}) {}

  void run() { loop_.run(); }

 private:
  void serve(std::map<std::string, int> by_name, const WorkerHistory& history,
             const Steering& steering) {
    for (const auto& [name, slot] : steering.slots) {
      steering_ += name + "=" + std::to_string(slot) + ',';
    }
    steering_ += std::to_string(steering.next);
    history_ = history;
    if (kind_ == Kind::kTalksNonsense && history.restarts == 0) {
      // The second frame is nonsense of another kind, and must not be looked at any more.
      static_cast<void>(!::write(kChannelDescriptor, "\0\0\0\2{}\0\0\0\1{", 11));
      return;
    }
    serve_tunnels(by_name);
    listeners_ = by_name.size();
    if (kind_ == Kind::kNoisy) {
      ::fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK);
      const std::string noise(4096, 'n');
      while (::write(STDERR_FILENO, noise.data(), noise.size()) > 0) {
      }
      ::fcntl(STDERR_FILENO, F_SETFL, 0);
    }
    capture::Spec spec;
    if (kind_ == Kind::kEnrolls) {
      spec.workloads.push_back({"test/web", 7, capture::ByUser{54321}, {9080}});
      if (const char* pid = std::getenv("MESHNODE_TEST_SPACE")) {
        const auto process = static_cast<std::uint32_t>(std::stoul(pid));
        spec.workloads.push_back({"test/box", 8, capture::ByNamespace{"", process}, {9080}});
      }
    }
    static_cast<void>(link_.send_capture(spec, 9));
    if (kind_ == Kind::kHurried) link_.send_settings({milliseconds(300)});
    link_.send_ready();
    if (kind_ == Kind::kHangs) beat(by_name.at(kHeartbeats));
  }

  void beat(int page) {
    heartbeats_ = std::move(*Heartbeats::open(page));
    for (unsigned loop = 0; loop < 2; ++loop) {
      pulses_.push_back(std::make_unique<Pulse>(loop_, *heartbeats_, loop));
    }
    hang_ = loop_.timer([] {
      for (;;) ::pause();
    });
    if (history_.restarts == 0) hang_->start(milliseconds(300));
  }

  void serve_tunnels(const std::map<std::string, int>& by_name) {
    for (const char* name : {"tunnel4", "tunnel6", "admin"}) {
      const auto at = by_name.find(name);
      if (at == by_name.end()) continue;
      const int listener = at->second;
      watches_.push_back(
          std::make_unique<io::FdWatch>(loop_, listener, [this, listener] { answer(listener); }));
    }
  }

  void answer(int listener) {
    const Descriptor client(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!client) return;
    std::ostringstream line;
    line << ::getpid() << ' ' << history_.restarts << ' ' << reloads_ << ' ' << listeners_ << ' '
         << steering_ << ' ' << history_.last_reason << '\n';
    const std::string text = line.str();
    static_cast<void>(!::write(client.get(), text.data(), text.size()));
  }

  void drain() {
    if (kind_ == Kind::kStubborn || kind_ == Kind::kHurried) return;
    link_.send_drained();
    ::_exit(0);
  }

  Kind kind_;
  io::Loop loop_;
  WorkerLink link_;
  WorkerHistory history_;
  int reloads_ = 0;
  std::size_t listeners_ = 0;
  std::string steering_;
  std::vector<std::unique_ptr<io::FdWatch>> watches_;
  std::unique_ptr<Heartbeats> heartbeats_;
  std::vector<std::unique_ptr<Pulse>> pulses_;
  std::unique_ptr<Timer> hang_;
};

}  // namespace

TEST_CASE("plain worker", "[.worker]") { FakeWorker(FakeWorker::Kind::kPlain).run(); }
TEST_CASE("stubborn worker", "[.worker]") { FakeWorker(FakeWorker::Kind::kStubborn).run(); }
TEST_CASE("nonsense worker", "[.worker]") { FakeWorker(FakeWorker::Kind::kTalksNonsense).run(); }
TEST_CASE("enrolling worker", "[.worker]") { FakeWorker(FakeWorker::Kind::kEnrolls).run(); }
TEST_CASE("hurried worker", "[.worker]") { FakeWorker(FakeWorker::Kind::kHurried).run(); }
TEST_CASE("noisy worker", "[.worker]") { FakeWorker(FakeWorker::Kind::kNoisy).run(); }
TEST_CASE("hanging worker", "[.worker]") { FakeWorker(FakeWorker::Kind::kHangs).run(); }
TEST_CASE("dying worker", "[.worker]") { ::_exit(5); }

namespace {

// A sanitizer makes the start of a program, not its replacement, the slow part.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr auto kReplacedWithin = milliseconds(1000);
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr auto kReplacedWithin = milliseconds(1000);
#else
constexpr auto kReplacedWithin = milliseconds(100);
#endif
#else
constexpr auto kReplacedWithin = milliseconds(100);
#endif

/// One network namespace for the whole program, with loopback up; false without the rights.
bool own_network() {
  static const bool ours = [] {
    if (::unshare(CLONE_NEWNET) != 0) return false;
    const Descriptor any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    std::string("lo").copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    return ::ioctl(any.get(), SIOCSIFFLAGS, &request) == 0;
  }();
  if (!ours) WARN("SKIPPED: needs root, for a network namespace of its own");
  return ours;
}

struct Answer {
  pid_t pid = -1;
  std::uint64_t restarts = 0;
  int reloads = 0;
  std::size_t listeners = 0;
  std::string steering;
  std::string last_reason;
};

Descriptor dial(int family) {
  Descriptor client(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage raw{};
  const auto ip = family == AF_INET ? IpAddress::parse("127.0.0.1") : IpAddress::parse("::1");
  const socklen_t length = SocketAddress{*ip, capture::kTunnelPort}.to_sockaddr(raw);
  const timeval patience{10, 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&raw), length) != 0) return {};
  return client;
}

Answer read_answer(const Descriptor& client) {
  std::string text;
  std::array<char, 512> buffer{};
  while (text.find('\n') == std::string::npos) {
    const ssize_t got = ::read(client.get(), buffer.data(), buffer.size());
    if (got <= 0) return {};
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  Answer answer;
  std::istringstream line(text);
  line >> answer.pid >> answer.restarts >> answer.reloads >> answer.listeners >> answer.steering >>
      std::ws;
  std::getline(line, answer.last_reason);
  return answer;
}

Answer ask(int family = AF_INET) {
  const Descriptor client = dial(family);
  return client ? read_answer(client) : Answer{};
}

bool eventually(const std::function<bool()>& holds, milliseconds patience = milliseconds(8000)) {
  const auto deadline = SteadyClock::now() + patience;
  while (SteadyClock::now() < deadline) {
    if (holds()) return true;
    std::this_thread::sleep_for(milliseconds(10));
  }
  return holds();
}

/// A program that holds the thread for good, as a file system may that does not answer.
class Stalling : public io::HostKernel {
 public:
  Result<CommandResult> run(const std::vector<std::string>& argv, const std::string&) override {
    std::this_thread::sleep_for(std::chrono::hours(1));
    return fail(ErrorCode::kTimeout, argv[0] + ": killed");
  }
};

/// A supervisor in a process of its own, ended with the object.
class Agent {
 public:
  /// With `log`, the writing end of a pipe, that is its stderr.
  explicit Agent(const char* worker, Duration drain = kDrainDeadline, int log = -1,
                 int hung_after_looks = kHungAfterLooks, bool stalling = false)
      : log_(log), stalling_(stalling) {
    std::string name = "/tmp/meshnode-supervisor-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    directory_ = name;
    options_.run_dir = name + "/run";
    options_.state_dir = name + "/state";
    options_.worker_arguments = {"supervisor_test", worker};
    options_.drain_deadline = drain;
    options_.hung_after_looks = hung_after_looks;
    options_.notify_socket = name + "/notify";
    manager_ = Descriptor(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    options_.notify_socket.copy(at.sun_path, sizeof(at.sun_path) - 1);
    REQUIRE(::bind(manager_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)) == 0);
    start();
  }
  ~Agent() {
    kill();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  void start() {
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      if (log_ >= 0) ::dup2(log_, STDERR_FILENO);
      const auto code = stalling_ ? run_stalling() : run_supervisor(options_);
      ::_exit(code ? *code : 77);
    }
  }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  void signal(int number) const { ::kill(pid_, number); }
  /// -1 when it still runs after the time.
  int exit_code(milliseconds patience = milliseconds(8000)) {
    int status = 0;
    const bool ended =
        eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; }, patience);
    if (!ended) return -1;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  std::string next_notification(milliseconds patience = milliseconds(8000)) {
    std::array<char, 1024> text{};
    ssize_t got = -1;
    eventually(
        [&] {
          got = ::recv(manager_.get(), text.data(), text.size(), MSG_DONTWAIT);
          return got > 0;
        },
        patience);
    return got > 0 ? std::string(text.data(), static_cast<std::size_t>(got)) : "";
  }
  /// A machine that is busy with other things may take its time over some thirty programs.
  bool ready(milliseconds patience = milliseconds(40'000)) {
    const auto deadline = SteadyClock::now() + patience;
    for (auto left = patience; left > left.zero();
         left = std::chrono::duration_cast<milliseconds>(deadline - SteadyClock::now())) {
      const std::string text = next_notification(left);
      if (text == "READY=1") return true;
      if (!text.empty()) WARN("the agent says: " + text);
    }
    return false;
  }
  const Options& options() const { return options_; }

 private:
  Result<int> run_stalling() const {
    io::Loop loop;
    io::HostKernel kernel;
    Stalling inside;
    Options options = options_;
    options.spaces_removed_within = std::chrono::seconds(1);
    Supervisor supervisor(loop, options, kernel, inside);
    if (auto ok = supervisor.start(); !ok) return fail(ok.error());
    loop.run();
    if (!supervisor.is_held()) return supervisor.exit_code();
    supervisor.close();
    ::_exit(supervisor.exit_code());
  }

  std::string directory_;
  Options options_;
  Descriptor manager_;
  int log_ = -1;
  bool stalling_ = false;
  pid_t pid_ = -1;
};

std::string all_rules() {
  io::HostKernel kernel;
  std::string text;
  for (const char* program : {"iptables-save", "ip6tables-save"}) {
    if (auto done = kernel.run({program}, "")) text += done->output;
  }
  return text;
}

}  // namespace

TEST_CASE("a worker serves the supervisor's listeners over both families") {
  if (!own_network()) return;
  Agent agent("plain worker");
  REQUIRE(agent.ready());
  const Answer v4 = ask(AF_INET);
  CHECK(v4.pid > 0);
  CHECK(v4.restarts == 0);
  CHECK(v4.listeners == 12);
  CHECK(ask(AF_INET6).pid == v4.pid);
}

TEST_CASE("a dead worker is replaced within 100 ms and the new one knows why") {
  if (!own_network()) return;
  Agent agent("plain worker");
  REQUIRE(agent.ready());
  auto best = milliseconds(10'000);
  std::uint64_t rounds = 0;
  // The machine may be busy with other things; the best of a few rounds is the program's doing.
  for (; rounds < 4 && best > kReplacedWithin; ++rounds) {
    std::this_thread::sleep_for(RestartPolicy::kSettled);
    const Answer before = ask();
    REQUIRE(before.pid > 0);
    const auto killed = SteadyClock::now();
    ::kill(before.pid, SIGKILL);
    const Answer after = ask();
    best = std::min(best, std::chrono::duration_cast<milliseconds>(SteadyClock::now() - killed));
    CHECK(after.pid != before.pid);
    CHECK(after.restarts == rounds + 1);
    CHECK(after.last_reason == "killed by signal 9 (Killed)");
  }
  CHECK(best <= kReplacedWithin);
}

TEST_CASE("connections made while no worker lives are served by its successor") {
  if (!own_network()) return;
  Agent agent("plain worker");
  REQUIRE(agent.ready());
  const Answer before = ask();
  REQUIRE(before.pid > 0);
  agent.signal(SIGSTOP);
  ::kill(before.pid, SIGKILL);
  std::this_thread::sleep_for(milliseconds(20));
  std::vector<Descriptor> waiting;
  for (int i = 0; i < 200; ++i) waiting.push_back(dial(i % 2 == 0 ? AF_INET : AF_INET6));
  agent.signal(SIGCONT);
  int served = 0;
  for (const auto& client : waiting) served += client && read_answer(client).restarts == 1 ? 1 : 0;
  CHECK(served == 200);
}

TEST_CASE("a worker that dies at every start is tried again and again") {
  if (!own_network()) return;
  Agent agent("dying worker");
  CHECK(agent.exit_code(milliseconds(1500)) == -1);
  agent.signal(SIGTERM);
  CHECK(agent.exit_code() == 0);
}

TEST_CASE("a log that nobody reads keeps no worker from being replaced and no agent from ending") {
  if (!own_network()) return;
  std::array<int, 2> log{};
  REQUIRE(::pipe2(log.data(), O_CLOEXEC) == 0);
  const Descriptor unread(log[0]);
  const Descriptor full(log[1]);
  Agent agent("noisy worker", kDrainDeadline, full.get());
  REQUIRE(agent.ready());
  for (std::uint64_t round = 1; round <= 3; ++round) {
    const pid_t worker = ask().pid;
    REQUIRE(worker > 0);
    ::kill(worker, SIGKILL);
    CHECK(ask().restarts == round);
  }
  agent.signal(SIGTERM);
  CHECK(agent.exit_code() == 0);
}

TEST_CASE("the last lines of an agent's log are written before it ends") {
  if (!own_network()) return;
  std::array<int, 2> log{};
  REQUIRE(::pipe2(log.data(), O_CLOEXEC | O_NONBLOCK) == 0);
  const Descriptor reader(log[0]);
  const Descriptor writer(log[1]);
  Agent agent("plain worker", kDrainDeadline, writer.get());
  REQUIRE(agent.ready());
  agent.signal(SIGTERM);
  REQUIRE(agent.exit_code() == 0);
  std::array<char, 16384> text{};
  const ssize_t got = ::read(reader.get(), text.data(), text.size());
  REQUIRE(got > 0);
  const std::string lines(text.data(), static_cast<std::size_t>(got));
  CHECK(lines.find("ready: traffic flows") != std::string::npos);
  CHECK(lines.find("rules removed") != std::string::npos);
}

TEST_CASE("a worker that talks nonsense is replaced") {
  if (!own_network()) return;
  Agent agent("nonsense worker");
  REQUIRE(agent.ready());
  const Answer answer = ask();
  CHECK(answer.restarts == 1);
  CHECK(answer.last_reason == "it sent what it must not: unknown message type");
}

TEST_CASE("a worker that hangs is replaced, one that beats is not") {
  if (!own_network()) return;
  Agent agent("hanging worker", kDrainDeadline, -1, 3);
  REQUIRE(agent.ready());
  const pid_t first = ask().pid;
  REQUIRE(first > 0);
  // Hung after 0.3 s: what is asked from then on waits for its successor.
  REQUIRE(eventually([] { return ask().restarts == 1; }));
  const Answer second = ask();
  CHECK(second.last_reason.find("hung: proxy loop 0 did not come round for 3 s") == 0);
  std::this_thread::sleep_for(std::chrono::seconds(5));
  CHECK(ask().pid == second.pid);
}

TEST_CASE("SIGHUP asks the worker to reload and restarts nothing") {
  if (!own_network()) return;
  Agent agent("plain worker");
  REQUIRE(agent.ready());
  const pid_t before = ask().pid;
  agent.signal(SIGHUP);
  CHECK(eventually([] { return ask().reloads == 1; }));
  CHECK(ask().pid == before);
}

TEST_CASE("a second agent is refused and the first goes on") {
  if (!own_network()) return;
  Agent agent("plain worker");
  REQUIRE(agent.ready());
  const auto second = run_supervisor(agent.options());
  REQUIRE_FALSE(second);
  CHECK(second.error().message.find("runs there; stop it first") != std::string::npos);
  CHECK(ask().pid > 0);
}

TEST_CASE("a port in other hands is named with the command that finds the holder") {
  if (!own_network()) return;
  const auto taken = open_listeners({{"x", Family::kV4, IpAddress(), 16020, false}});
  REQUIRE(taken);
  const auto refused = open_listeners({{"x", Family::kV4, IpAddress(), 16020, false}});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message.find("0.0.0.0:16020: bind: Address already in use") !=
        std::string::npos);
  CHECK(refused.error().message.find("ss -ltnp") != std::string::npos);
}

TEST_CASE("SIGTERM drains the worker, leaves no socket and exits 0") {
  if (!own_network()) return;
  Agent agent("plain worker");
  REQUIRE(agent.ready());
  const std::string admin = agent.options().run_dir + "/admin.sock";
  CHECK(::access(admin.c_str(), F_OK) == 0);
  const auto asked = SteadyClock::now();
  agent.signal(SIGTERM);
  CHECK(agent.exit_code() == 0);
  CHECK(SteadyClock::now() - asked < std::chrono::seconds(5));
  CHECK(::access(admin.c_str(), F_OK) != 0);
  CHECK(agent.next_notification() == "STOPPING=1");
}

TEST_CASE("a worker that does not drain is ended at the deadline") {
  if (!own_network()) return;
  Agent agent("stubborn worker", milliseconds(700));
  REQUIRE(agent.ready());
  const pid_t worker = ask().pid;
  const auto asked = SteadyClock::now();
  agent.signal(SIGTERM);
  CHECK(agent.exit_code() == 0);
  CHECK(SteadyClock::now() - asked >= milliseconds(700));
  CHECK(::kill(worker, 0) != 0);
}

TEST_CASE("the deadline is what the worker's configuration says") {
  if (!own_network()) return;
  Agent agent("hurried worker");
  REQUIRE(agent.ready());
  REQUIRE(ask().pid > 0);
  const auto asked = SteadyClock::now();
  agent.signal(SIGTERM);
  CHECK(agent.exit_code() == 0);
  CHECK(SteadyClock::now() - asked >= milliseconds(300));
  CHECK(SteadyClock::now() - asked < kDrainDeadline / 2);
}

TEST_CASE("a second SIGTERM does not wait for the deadline") {
  if (!own_network()) return;
  Agent agent("stubborn worker");
  REQUIRE(agent.ready());
  agent.signal(SIGTERM);
  CHECK(agent.exit_code(milliseconds(500)) == -1);
  agent.signal(SIGTERM);
  CHECK(agent.exit_code(milliseconds(4000)) == 0);
}

TEST_CASE("every new worker is told whom the rules steer, also those of an earlier run") {
  if (!own_network()) return;
  Agent agent("enrolling worker");
  REQUIRE(agent.ready());
  CHECK(ask().steering == "0");
  ::kill(ask().pid, SIGKILL);
  CHECK(eventually([] { return ask().steering == "test/web=7,9"; }));

  agent.kill();
  agent.start();
  REQUIRE(agent.ready());
  CHECK(ask().steering == "test/web=7,8");
  agent.signal(SIGTERM);
  CHECK(agent.exit_code() == 0);
}

TEST_CASE("rules stand before readiness is told, survive kill -9 and go with SIGTERM") {
  if (!own_network()) return;
  Agent agent("enrolling worker");
  REQUIRE(agent.ready());
  CHECK(all_rules().find("54321") != std::string::npos);

  agent.kill();
  CHECK(all_rules().find("54321") != std::string::npos);
  agent.start();
  REQUIRE(agent.ready());
  const std::string again = all_rules();
  CHECK(again.find("54321") != std::string::npos);

  io::HostKernel kernel;
  REQUIRE(kernel.run({"iptables", "-t", "nat", "-F"}, ""));
  CHECK(eventually([&again] { return all_rules().size() >= again.size(); }));

  agent.signal(SIGTERM);
  CHECK(agent.exit_code() == 0);
  CHECK(all_rules().find("54321") == std::string::npos);
  CHECK(all_rules().find("15001") == std::string::npos);
}

TEST_CASE("a namespace's listeners and rules outlive the worker, and go with the supervisor") {
  if (!own_network()) return;
  const meshnode::test::TestNamespace box;
  ::setenv("MESHNODE_TEST_SPACE", std::to_string(box.pid()).c_str(), 1);
  Agent agent("enrolling worker");
  ::unsetenv("MESHNODE_TEST_SPACE");
  REQUIRE(agent.ready());
  struct stat info {};
  REQUIRE(::stat((agent.options().run_dir + "/sockets.sock").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777U) == 0600U);
  const auto inside = [&box](int family) {
    Answer answer;
    box.inside([&] { answer = ask(family); });
    return answer;
  };
  const auto rules_inside = [&box] {
    std::string text;
    box.inside([&text] { text = all_rules(); });
    return text;
  };
  const Answer first = inside(AF_INET);
  CHECK(first.pid > 0);
  CHECK(first.restarts == 0);
  CHECK(inside(AF_INET6).pid == first.pid);
  CHECK(ask().pid == first.pid);
  CHECK(rules_inside().find("127.15.0.8:15001") != std::string::npos);
  CHECK(all_rules().find("127.15.0.8:15001") == std::string::npos);

  // What is dialled while there is no worker waits in the queue of the next one.
  ::kill(first.pid, SIGKILL);
  const Answer second = inside(AF_INET);
  CHECK(second.pid > 0);
  CHECK(second.pid != first.pid);
  CHECK(second.steering.find("test/box=8") != std::string::npos);

  agent.signal(SIGTERM);
  CHECK(agent.exit_code() == 0);
  CHECK(rules_inside().find("MESHNODE") == std::string::npos);
  CHECK(all_rules().find("MESHNODE") == std::string::npos);
  CHECK(::stat((agent.options().run_dir + "/sockets.sock").c_str(), &info) != 0);
}

TEST_CASE("a namespace in which a program hangs for ever delays nothing but others") {
  if (!own_network()) return;
  const meshnode::test::TestNamespace box;
  ::setenv("MESHNODE_TEST_SPACE", std::to_string(box.pid()).c_str(), 1);
  Agent agent("enrolling worker", kDrainDeadline, -1, kHungAfterLooks, true);
  ::unsetenv("MESHNODE_TEST_SPACE");
  // Rules of the host come first.
  const std::string marker = agent.options().run_dir + "/namespaces-captured";
  REQUIRE(eventually([&] { return ::access(marker.c_str(), F_OK) == 0; }));
  const std::string rules = all_rules();
  io::HostKernel kernel;
  for (int round = 0; round < 3; ++round) {
    REQUIRE(kernel.run({"iptables", "-t", "nat", "-F"}, ""));
    CHECK(eventually([&] { return all_rules().size() >= rules.size(); }, milliseconds(4000)));
    const Answer before = ask();
    const auto killed = SteadyClock::now();
    ::kill(before.pid, SIGKILL);
    const Answer after = ask();
    CHECK(after.restarts == before.restarts + 1);
    CHECK(SteadyClock::now() - killed < std::chrono::seconds(3));
    agent.signal(SIGHUP);
    CHECK(eventually([] { return ask().reloads == 1; }, milliseconds(3000)));
  }
  const pid_t worker = ask().pid;
  agent.signal(SIGTERM);
  CHECK(eventually([&] { return ::kill(worker, 0) != 0; }, milliseconds(4000)));
  CHECK(agent.exit_code() == 1);  // rules inside may be left
  CHECK(::access((agent.options().run_dir + "/admin.sock").c_str(), F_OK) != 0);
  CHECK(::access((agent.options().run_dir + "/sockets.sock").c_str(), F_OK) != 0);
  CHECK(all_rules().find("54321") == std::string::npos);
}
