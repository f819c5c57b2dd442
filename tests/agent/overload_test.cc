#include "agent/overload.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "agent/load_watch.h"
#include "support/fake_clock.h"
#include "support/fake_storage.h"

using namespace meshnode;
using namespace meshnode::agent;
using proxy::Shed;

namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20U;
const char* const kStatm = "/proc/self/statm";
const char* const kCount = "/proc/sys/net/netfilter/nf_conntrack_count";
const char* const kMax = "/proc/sys/net/netfilter/nf_conntrack_max";

LoadReading memory(std::uint64_t used) { return {used, 1000 * kMiB, 0, 0}; }
LoadReading conntrack(std::uint64_t used) { return {0, 0, used, 1000}; }

std::string statm(std::uint64_t mib) {
  const auto pages = mib * kMiB / static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return "999999 " + std::to_string(pages + 7) + " 7 1 0 5 0\n";
}

std::vector<std::string> objects(const Overload& overload) {
  std::vector<std::string> found;
  for (const auto& condition : overload.conditions()) {
    found.push_back(condition.object);
  }
  return found;
}

}  // namespace

TEST_CASE("memory is shed from 90 % of its limit until it is below 75 %") {
  Overload overload;
  CHECK(overload.look(memory(900 * kMiB - 1)).shed == Shed::kNothing);
  const auto begun = overload.look(memory(900 * kMiB));
  CHECK(begun.shed == Shed::kMemory);
  CHECK(begun.changed);
  CHECK(begun.cut == 0);
  CHECK(objects(overload) == std::vector<std::string>{"memory"});
  CHECK(overload.conditions()[0].degrades);
  CHECK(overload.conditions()[0].message.find("900 of the 1000 MiB") != std::string::npos);
  const auto still = overload.look(memory(750 * kMiB));
  CHECK(still.shed == Shed::kMemory);
  CHECK_FALSE(still.changed);
  const auto over = overload.look(memory(750 * kMiB - 1));
  CHECK(over.shed == Shed::kNothing);
  CHECK(over.changed);
  CHECK(overload.conditions().empty());
  CHECK(overload.look(memory(899 * kMiB)).shed == Shed::kNothing);
}

TEST_CASE("at the limit of memory as much is cut as brings it to 85 %") {
  Overload overload;
  CHECK(overload.look(memory(1000 * kMiB - 1)).cut == 0);
  CHECK(overload.look(memory(1000 * kMiB)).cut == 150 * kMiB);
  CHECK(overload.look(memory(1200 * kMiB)).cut == 350 * kMiB);
  CHECK(overload.look(memory(999 * kMiB)).cut == 0);
}

TEST_CASE("memory that stays below its limit is not shed for ever") {
  Overload overload;
  const auto look = [&](unsigned times) {
    std::uint64_t cut = 0;
    for (unsigned i = 0; i < times; ++i) {
      cut += overload.look(memory(800 * kMiB)).cut;
    }
    return cut;
  };
  overload.look(memory(950 * kMiB));
  CHECK(look(kPatience - 2) == 0);
  CHECK(look(1) == 50 * kMiB);
  CHECK(look(kPatience - 1) == 0);
  CHECK(look(1) == 50 * kMiB);
  overload.look(memory(749 * kMiB));
  CHECK(look(kPatience) == 0);  // no longer shed
  overload.look(memory(950 * kMiB));
  CHECK(look(kPatience - 2) == 0);
}

TEST_CASE("the connection table is told from 90 %, shed from 95 %, and each ends below") {
  Overload overload;
  struct Step {
    std::uint64_t used;
    bool told;
    bool shed;
  };
  const std::vector<Step> steps = {{899, false, false}, {900, true, false},  {949, true, false},
                                   {950, true, true},   {901, true, true},   {899, true, false},
                                   {850, true, false},  {849, false, false}, {1000, true, true}};
  for (const Step& step : steps) {
    CAPTURE(step.used);
    CHECK(overload.look(conntrack(step.used)).shed ==
          (step.shed ? Shed::kConntrack : Shed::kNothing));
    CHECK(objects(overload).size() == (step.told ? 1 : 0));
  }
  CHECK(objects(overload) == std::vector<std::string>{"conntrack"});
  CHECK(overload.conditions()[0].degrades);
}

