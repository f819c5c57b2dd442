#include "proxy/pipe.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>

#include "proxy/mesh.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

namespace {

constexpr std::size_t kBuffered = std::size_t{512} * 1024;  // a direction, by contract

/// A pipe that lives as its owner would have it live: retired when it is done.
struct Owner final : PipeEvents {
  struct Held final : Retirable {
    std::unique_ptr<Pipe> pipe;
  };
  explicit Owner(Executor& on) : executor(on) {}
  void on_piped(bool from_caller, std::size_t bytes) override {
    (from_caller ? sent : received) += bytes;
  }
  void on_pipe_done(const std::string& what, bool was_silent) override {
    silent = was_silent;
    ++done;
    error = what;
    auto held = std::make_unique<Held>();
    held->pipe = std::move(pipe);
    executor.retire(std::move(held));
  }
  Executor& executor;
  std::unique_ptr<Pipe> pipe;
  std::size_t sent = 0;
  std::size_t received = 0;
  int done = 0;
  bool silent = false;
  std::string error;
};

/// A caller and a callee with a pipe between them.
struct Joined {
  explicit Joined(meshnode::test::SocketShape shape = {}) {
    network.shape = shape;
    auto [outer, inner] = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:80"), {}});
    auto [near, far] = network.pair({at("10.0.0.2:4001"), at("10.0.0.3:80"), {}});
    caller = std::make_unique<FakePeer>(std::move(outer));
    callee = std::make_unique<FakePeer>(std::move(far));
    owner.pipe = std::make_unique<Pipe>(loop, std::move(inner), std::move(near),
                                        static_cast<PipeEvents*>(&owner), kHalfClosedSilence);
    owner.pipe->start();
    loop.run();
  }
  /// Nothing is left of the pipe once it is done.
  void check_over() {
    loop.run();
    CHECK(owner.done == 1);
    CHECK(network.open_streams() == 2);
  }
  FakeLoop loop;
  FakeNetwork network{loop};
  Owner owner{loop};
  std::unique_ptr<FakePeer> caller;
  std::unique_ptr<FakePeer> callee;
};

meshnode::test::SocketShape shape(std::size_t capacity, std::size_t max_read) {
  meshnode::test::SocketShape made;
  made.capacity = capacity;
  made.max_read = max_read;
  return made;
}

}  // namespace

TEST_CASE("a pipe carries bytes both ways and counts them") {
  Joined joined;
  joined.caller->send("question");
  joined.callee->send("the answer");
  joined.loop.run();
  CHECK(joined.callee->received == "question");
  CHECK(joined.caller->received == "the answer");
  CHECK(joined.owner.sent == 8);
  CHECK(joined.owner.received == 10);
  CHECK(joined.owner.done == 0);
}

TEST_CASE("each direction of a pipe ends by itself") {
  const bool caller_first = GENERATE(true, false);
  Joined joined;
  FakePeer& first = caller_first ? *joined.caller : *joined.callee;
  FakePeer& second = caller_first ? *joined.callee : *joined.caller;
  first.send("last words");
  first.finish();
  joined.loop.run();
  CHECK(second.received == "last words");
  CHECK(second.ended);
  CHECK_FALSE(first.ended);
  CHECK(joined.owner.done == 0);
  second.send("still here");
  joined.loop.run();
  CHECK(first.received == "still here");
  second.finish();
  joined.loop.run();
  CHECK(first.ended);
  CHECK_FALSE(first.error);
  CHECK_FALSE(second.error);
  CHECK(joined.owner.error.empty());
  joined.check_over();
}

TEST_CASE("a reset on one side of a pipe is a reset on the other") {
  const bool caller_first = GENERATE(true, false);
  Joined joined;
  FakePeer& first = caller_first ? *joined.caller : *joined.callee;
  FakePeer& second = caller_first ? *joined.callee : *joined.caller;
  first.send("half a messa");
  joined.loop.run();
  first.reset();
  joined.loop.run();
  CHECK(second.received == "half a messa");
  REQUIRE(second.error);
  CHECK(second.error->code == ErrorCode::kReset);
  CHECK_FALSE(second.ended);
  CHECK_FALSE(joined.owner.error.empty());
  joined.check_over();
}

TEST_CASE("a reset after one direction has ended still crosses a pipe") {
  Joined joined;
  joined.caller->finish();
  joined.loop.run();
  CHECK(joined.callee->ended);
  joined.callee->reset();
  joined.loop.run();
  REQUIRE(joined.caller->error);
  joined.check_over();
}

TEST_CASE("both sides of a pipe may fail at the same time") {
  Joined joined;
  joined.caller->reset();
  joined.callee->reset();
  joined.check_over();
}

