#include "supervisor/spaces.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <set>
#include <thread>

#include "io/host_kernel.h"
#include "io/loop.h"
#include "support/namespaces.h"

using namespace meshnode;
using namespace meshnode::supervisor;
using meshnode::test::NamespaceFile;
using meshnode::test::TestNamespace;
using std::chrono::seconds;

namespace {

/// The host's, but for one namespace whose root makes programs slow.
class Hostile : public io::HostKernel {
 public:
  Result<CommandResult> run(const std::vector<std::string>& argv,
                            const std::string& input) override {
    if (argv.back() == "-V" && !version.empty()) return CommandResult{0, version, ""};
    struct stat here {};
    if (::stat("/proc/thread-self/ns/net", &here) != 0 || here.st_ino != where) {
      return io::HostKernel::run(argv, input);
    }
    runs += 1;
    if (delay == Duration::zero()) return fail(ErrorCode::kTimeout, argv[0] + " was killed");
    if (runs == 1) std::this_thread::sleep_for(delay);
    return io::HostKernel::run(argv, input);
  }
  ino_t where = 0;
  Duration delay{};
  int runs = 0;
  std::string version;  // of iptables, where it is not the host's
};

/// Until the next look: whatever a turn took, and too early to compare rules unasked.
constexpr Duration kNotYet = kVerifySpaceEvery - std::chrono::milliseconds(1);
/// Beyond the rest that any turn is followed by, also with a sanitizer.
constexpr Duration kRested = seconds(60);

/// Spaces with what they said.
struct Lab {
  Lab()
      : spaces(kernel, marker.path,
               {[this](const TakenUp& space) {
                  said.push_back("listeners " + std::to_string(space.slot));
                  names.clear();
                  inodes.clear();
                  for (const OpenListener& listener : *space.listeners) {
                    names.push_back(listener.name);
                    inodes.insert(inode(listener.socket.get()));
                  }
                },
                [this](std::uint16_t slot) { said.push_back("gone " + std::to_string(slot)); },
                [this](std::uint16_t slot, const auto&) {
                  said.push_back("captured " + std::to_string(slot));
                }}) {}
  ~Lab() { static_cast<void>(spaces.remove(io::monotonic_now() + seconds(60))); }

  static ino_t inode(int fd) {
    struct stat info {};
    REQUIRE(::fstat(fd, &info) == 0);
    return info.st_ino;
  }
  /// A look, and everything that it found to do.
  std::vector<std::string> look(Duration later = seconds(1)) {
    now = now + later;
    spaces.look(now);
    int steps = 0;
    while (spaces.step(now)) REQUIRE(++steps < 5000);
    return std::exchange(said, {});
  }
  CaptureReport report() const {
    CaptureReport all;
    spaces.add_to(all);
    return all;
  }

  struct Marker {
    std::string path = "/tmp/meshnode-marker-" + std::to_string(::getpid());
    bool lies_there() const { return ::access(path.c_str(), F_OK) == 0; }
    ~Marker() { ::unlink(path.c_str()); }
  };
  Marker marker;
  Hostile kernel;
  std::vector<std::string> said;
  std::vector<std::string> names;
  std::set<ino_t> inodes;
  Instant now{};
  Spaces spaces;
};

capture::Enrolled by_path(const std::string& name, std::uint16_t slot, const std::string& path) {
  return {name, slot, capture::ByNamespace{path, 0}, {8080}};
}

capture::Enrolled by_process(const std::string& name, std::uint16_t slot, std::uint32_t pid) {
  return {name, slot, capture::ByNamespace{"", pid}, {8080}};
}

capture::Spec of(std::vector<capture::Enrolled> workloads) {
  capture::Spec spec;
  spec.workloads = std::move(workloads);
  return spec;
}

/// A listener of somebody inside, at a port of ours.
int take_port(const TestNamespace& place) {
  int taken = -1;
  place.inside([&] {
    taken = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(capture::kInboundPort);
    ::bind(taken, reinterpret_cast<const sockaddr*>(&at), sizeof at);
    ::listen(taken, 1);
  });
  return taken;
}

/// At any address, whether it is there or not.
Descriptor listen_inside(const TestNamespace& place, const std::string& where) {
  Descriptor socket;
  place.inside([&] {
    sockaddr_storage raw{};
    const socklen_t size = SocketAddress::parse(where).value().to_sockaddr(raw);
    const int on = 1;
    socket = Descriptor(::socket(raw.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ::setsockopt(socket.get(), SOL_IP, IP_FREEBIND, &on, sizeof on);
    REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&raw), size) == 0);
    REQUIRE(::listen(socket.get(), 1) == 0);
  });
  return socket;
}