TEST_CASE("memory is shed before the connection table, and both are told") {
  Overload overload;
  CHECK(overload.look({95 * kMiB, 100 * kMiB, 96, 100}).shed == Shed::kMemory);
  CHECK(objects(overload) == std::vector<std::string>{"memory", "conntrack"});
}

TEST_CASE("what is not known is never reached") {
  Overload overload;
  CHECK(overload.look({1 << 30, 0, 1 << 30, 0}).shed == Shed::kNothing);
  CHECK(overload.conditions().empty());
}

TEST_CASE("memory's limit is what is asked for, else a quarter of the machine or of its cgroup") {
  test::FakeStorage storage;
  CHECK(read_load(storage, 0) == LoadReading{});
  storage.put("/proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");
  CHECK(read_load(storage, 0).memory_limit == 2048 * kMiB);
  CHECK(read_load(storage, 512 * kMiB).memory_limit == 512 * kMiB);
  storage.put("/proc/self/cgroup", "1:memory:/x\n0::/system.slice/meshnode.service\n");
  storage.put("/sys/fs/cgroup/system.slice/meshnode.service/memory.max", "max\n");
  CHECK(read_load(storage, 0).memory_limit == 2048 * kMiB);
  storage.put("/sys/fs/cgroup/system.slice/memory.max", "4294967296\n");
  CHECK(read_load(storage, 0).memory_limit == 1024 * kMiB);
  storage.put("/proc/self/cgroup", "0::/system.slice/meshnode.service\n");
  storage.put("/sys/fs/cgroup/system.slice/meshnode.service/memory.max", "1073741824\n");
  CHECK(read_load(storage, 0).memory_limit == 256 * kMiB);
  storage.put("/proc/meminfo", "MemTotal:        131072 kB\n");
  CHECK(read_load(storage, 0).memory_limit == 64 * kMiB);
  storage.put("/proc/self/cgroup", "0::/\n");
  CHECK(read_load(storage, 0).memory_limit == 64 * kMiB);
}

TEST_CASE("what is used is the process's own pages and the table's entries") {
  test::FakeStorage storage;
  storage.put(kStatm, statm(33));
  storage.put(kCount, "1234\n");
  storage.put(kMax, "262144\n");
  CHECK(read_load(storage, 64 * kMiB) == LoadReading{33 * kMiB, 64 * kMiB, 1234, 262144});
  storage.put(kStatm, "nonsense");
  CHECK(read_load(storage, 64 * kMiB).memory_used == 0);
}

namespace {

struct Watched {
  Watched() {
    storage.put(kStatm, statm(10));
    storage.put(kCount, "0\n");
    storage.put(kMax, "1000\n");
    LoadEvents events;
    events.max_memory = [this] { return limit; };
    events.give_back = [this] {
      ++given_back;
      if (after_giving_back > 0) {
        storage.put(kStatm, statm(after_giving_back));
      }
    };
    events.cut = [this](std::uint64_t octets) { cuts.push_back(octets); };
    events.on_change = [this] { ++changes; };
    watch = std::make_unique<LoadWatch>(loop, storage, load, std::move(events));
  }
  void wait(int millis) { loop.advance(std::chrono::milliseconds(millis)); }
  bool refuses(bool needs_entry) { return !load.refusal(metrics, needs_entry).empty(); }

  test::FakeLoop loop;
  test::FakeStorage storage;
  proxy::Load load;
  telemetry::AgentMetrics metrics;
  std::uint64_t limit = 100 * kMiB;
  std::uint64_t after_giving_back = 0;
  int given_back = 0;
  std::vector<std::uint64_t> cuts;
  int changes = 0;
  std::unique_ptr<LoadWatch> watch;
};

}  // namespace

