/// Connections whose far side is not there yet, and callers that do not wait for it.
#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <string>

#include "proxy/caller.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

namespace {

constexpr std::size_t kEarly = std::size_t{3} << 20U;

/// A CONNECT whose dial is under way, with early data behind it.
struct Slow {
  Slow() {
    world.network.ignore(at("10.0.0.2:9080"));
    world.open();
    caller = std::make_unique<Caller>(world, "10.0.0.8");
    caller->ask();
    const std::string early(kEarly, 'x');
    const Bytes piece = as_bytes(early);
    caller->stream->write({&piece, 1});
    world.loop.run();
    REQUIRE(world.dials("10.0.0.2:9080").size() == 1);
    REQUIRE_FALSE(world.b.proxy->idle());
  }
  World world;
  std::unique_ptr<Caller> caller;
};

}  // namespace

TEST_CASE("a request that is reset while its way is being opened leaves nothing behind") {
  Slow slow;
  SECTION("the stream") { slow.caller->stream->reset(); }
  SECTION("the tunnel") { slow.caller.reset(); }
  slow.world.loop.run();
  CHECK(slow.world.b.proxy->holdings().empty());
  CHECK(slow.world.b.proxy->idle());
  REQUIRE(slow.world.b.refusals().size() == 1);
  CHECK(slow.world.b.refusals()[0].flag == telemetry::Flag::kConnect);
  // The dial is gone with it: nothing is reported when its time is up.
  slow.world.loop.advance(std::chrono::seconds(20));
  CHECK(slow.world.b.refusals().size() == 1);
}

TEST_CASE("what is sent ahead of an open way counts as memory, and is cut for it") {
  Slow slow;
  const auto holdings = slow.world.b.proxy->holdings();
  REQUIRE(holdings.size() == 1);
  CHECK(holdings[0] >= kEarly);
  slow.world.b.proxy->relieve(kEarly);
  slow.world.loop.run();
  CHECK(slow.world.b.proxy->holdings().empty());
  REQUIRE(slow.world.b.refusals().size() == 1);
  CHECK(slow.world.b.refusals()[0].flag == telemetry::Flag::kOverload);
  REQUIRE(slow.caller->answer.refused);
  CHECK(slow.caller->answer.status == 503);
  CHECK(slow.world.b.recorders.metrics.refused(telemetry::Refusal::kLimit).value() == 1);
}

TEST_CASE("a request whose tunnel ends for a limit was not its caller's to give up") {
  Slow slow;
  auto& b = slow.world.b;
  const auto waiting = std::move(slow.caller->stream);
  while (b.recorders.hits(telemetry::Limit::kResets) == 0) {
    slow.caller->ask();
    slow.caller->stream->reset();
    slow.world.loop.run();
  }
  CHECK(b.proxy->holdings().empty());
  CHECK(std::count_if(b.refusals().begin(), b.refusals().end(), [](const auto& refusal) {
          return refusal.flag == telemetry::Flag::kOverload &&
                 refusal.error.starts_with("it ended before its way was open: streams reset");
        }) == 1);
}

TEST_CASE("a program that is gone before its way is open is waited for no longer") {
  World world;
  world.open();
  const bool tunnelled = GENERATE(true, false);
  const std::string to = tunnelled ? "10.0.0.2:9080" : "10.0.0.1:7070";
  const std::string dialled = tunnelled ? "10.0.0.2:15008" : to;
  world.network.ignore(at(dialled));
  auto program = world.a.call(to);
  world.loop.run();
  REQUIRE(world.dials(dialled).size() == 1);
  program->reset();
  world.loop.run();
  CHECK(world.a.proxy->idle());
  REQUIRE(world.a.refusals().size() == 1);
  world.loop.advance(std::chrono::seconds(30));
  CHECK(world.a.refusals().size() == 1);
}