void leave_rules(const TestNamespace& place, const std::string& agent) {
  const auto spec = of({by_process("old/web", 3, place.pid())});
  place.inside([&] {
    io::HostKernel kernel;
    capture::Applier(kernel, agent).apply(spec).value();
  });
}

std::string rules_in(const TestNamespace& place) {
  std::string text;
  place.inside([&] {
    io::HostKernel kernel;
    for (const char* program : {"iptables-save", "ip6tables-save"}) {
      if (auto done = kernel.run({program}, "")) text += done->output;
    }
  });
  return text;
}

/// 0 or the errno of a connect() to the tunnel port inside.
int dial_in(const TestNamespace& place) {
  int code = -1;
  place.inside([&] {
    const Descriptor client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_storage raw{};
    const socklen_t size =
        SocketAddress{*IpAddress::parse("127.0.0.1"), capture::kTunnelPort}.to_sockaddr(raw);
    code = ::connect(client.get(), reinterpret_cast<const sockaddr*>(&raw), size) == 0 ? 0 : errno;
  });
  return code;
}

using Said = std::vector<std::string>;

}  // namespace

TEST_CASE("a namespace gets listeners, then rules, and loses both with its workload") {
  if (!test::own_network()) return;
  const TestNamespace place;
  NamespaceFile file;
  file.name(place);
  Lab lab;
  lab.spaces.want(of({by_path("shop/web", 7, file.path)}));
  CHECK_FALSE(lab.spaces.settled());
  CHECK(lab.look() == Said{"listeners 7", "captured 7"});
  CHECK(lab.spaces.settled());
  CHECK(std::set<std::string>(lab.names.begin(), lab.names.end()) ==
        std::set<std::string>{"outbound4", "outbound6", "inbound4", "inbound6", "tunnel4",
                              "tunnel6"});
  CHECK(lab.inodes.size() == 6);
  const std::string rules = rules_in(place);
  CHECK(rules.find("DNAT --to-destination 127.15.0.7:15001") != std::string::npos);
  CHECK(rules.find("meshnode anchor " + agent_mark()) != std::string::npos);
  CHECK(dial_in(place) == 0);
  CHECK(lab.report().failed.empty());
  CHECK(lab.report().waiting.empty());
  CHECK(lab.report().spaces.contains("shop/web"));

  lab.spaces.want({});
  CHECK(lab.look() == Said{"gone 7"});
  CHECK(rules_in(place).find("MESHNODE") == std::string::npos);
  CHECK(dial_in(place) == ECONNREFUSED);
}