TEST_CASE("the watch sheds, cuts, tells of changes, and ends all that by itself") {
  Watched node;
  node.wait(1000);
  CHECK(node.changes == 0);
  CHECK(node.given_back == 0);
  node.storage.put(kStatm, statm(110));
  node.wait(125);
  CHECK(node.changes == 1);
  CHECK(node.cuts == std::vector<std::uint64_t>{25 * kMiB});
  CHECK(node.refuses(false));
  CHECK(objects(node.watch->overload()) == std::vector<std::string>{"memory"});
  node.limit = 400 * kMiB;  // a reload
  node.wait(50);
  CHECK(node.changes == 2);
  CHECK_FALSE(node.refuses(true));
  node.storage.put(kCount, "960\n");
  node.wait(125);
  CHECK_FALSE(node.refuses(false));
  CHECK(node.refuses(true));
  node.storage.put(kCount, "10\n");
  node.wait(50);
  CHECK_FALSE(node.refuses(true));
  CHECK(node.cuts.size() == 1);
  CHECK(node.changes == 4);
}

TEST_CASE("near a limit the watch looks fifty times a second") {
  Watched node;
  node.storage.put(kStatm, statm(50));
  node.wait(125);
  node.storage.put(kStatm, statm(95));
  node.wait(20);
  CHECK(node.refuses(false));
}

TEST_CASE("what is taken while memory that was cut for comes back is cut for at the next look") {
  Watched node;
  node.storage.put(kStatm, statm(110));
  node.wait(125);
  REQUIRE(node.cuts.size() == 1);
  node.storage.put(kStatm, statm(116));  // a sixteenth of 100 is 6.25
  node.wait(20);
  CHECK(node.cuts.size() == 1);
  node.storage.put(kStatm, statm(117));
  node.wait(20);
  CHECK(node.cuts.size() == 2);
  node.wait(80);
  CHECK(node.cuts.size() == 2);
}

TEST_CASE("a limit that is not known is never near") {
  Watched node;
  node.storage.put(kStatm, statm(10));
  node.storage.put(kCount, "0\n");
  node.storage.put(kMax, "0\n");
  node.wait(125);
  node.storage.put(kStatm, statm(95));
  node.wait(75);
  CHECK_FALSE(node.refuses(false));
  node.wait(50);
  CHECK(node.refuses(false));
}

TEST_CASE("what is to be freed falls to the loops that keep the largest connections") {
  using Shares = std::vector<std::size_t>;
  CHECK(share_out({{100, 700}, {300}, {}}, 650) == Shares{700, 0, 0});
  CHECK(share_out({{100, 700}, {300}, {}}, 750) == Shares{700, 300, 0});
  CHECK(share_out({{100, 700}, {300}, {}}, 5000) == Shares{800, 300, 0});
  CHECK(share_out({{400, 400}, {100}}, 800) == Shares{800, 0});
  CHECK(share_out({{}, {}}, 10) == Shares{0, 0});
  CHECK(total_of({{100, 700}, {300}, {}}) == 1100);
}

TEST_CASE("memory that was not given back neither begins nor prolongs shedding") {
  Watched node;
  node.after_giving_back = 60;
  node.storage.put(kStatm, statm(95));
  node.wait(125);
  CHECK(node.given_back == 1);
  node.storage.put(kStatm, statm(95));
  node.wait(20);
  CHECK(node.given_back == 2);
  CHECK_FALSE(node.refuses(false));
  node.after_giving_back = 95;
  node.storage.put(kStatm, statm(95));
  node.wait(20);
  CHECK(node.given_back == 3);
  CHECK(node.refuses(false));
  node.wait(80);
  CHECK(node.given_back == 3);
  node.wait(5000);
  CHECK(node.cuts == std::vector<std::uint64_t>{20 * kMiB});
}

TEST_CASE("only what is used after free memory was given back is shed or cut for") {
  Watched node;
  node.after_giving_back = 60;
  node.storage.put(kStatm, statm(120));
  node.wait(125);
  CHECK(node.given_back == 1);
  CHECK(node.cuts.empty());
  CHECK_FALSE(node.refuses(false));
  node.after_giving_back = 110;
  node.storage.put(kStatm, statm(120));
  node.wait(20);
  CHECK(node.cuts == std::vector<std::uint64_t>{25 * kMiB});
  // What it was cut for is not back yet, and is not cut for again.
  node.wait(50);
  CHECK(node.given_back == 2);
  CHECK(node.cuts.size() == 1);
  node.wait(50);
  CHECK(node.given_back == 3);
  CHECK(node.cuts.size() == 2);
}