TEST_CASE("a slow receiver bounds what a pipe holds and loses nothing") {
  // Reads as large as the product's.
  const std::size_t read =
      GENERATE(std::size_t{1000}, std::size_t{64} * 1024, std::size_t{16} * 16'384 - 9);
  Joined joined(shape(std::size_t{256} * 1024, read));
  const std::string all = pattern(std::size_t{4} << 20U);
  joined.callee->pause();
  joined.caller->send(all);
  joined.loop.run();
  // Taken from the caller, and not yet in the callee's socket buffers.
  const std::size_t held = joined.owner.sent - std::size_t{256} * 1024;
  CHECK(held > kPauseAbove);
  CHECK(held <= kBuffered);
  joined.caller->finish();
  joined.loop.run();
  CHECK_FALSE(joined.callee->ended);
  joined.callee->resume();
  joined.loop.run();
  CHECK(joined.callee->received == all);
  CHECK(joined.callee->ended);
  CHECK(joined.owner.sent == all.size());
  joined.callee->finish();
  joined.check_over();
}

TEST_CASE("a stalled direction of a pipe does not hold the other up") {
  Joined joined(shape(64 * 1024, 16 * 1024));
  joined.callee->pause();
  joined.caller->send(pattern(std::size_t{1} << 20U));
  joined.loop.run();
  const std::string answer = pattern(300'000);
  joined.callee->send(answer);
  joined.loop.run();
  CHECK(joined.caller->received == answer);
}

TEST_CASE("the other side's reset ends a pipe that waits for it") {
  Joined joined(shape(64 * 1024, 16 * 1024));
  joined.callee->pause();
  joined.caller->send(pattern(std::size_t{1} << 20U));
  joined.loop.run();
  joined.callee->reset();
  joined.loop.run();
  REQUIRE(joined.caller->error);
  joined.check_over();
}

TEST_CASE("bytes cross a pipe one by one") {
  Joined joined(shape(3, 1));
  const std::string all = pattern(500);
  joined.caller->send(all);
  joined.caller->finish();
  joined.callee->send(all);
  joined.callee->finish();
  joined.loop.run();
  CHECK(joined.callee->received == all);
  CHECK(joined.caller->received == all);
  joined.check_over();
}

TEST_CASE("an aborted pipe resets both sides and says nothing") {
  Joined joined;
  joined.owner.pipe->abort();
  joined.owner.pipe->abort();
  joined.loop.run();
  CHECK(joined.caller->error);
  CHECK(joined.callee->error);
  CHECK(joined.owner.done == 0);
}

TEST_CASE("what came before a pipe started is carried") {
  FakeLoop loop;
  FakeNetwork network(loop);
  auto [outer, inner] = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:80"), {}});
  auto [near, far] = network.pair({at("10.0.0.2:4001"), at("10.0.0.3:80"), {}});
  FakePeer caller(std::move(outer));
  FakePeer callee(std::move(far));
  caller.send("early");
  caller.finish();
  callee.send("server first");
  loop.run();
  Owner owner(loop);
  owner.pipe = std::make_unique<Pipe>(loop, std::move(inner), std::move(near),
                                      static_cast<PipeEvents*>(&owner), kHalfClosedSilence);
  owner.pipe->start();
  loop.run();
  CHECK(callee.received == "early");
  CHECK(callee.ended);
  CHECK(caller.received == "server first");
  callee.finish();
  loop.run();
  CHECK(owner.done == 1);
}

TEST_CASE("a side that was reset before a pipe started resets the other") {
  const bool caller_first = GENERATE(true, false);
  FakeLoop loop;
  FakeNetwork network(loop);
  auto [outer, inner] = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:80"), {}});
  auto [near, far] = network.pair({at("10.0.0.2:4001"), at("10.0.0.3:80"), {}});
  FakePeer caller(std::move(outer));
  FakePeer callee(std::move(far));
  (caller_first ? caller : callee).reset();
  loop.run();
  Owner owner(loop);
  owner.pipe = std::make_unique<Pipe>(loop, std::move(inner), std::move(near),
                                      static_cast<PipeEvents*>(&owner), kHalfClosedSilence);
  owner.pipe->start();
  loop.run();
  CHECK((caller_first ? callee : caller).error);
  CHECK(owner.done == 1);
}

TEST_CASE("half-closed and silent is reset after 55 s, not a moment before") {
  Joined joined;
  joined.caller->finish();
  joined.loop.run();
  joined.loop.advance(std::chrono::milliseconds(54'999));
  CHECK(joined.owner.done == 0);
  joined.loop.advance(std::chrono::milliseconds(1));
  CHECK(joined.owner.error == "half-closed and silent for 55s");
  CHECK(joined.owner.silent);
  joined.check_over();
}

TEST_CASE("half-closed with bytes still coming lives on") {
  Joined joined;
  joined.caller->finish();
  joined.loop.run();
  for (int i = 0; i < 5; ++i) {
    joined.loop.advance(std::chrono::seconds(50));
    joined.callee->send("more");
    joined.loop.run();
  }
  CHECK(joined.owner.done == 0);
  joined.callee->finish();
  joined.check_over();
  CHECK(joined.owner.error.empty());
}

TEST_CASE("half-closed towards a reader that takes its time lives on until it has everything") {
  Joined joined(shape(1000, 1000));
  joined.caller->finish();
  joined.caller->pause();
  joined.callee->send(std::string(5000, 'x'));
  joined.callee->finish();
  joined.loop.run();
  joined.loop.advance(10 * kHalfClosedSilence);
  CHECK(joined.owner.done == 0);
  joined.caller->resume();
  joined.loop.run();
  CHECK(joined.caller->received.size() == 5000);
  CHECK(joined.caller->ended);
  CHECK(joined.owner.error.empty());
  joined.check_over();
}

TEST_CASE("a connection half-closed and silent is reset after 55 seconds") {
  const bool caller_first = GENERATE(true, false);
  Joined joined;
  FakePeer& first = caller_first ? *joined.caller : *joined.callee;
  FakePeer& second = caller_first ? *joined.callee : *joined.caller;
  joined.loop.advance(10min);
  first.finish();
  joined.loop.advance(kHalfClosedSilence - 1ms);
  second.send("still at it");
  joined.loop.advance(kHalfClosedSilence - 1ms);
  CHECK(first.received == "still at it");
  CHECK(joined.owner.done == 0);
  joined.loop.advance(1ms);
  CHECK(first.error);
  CHECK(second.error);
  CHECK_THAT(joined.owner.error, Catch::Contains("55s"));
  joined.check_over();
  CHECK(joined.loop.running_timers() == 0);
}