TEST_CASE("a workload whose namespace is not there waits, and is taken up when it comes") {
  if (!test::own_network()) return;
  const TestNamespace first;
  const TestNamespace second;
  NamespaceFile file;
  const std::string path = file.path + "-later";
  Lab lab;
  lab.spaces.want(of({by_path("shop/web", 7, path)}));
  CHECK(lab.look().empty());
  CHECK(lab.report().waiting == std::vector<std::string>{"shop/web"});
  CHECK(lab.report().failed.empty());
  lab.spaces.want(of({by_path("shop/web", 7, file.path)}));
  file.name(first);
  CHECK(lab.look() == Said{"listeners 7", "captured 7"});

  SECTION("created again under the same name") {
    file.name(second);
    CHECK(lab.look() == Said{"gone 7", "listeners 7", "captured 7"});
    CHECK(rules_in(first).find("MESHNODE") == std::string::npos);
    CHECK(rules_in(second).find("MESHNODE") != std::string::npos);
    CHECK(dial_in(first) == ECONNREFUSED);
    CHECK(dial_in(second) == 0);
  }
  SECTION("gone, and back") {
    ::umount2(file.path.c_str(), MNT_DETACH);
    CHECK(lab.look() == Said{"gone 7"});
    // What lies there now is no namespace at all.
    CHECK(lab.report().failed.at("shop/web").find("not a network namespace") != std::string::npos);
    file.name(first);
    CHECK(lab.look() == Said{"listeners 7", "captured 7"});
  }
  SECTION("another name for the same keeps the listeners and their queues") {
    const auto before = lab.inodes;
    lab.spaces.want(of({by_process("shop/cart", 9, first.pid())}));
    lab.spaces.look(lab.now);
    // Before any program has run: rules of ours have been there all the while.
    CHECK(std::exchange(lab.said, {}) == Said{"gone 7", "listeners 9", "captured 9"});
    CHECK(lab.look().empty());
    CHECK(lab.inodes == before);
    CHECK(rules_in(first).find("127.15.0.9:15001") != std::string::npos);
    CHECK(rules_in(first).find("127.15.0.7:15001") == std::string::npos);
  }
}

TEST_CASE("a process that ended takes its namespace with it, for good") {
  if (!test::own_network()) return;
  TestNamespace place;
  Lab lab;
  lab.spaces.want(of({by_process("shop/web", 7, place.pid())}));
  CHECK(lab.look() == Said{"listeners 7", "captured 7"});
  place.end();
  CHECK(lab.look() == Said{"gone 7"});
  CHECK(lab.look().empty());
  CHECK(lab.report().failed.at("shop/web").find("has ended") != std::string::npos);
  const TestNamespace next;
  lab.spaces.want(of({by_process("shop/web", 7, next.pid())}));
  CHECK(lab.look() == Said{"listeners 7", "captured 7"});
  CHECK(lab.report().failed.empty());
}

TEST_CASE("what cannot be captured says why and keeps no other from being captured") {
  if (!test::own_network()) return;
  const TestNamespace good;
  const TestNamespace busy;
  const TestNamespace dark(false);
  const int taken = take_port(busy);
  const auto self = static_cast<std::uint32_t>(::getpid());
  Lab lab;
  lab.spaces.want(of({by_process("a/busy", 1, busy.pid()), by_process("a/dark", 2, dark.pid()),
                      by_process("a/own", 3, self), by_path("a/file", 4, "/etc/passwd"),
                      by_process("b/good", 5, good.pid()), by_path("c/same", 6, good.path())}));
  CHECK(lab.look() == Said{"listeners 2", "listeners 5", "captured 5"});
  auto failed = lab.report().failed;
  CHECK(failed.size() == 5);
  CHECK(failed["a/busy"].find(capture::text_of(capture::ByNamespace{"", busy.pid()})) == 0);
  CHECK(failed["a/busy"].find("another program has the port") != std::string::npos);
  CHECK(failed["a/dark"].find("ip link set lo up") != std::string::npos);
  CHECK(failed["a/own"].find("by user or by cgroup") != std::string::npos);
  CHECK(failed["a/file"].find("not a network namespace") != std::string::npos);
  CHECK(failed["c/same"].find("that of b/good as well") != std::string::npos);

  ::close(taken);
  dark.inside([] { TestNamespace::loopback(true); });
  // The kernel tells of the routes that came with it.
  CHECK(lab.look() == Said{"listeners 1", "captured 1", "captured 2"});
  CHECK(lab.report().failed.size() == 3);
}

TEST_CASE("addresses inside that cannot be listed are told as that, and stay as they were") {
  if (!test::own_network()) return;
  const TestNamespace place;
  Lab lab;
  lab.spaces.want(of({by_process("shop/web", 7, place.pid())}));
  lab.look();
  REQUIRE(lab.report().failed.empty());
  rlimit files{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &files) == 0);
  const rlimit none{3, files.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  lab.spaces.look(lab.now + kRested);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &files) == 0);
  CHECK(lab.report().failed.at("shop/web").find("could not be listed") != std::string::npos);
  lab.look(2 * kRested);
  CHECK(lab.report().failed.empty());
}

