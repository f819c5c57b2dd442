#include "agent/overload.h"

#include <unistd.h>

#include <catch2/catch.hpp>
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

TEST_CASE("the watch sheds, asks for relief, tells of changes, and ends all that by itself") {
  test::FakeLoop loop;
  test::FakeStorage storage;
  storage.put(kStatm, statm(10));
  storage.put(kCount, "0\n");
  storage.put(kMax, "1000\n");
  proxy::Load load;
  telemetry::AgentMetrics metrics;
  std::vector<std::uint64_t> pressure;
  int changes = 0;
  std::uint64_t limit = 100 * kMiB;
  LoadWatch watch(loop, storage, load,
                  {[&limit] { return limit; },
                   [&pressure](std::uint64_t octets) { pressure.push_back(octets); },
                   [&changes] { ++changes; }});
  loop.advance(std::chrono::seconds(1));
  CHECK(changes == 0);
  storage.put(kStatm, statm(110));
  loop.advance(std::chrono::milliseconds(500));
  CHECK(changes == 1);
  CHECK(pressure == std::vector<std::uint64_t>{25 * kMiB});
  CHECK_FALSE(load.refusal(metrics, false).empty());
  CHECK(objects(watch.overload()) == std::vector<std::string>{"memory"});
  limit = 200 * kMiB;  // a reload
  loop.advance(std::chrono::milliseconds(500));
  CHECK(changes == 2);
  CHECK(load.refusal(metrics, true).empty());
  storage.put(kCount, "960\n");
  loop.advance(std::chrono::milliseconds(500));
  CHECK(load.refusal(metrics, false).empty());
  CHECK_FALSE(load.refusal(metrics, true).empty());
  storage.put(kCount, "10\n");
  loop.advance(std::chrono::milliseconds(500));
  CHECK(load.refusal(metrics, true).empty());
  CHECK(pressure.size() == 1);
  CHECK(changes == 4);
}