TEST_CASE("rules that go missing inside are put back at the next look") {
  if (!test::own_network()) return;
  const TestNamespace one;
  const TestNamespace two;
  Lab lab;
  lab.spaces.want(of({by_process("shop/one", 1, one.pid()), by_process("shop/two", 2, two.pid())}));
  lab.look();
  lab.look(kNotYet);  // of what was applied the kernel told as well
  for (const TestNamespace* place : {&one, &two}) {
    place->inside([] { io::HostKernel().run({"iptables", "-t", "nat", "-F"}, "").value(); });
  }
  lab.look(kNotYet);
  CHECK(lab.report().repaired == 2);
  CHECK(lab.report().last_repair.find("network namespace of process") == 0);
  CHECK(rules_in(one).find("127.15.0.1:15001") != std::string::npos);
  CHECK(rules_in(two).find("127.15.0.2:15001") != std::string::npos);

  // What is let go takes its count along: a sum that went back would hide what comes.
  lab.spaces.want(of({by_process("shop/two", 2, two.pid())}));
  lab.look();
  CHECK(lab.report().repaired == 2);
}

TEST_CASE("where the kernel does not tell, rules are compared at each look, else every 5 s") {
  if (!test::own_network()) return;
  const TestNamespace place;
  Lab lab;
  const bool legacy = GENERATE(false, true);
  if (legacy) lab.kernel.version = "iptables v1.8.9 (legacy)";
  lab.kernel.where = io::NetNamespace::of_process(place.pid())->id().inode;
  lab.kernel.delay = std::chrono::milliseconds(1);
  lab.spaces.want(of({by_process("shop/one", 1, place.pid())}));
  lab.look();
  lab.look(kNotYet);
  lab.kernel.runs = 0;
  lab.look(kNotYet);
  CHECK((lab.kernel.runs > 0) == legacy);
  lab.look(kVerifySpaceEvery);
  CHECK(lab.kernel.runs > 0);
}

TEST_CASE("who changes rules all the time keeps none waiting that failed") {
  if (!test::own_network()) return;
  const TestNamespace one;
  const TestNamespace two;
  const TestNamespace bad;
  Lab lab;
  lab.kernel.where = io::NetNamespace::of_process(bad.pid())->id().inode;
  lab.spaces.want(of({by_process("a/one", 1, one.pid()), by_process("b/two", 2, two.pid()),
                      by_process("c/bad", 3, bad.pid())}));
  lab.look();
  lab.look(kNotYet);
  lab.kernel.runs = 0;
  for (int looks = 0; looks < 6; ++looks) {
    for (const TestNamespace* busy : {&one, &two}) {
      busy->inside([] { io::HostKernel().run({"iptables", "-N", "BUSY"}, "").value(); });
      busy->inside([] { io::HostKernel().run({"iptables", "-X", "BUSY"}, "").value(); });
    }
    // No time for more than one of them.
    lab.now = lab.now + seconds(10);
    lab.spaces.look(lab.now);
    lab.spaces.step(lab.now);
  }
  CHECK(lab.kernel.runs > 0);
}

TEST_CASE("who changes rules all the time keeps no other namespace from being compared") {
  if (!test::own_network()) return;
  const TestNamespace busy;
  const TestNamespace calm;
  Lab lab;
  lab.kernel.where = io::NetNamespace::of_process(calm.pid())->id().inode;
  lab.kernel.delay = std::chrono::milliseconds(1);
  lab.spaces.want(of({by_process("a/busy", 1, busy.pid()), by_process("b/calm", 2, calm.pid())}));
  lab.look();
  lab.look(kNotYet);
  lab.kernel.runs = 0;
  for (int looks = 0; looks < 3; ++looks) {
    busy.inside([] { io::HostKernel().run({"iptables", "-N", "BUSY"}, "").value(); });
    busy.inside([] { io::HostKernel().run({"iptables", "-X", "BUSY"}, "").value(); });
    lab.look(kNotYet);
  }
  CHECK(lab.kernel.runs > 0);
}

TEST_CASE("listeners inside at ports that nobody declares are told while they are there") {
  if (!test::own_network()) return;
  const TestNamespace place;
  Lab lab;
  const auto told = [&] {
    const auto all = lab.report().undeclared;
    return all.empty() ? std::string() : all.at("shop/web");
  };
  {
    const auto declared = listen_inside(place, "0.0.0.0:8080");
    const auto loopback = listen_inside(place, "127.0.0.1:7000");
    const auto stray = listen_inside(place, "0.0.0.0:7001");
    const auto other = listen_inside(place, "[::]:7002");
    auto wish = of({by_process("shop/web", 7, place.pid())});
    lab.spaces.want(wish);
    lab.look();
    CHECK(told() == "0.0.0.0:7001, [::]:7002");
    wish.exclude_ports = {7001};
    lab.spaces.want(wish);
    lab.look(kRested);
    CHECK(told() == "[::]:7002");
    wish.workloads[0].ports = {8080, 7002};
    lab.spaces.want(wish);
    lab.look(kRested);
    CHECK(told().empty());
    wish.workloads[0].ports = {8080};
    wish.exclude_ports.clear();
    lab.spaces.want(wish);
    lab.look(kRested);
    CHECK(told() == "0.0.0.0:7001, [::]:7002");
  }
  lab.look(kRested);
  CHECK(told().empty());
}

TEST_CASE("whoever takes over a namespace is not told of another's undeclared listeners") {
  if (!test::own_network()) return;
  const TestNamespace place;
  Lab lab;
  const auto stray = listen_inside(place, "0.0.0.0:7001");
  lab.spaces.want(of({by_process("shop/web", 7, place.pid())}));
  lab.look();
  REQUIRE(lab.report().undeclared.contains("shop/web"));
  auto wish = of({by_process("shop/other", 8, place.pid())});
  wish.workloads[0].ports = {7001};
  lab.spaces.want(wish);
  lab.look(Duration::zero());  // at rest
  CHECK(lab.report().undeclared.empty());
}

TEST_CASE("of listeners inside no more than the bound are looked at, and the text says so") {
  if (!test::own_network()) return;
  rlimit files{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &files) == 0);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 2 * kMaxSpaceListening);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &files) == 0);
  const TestNamespace place;
  std::vector<Descriptor> many;
  for (std::size_t i = 0; i <= kMaxSpaceListening; ++i) {
    many.push_back(listen_inside(place, "10.0.0.1:" + std::to_string(20'000 + i)));
  }
  Lab lab;
  lab.spaces.want(of({by_process("shop/web", 7, place.pid())}));
  lab.look();
  const std::string text = lab.report().undeclared.at("shop/web");
  CHECK(text.ends_with(" more of the first 4096 listeners inside"));
  CHECK(text.size() < 200);
}

TEST_CASE("a namespace where programs fail is tried ever more rarely, and after the others") {
  if (!test::own_network()) return;
  const TestNamespace bad;
  const TestNamespace good;
  Lab lab;
  lab.kernel.where = io::NetNamespace::of_process(bad.pid())->id().inode;
  auto wish = of({by_process("shop/bad", 1, bad.pid()), by_process("shop/good", 2, good.pid())});
  lab.spaces.want(wish);
  lab.look();
  const std::string failed = lab.report().failed.at("shop/bad");
  CHECK(failed.find("network namespace of process " + std::to_string(bad.pid()) + ": ") == 0);
  CHECK(failed.find("was killed; tried again after 1 s") != std::string::npos);
  CHECK(lab.report().failed.size() == 1);
  std::vector<int> tries{0};  // in which second
  for (int second = 1; second <= 200; ++second) {
    lab.kernel.runs = 0;
    lab.look();
    if (lab.kernel.runs > 0) tries.push_back(second);
  }
  const std::vector<int> pauses = {1, 2, 4, 8, 16, 32, 60, 60};
  REQUIRE(tries.size() >= pauses.size());
  for (std::size_t i = 0; i + 1 < tries.size(); ++i) {
    const int pause = tries[i + 1] - tries[i];
    CHECK((pause == pauses[i] || pause == pauses[i] + 1));  // and what the try itself took
  }
  CHECK(lab.report().failed.at("shop/bad").find("after 60 s") != std::string::npos);

  // Another wish for it changes nothing of that, nor keeps anybody waiting.
  wish.exclude_ports = {9};
  lab.spaces.want(wish);
  lab.kernel.runs = 0;
  lab.look();
  CHECK(lab.kernel.runs == 0);
  CHECK(lab.spaces.settled());

  lab.kernel.where = 0;
  lab.look(kLongestPause);
  CHECK(lab.report().failed.empty());
  CHECK(rules_in(bad).find("127.15.0.1:15001") != std::string::npos);
}

TEST_CASE("a namespace that is slow to look after is looked after more rarely, and says so") {
  if (!test::own_network()) return;
  const TestNamespace slow;
  Lab lab;
  lab.kernel.where = io::NetNamespace::of_process(slow.pid())->id().inode;
  lab.kernel.delay = kSlowTurn;
  lab.spaces.want(of({by_process("shop/slow", 1, slow.pid())}));
  lab.look();
  CHECK(lab.report().failed.empty());  // once may be anything
  lab.kernel.runs = 0;
  lab.look(kRest * kSlowTurn);
  CHECK(lab.kernel.runs == 0);
  lab.look(kSlowTurn + seconds(10));
  CHECK(lab.kernel.runs > 0);
  const std::string told = lab.report().failed.at("shop/slow");
  CHECK(told.find("network namespace of process") == 0);
  CHECK(told.find("which are in force") != std::string::npos);
  CHECK(told.find("only every 2") != std::string::npos);  // 22 s, and what programs took
  CHECK(told.find("only every 2 s") == std::string::npos);
  lab.look(kRest * kSlowTurn + seconds(10));
  CHECK(lab.report().failed.empty());
}

TEST_CASE("the end takes the rules out of every namespace, in two steps") {
  if (!test::own_network()) return;
  const TestNamespace one;
  const TestNamespace two;
  Lab lab;
  lab.spaces.want(of({by_process("shop/one", 1, one.pid()), by_process("shop/two", 2, two.pid())}));
  lab.look();
  CHECK(lab.marker.lies_there());
  const std::atomic<bool> enough = false;
  REQUIRE(lab.spaces.release(io::monotonic_now() + kReleaseWithin, enough));
  for (const TestNamespace* place : {&one, &two}) {
    CHECK(rules_in(*place).find("--to-destination") == std::string::npos);
    CHECK(rules_in(*place).find("MESHNODE_ANCHOR") != std::string::npos);
  }
  REQUIRE(lab.spaces.remove(io::monotonic_now() + kRemoveWithin));
  CHECK_FALSE(lab.marker.lies_there());
  for (const TestNamespace* place : {&one, &two}) {
    CHECK(rules_in(*place).find("MESHNODE") == std::string::npos);
  }
}

TEST_CASE("an end before the first look leaves the word of an earlier run for the next") {
  Lab lab;
  std::ofstream(lab.marker.path) << "";
  lab.spaces.want({});
  REQUIRE(lab.spaces.remove(io::monotonic_now() + kRemoveWithin));
  CHECK(lab.marker.lies_there());
}

TEST_CASE("at the end a namespace for which no time is left keeps its rules, and is counted") {
  if (!test::own_network()) return;
  const TestNamespace one;
  const TestNamespace two;
  Lab lab;
  lab.spaces.want(of({by_process("shop/one", 1, one.pid()), by_process("shop/two", 2, two.pid())}));
  lab.look();
  const std::atomic<bool> enough = true;
  const auto released = lab.spaces.release(io::monotonic_now() + kReleaseWithin, enough);
  REQUIRE_FALSE(released);
  CHECK(released.error().message.find("of 2 network namespaces 2 keep rules") == 0);
  CHECK_FALSE(lab.spaces.remove(io::monotonic_now()));
  CHECK(lab.marker.lies_there());
  CHECK(rules_in(one).find("127.15.0.1:15001") != std::string::npos);

  // One that fails keeps no other.
  lab.kernel.where = io::NetNamespace::of_process(one.pid())->id().inode;
  const auto removed = lab.spaces.remove(io::monotonic_now() + kRemoveWithin);
  REQUIRE_FALSE(removed);
  CHECK(removed.error().message.find("of 2 network namespaces 1 keep rules") == 0);
  CHECK(rules_in(two).find("MESHNODE") == std::string::npos);
  lab.kernel.where = 0;
}

TEST_CASE("rules of an earlier run are removed where no workload is any more, but not another's") {
  if (!test::own_network()) return;
  const TestNamespace ours;
  const TestNamespace theirs;
  for (const auto& [place, agent] :
       {std::pair(&ours, agent_mark()), std::pair(&theirs, std::string("1"))}) {
    leave_rules(*place, agent);
    REQUIRE(rules_in(*place).find("MESHNODE") != std::string::npos);
  }
  {
    Lab clean;
    clean.spaces.want({});
    clean.look();
    CHECK(rules_in(ours).find("MESHNODE") != std::string::npos);  // it was told of no earlier run
  }
  Lab lab;
  std::ofstream(lab.marker.path) << "";
  lab.spaces.want({});
  lab.look();
  CHECK(rules_in(ours).find("MESHNODE") == std::string::npos);
  CHECK(rules_in(theirs).find("MESHNODE") != std::string::npos);
}

TEST_CASE("what cannot be taken up holds back the sweep of what may be its own, no other's") {
  if (!test::own_network()) return;
  const TestNamespace busy;
  const TestNamespace nobodys;
  for (const TestNamespace* place : {&busy, &nobodys}) leave_rules(*place, agent_mark());
  const int taken = take_port(busy);
  const auto self = static_cast<std::uint32_t>(::getpid());
  std::vector<capture::Enrolled> broken{by_process("a/busy", 1, busy.pid()),
                                        by_process("a/own", 2, self),
                                        by_path("a/file", 3, "/etc/passwd")};
  Lab lab;
  std::ofstream(lab.marker.path) << "";

  SECTION("of its own, for as long as it takes") {
    lab.spaces.want(of(broken));
    lab.look();
    CHECK(rules_in(nobodys).find("MESHNODE") == std::string::npos);
    lab.look(kSweepHeldWithin);
    CHECK(rules_in(busy).find("MESHNODE") != std::string::npos);
    static_cast<void>(lab.spaces.remove(io::monotonic_now() + kRemoveWithin));
    CHECK(lab.marker.lies_there());
    lab.spaces.want({});
    lab.look();
    CHECK(rules_in(busy).find("MESHNODE") == std::string::npos);
  }
  SECTION("of all, when nobody knows where it is, for a minute") {
    const std::string loop = "/tmp/meshnode-loop-" + std::to_string(::getpid());
    REQUIRE(::symlink(loop.c_str(), loop.c_str()) == 0);
    broken.push_back(by_path("a/loop", 4, loop));
    lab.spaces.want(of(broken));
    lab.look();
    lab.look(kSweepHeldWithin - seconds(1));
    CHECK(rules_in(nobodys).find("MESHNODE") != std::string::npos);
    lab.look();
    ::unlink(loop.c_str());
    CHECK(rules_in(nobodys).find("MESHNODE") == std::string::npos);
    CHECK(rules_in(busy).find("MESHNODE") != std::string::npos);
  }
  ::close(taken);
}

TEST_CASE("no more than 256 namespaces are taken up, and the surplus says so") {
  Lab lab;
  std::vector<capture::Enrolled> many;
  for (std::uint16_t i = 1; i <= kMaxSpaces + 1; ++i) {
    many.push_back(by_path("shop/w" + std::to_string(i), i, "/nowhere/" + std::to_string(i)));
  }
  lab.spaces.want(of(many));
  lab.spaces.look(lab.now);
  CHECK(lab.report().waiting.size() == kMaxSpaces);
  REQUIRE(lab.report().failed.size() == 1);
  CHECK(lab.report().failed.at("shop/w257").find("more than 256") != std::string::npos);
}
