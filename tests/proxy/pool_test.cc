#include "proxy/pool.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "proxy/mesh.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

namespace {

const SocketAddress kFar = at("10.0.0.2:15008");

/// One who asks the pool for a stream.
struct Asker final : PoolEvents {
  void on_tunnelled(std::unique_ptr<HboneStream> got) override {
    ++tunnelled;
    stream = std::move(got);
    stream->set_events(&ear);
    stream->start_reading();
  }
  void on_tunnel_refused(telemetry::Flag what, const Error& why) override {
    ++refused;
    flag = what;
    error = why.message;
  }
  Ear ear;
  std::unique_ptr<HboneStream> stream;
  std::unique_ptr<PoolRequest> request;
  int tunnelled = 0;
  int refused = 0;
  telemetry::Flag flag = telemetry::Flag::kNone;
  std::string error;
};

struct Mesh {
  Mesh() { far.listen(network, kFar); }
  ~Mesh() {
    askers.clear();
    far.streams.clear();
    loop.run();
    pool.reset();
    loop.run();
  }
  PoolKey key() const { return {credential, kReviews, kFar, ip("10.0.0.1")}; }
  Asker& ask(const PoolKey& key) {
    askers.push_back(std::make_unique<Asker>());
    askers.back()->request = pool->connect(key, request_to("10.0.0.2:9080"), askers.back().get());
    return *askers.back();
  }
  Asker& ask() { return ask(key()); }
  std::size_t opened() {
    return near.metrics.tunnels_total(telemetry::Direction::kOutbound).value();
  }
  std::int64_t open() { return near.metrics.tunnels_open(telemetry::Direction::kOutbound).value(); }

  FakeLoop loop;
  FakeNetwork network{loop};
  Recorders near;
  Recorders away;
  ProxyContext near_context{near.context(loop, network, nullptr)};
  ProxyContext far_context{away.context(loop, network, nullptr)};
  std::shared_ptr<const tls::Credential> credential = credential_for(kProduct);
  FarAgent far{far_context, credential_for(kReviews)};
  std::unique_ptr<Pool> pool = std::make_unique<Pool>(near_context);
  std::vector<std::unique_ptr<Asker>> askers;
};

}  // namespace

TEST_CASE("connections between the same two workloads share a tunnel") {
  Mesh mesh;
  for (int i = 0; i < 20; ++i) {
    mesh.ask();  // a burst, before there is any tunnel
  }
  CHECK(mesh.askers.front()->tunnelled == 0);  // never from within connect()
  mesh.loop.run();
  mesh.ask();
  mesh.loop.run();
  for (const auto& asker : mesh.askers) {
    CHECK(asker->tunnelled == 1);
    CHECK(asker->refused == 0);
  }
  CHECK(mesh.opened() == 1);
  CHECK(mesh.far.tunnels.size() == 1);
  REQUIRE(mesh.network.dials.size() == 1);
  CHECK(mesh.network.dials[0].to == kFar);
  CHECK(mesh.network.dials[0].source == ip("10.0.0.1"));
  CHECK_FALSE(mesh.network.dials[0].transparent);
  say(*mesh.askers[3]->stream, "three");
  mesh.loop.run();
  Ear ear;
  mesh.far.streams[3]->set_events(&ear);
  mesh.far.streams[3]->start_reading();
  CHECK(ear.data == "three");
}

TEST_CASE("the hundred and first stream opens a second tunnel") {
  Mesh mesh;
  for (std::uint32_t i = 0; i < kMaxStreamsOut; ++i) {
    mesh.ask();
  }
  mesh.loop.run();
  CHECK(mesh.opened() == 1);
  CHECK(mesh.far.streams.size() == kMaxStreamsOut);
  const Asker& next = mesh.ask();
  mesh.loop.run();
  CHECK(mesh.opened() == 2);
  CHECK(next.tunnelled == 1);
  // A place that comes free is used before a third tunnel is opened.
  mesh.askers[0]->stream.reset();
  mesh.loop.run();
  mesh.ask();
  mesh.loop.run();
  CHECK(mesh.opened() == 2);
  CHECK(mesh.askers.back()->tunnelled == 1);
}

TEST_CASE("many at once open as many tunnels as they need and no more") {
  Mesh mesh;
  for (std::uint32_t i = 0; i < 2 * kMaxStreamsOut + 1; ++i) {
    mesh.ask();
  }
  mesh.loop.run();
  for (const auto& asker : mesh.askers) {
    CHECK(asker->tunnelled == 1);
  }
  CHECK(mesh.opened() == 3);
}

TEST_CASE("a namespace that was left asks through new tunnels, and its streams live on") {
  Mesh mesh;
  PoolKey boxed = mesh.key();
  boxed.space = 9;
  const Asker& before = mesh.ask(boxed);
  const Asker& other = mesh.ask();
  mesh.loop.run();
  CHECK(mesh.opened() == 2);
  mesh.pool->leave(9);
  mesh.loop.run();
  const Asker& after = mesh.ask(boxed);
  const Asker& again = mesh.ask();
  mesh.loop.run();
  CHECK(mesh.opened() == 3);
  for (const Asker* asker : {&before, &other, &after, &again}) {
    CHECK(asker->tunnelled == 1);
    CHECK(asker->refused == 0);
  }
}

TEST_CASE("keys that differ in anything do not share a tunnel") {
  Mesh mesh;
  mesh.far.select([&](std::optional<std::string_view>) { return credential_for(kReviews); });
  mesh.far.listen(mesh.network, at("10.0.0.3:15008"));
  mesh.ask();
  PoolKey other = mesh.key();
  other.source.reset();
  mesh.ask(other);
  other = mesh.key();
  other.to = at("10.0.0.3:15008");
  mesh.ask(other);
  other = mesh.key();
  other.credential = credential_for(kProduct);  // renewed: equal identity, another certificate
  mesh.ask(other);
  other = mesh.key();
  other.space = 9;
  mesh.ask(other);
  mesh.loop.run();
  CHECK(mesh.opened() == 5);
  for (const auto& asker : mesh.askers) {
    CHECK(asker->tunnelled == 1);
  }
}

TEST_CASE("a tunnel that cannot be dialled fails all that wait with the port to look at") {
  Mesh mesh;
  PoolKey nowhere = mesh.key();
  nowhere.to = at("10.0.0.7:15008");
  std::string reason;
  std::string cause;
  SECTION("refused") {
    reason = "connection refused";
    cause = "is the far agent running, and does a firewall block port 15008?";
  }
  SECTION("no answer") {
    mesh.network.ignore(nowhere.to);
    reason = "timed out";
    cause = "most likely a firewall does not admit port 15008";
  }
  const Asker& first = mesh.ask(nowhere);
  const Asker& second = mesh.ask(nowhere);
  mesh.loop.advance(10s - 1ms);
  CHECK((reason == "timed out") == (first.refused == 0));
  mesh.loop.advance(1ms);
  for (const Asker* asker : {&first, &second}) {
    CHECK(asker->refused == 1);
    CHECK(asker->flag == telemetry::Flag::kConnect);
    CHECK_THAT(asker->error, Catch::Contains("no tunnel to 10.0.0.7:15008: ") &&
                                 Catch::Contains(reason) && Catch::Contains(cause));
  }
  REQUIRE(mesh.near.reports.failed.size() == 1);
  CHECK_THAT(mesh.near.reports.failed[0], Catch::Contains(reason));
  CHECK(mesh.network.dials.size() == 1);
  // Nothing stays behind: the next one dials anew.
  mesh.ask(nowhere);
  mesh.loop.run();
  CHECK(mesh.network.dials.size() == 2);
}

TEST_CASE("a tunnel whose far end proves another identity fails all that wait") {
  Mesh mesh;
  PoolKey wrong = mesh.key();
  wrong.expected = kProduct;
  const Asker& first = mesh.ask(wrong);
  const Asker& second = mesh.ask(wrong);
  mesh.loop.advance(2s);
  for (const Asker* asker : {&first, &second}) {
    CHECK(asker->refused == 1);
    CHECK(asker->flag == telemetry::Flag::kTlsFailure);
    CHECK_THAT(asker->error, Catch::Contains("no tunnel to 10.0.0.2:15008: ") &&
                                 Catch::Contains("the peer is " + kReviews.uri()));
  }
  CHECK(mesh.near.reports.failed.size() == 1);
  CHECK(mesh.open() == 0);
  CHECK(mesh.network.open_streams() == 0);
}

TEST_CASE("a far end that refuses our certificate is reported with its alert") {
  Mesh mesh;
  const tls::PemPair other = tls::make_root("example.internal", kNow - 1h, 24h).value();
  const tls::PemPair leaf = tls::issue_leaf(other, kProduct, kNow, 1h).value();
  // Trusted here, unknown there.
  PoolKey stranger = mesh.key();
  stranger.credential =
      tls::Credential::from_pem(leaf.certificate, leaf.key,
                                other.certificate + tls::test::root().certificate, kNow)
          .value();
  const Asker& asker = mesh.ask(stranger);
  mesh.loop.advance(3s);
  CHECK(asker.refused == 1);
  CHECK(asker.tunnelled == 0);
  CHECK(asker.flag == telemetry::Flag::kTlsFailure);
  CHECK_THAT(asker.error, Catch::Contains("no tunnel to 10.0.0.2:15008: "));
  REQUIRE_FALSE(mesh.near.reports.failed.empty());
  CHECK(mesh.open() == 0);
}

TEST_CASE("a tunnel lost before the answer is tried once more on a new one") {
  Mesh mesh;
  mesh.far.hold = true;
  const Asker& asker = mesh.ask();
  mesh.loop.run();
  REQUIRE(mesh.far.streams.size() == 1);
  mesh.far.streams.clear();
  SECTION("and then works") {
    mesh.far.hold = false;
    mesh.far.tunnels.clear();
    mesh.loop.run();
    CHECK(asker.tunnelled == 1);
    CHECK(asker.refused == 0);
    CHECK(mesh.opened() == 2);
  }
  SECTION("and no more than once") {
    mesh.far.tunnels.clear();
    mesh.loop.run();
    CHECK(asker.refused == 0);
    mesh.far.streams.clear();
    mesh.far.tunnels.clear();
    mesh.loop.run();
    CHECK(asker.refused == 1);
    CHECK(asker.tunnelled == 0);
    CHECK_FALSE(asker.error.empty());
    CHECK(mesh.opened() == 2);
  }
}

TEST_CASE("an answer other than 200 is not tried again") {
  Mesh mesh;
  struct Row {
    int status;
    telemetry::Flag flag;
  };
  const Row row = GENERATE(Row{400, telemetry::Flag::kConnect}, Row{401, telemetry::Flag::kDeny},
                           Row{503, telemetry::Flag::kConnect});
  mesh.far.status = row.status;
  const Asker& asker = mesh.ask();
  mesh.loop.run();
  CHECK(asker.refused == 1);
  CHECK(asker.flag == row.flag);
  CHECK_THAT(asker.error, Catch::Contains(std::to_string(row.status)));
  CHECK(mesh.far.requests.size() == 1);
  // The tunnel itself is as good as before.
  mesh.far.status = 200;
  CHECK(mesh.ask().refused == 0);
  mesh.loop.run();
  CHECK(mesh.askers.back()->tunnelled == 1);
  CHECK(mesh.opened() == 1);
}

TEST_CASE("a request may be withdrawn at any time") {
  Mesh mesh;
  SECTION("before anything has happened") {
    mesh.ask();
    mesh.askers.clear();
    mesh.loop.run();
    CHECK(mesh.far.requests.empty());
  }
  SECTION("while its tunnel is being dialled") {
    mesh.network.ignore(kFar);
    mesh.ask();
    mesh.loop.run();
    mesh.askers.clear();
    mesh.loop.advance(11s);
    CHECK(mesh.opened() == 0);
  }
  SECTION("while its answer is awaited") {
    mesh.far.hold = true;
    mesh.ask();
    mesh.loop.run();
    REQUIRE(mesh.far.streams.size() == 1);
    Ear ear;
    mesh.far.streams[0]->set_events(&ear);
    mesh.far.streams[0]->start_reading();
    mesh.askers.clear();
    mesh.loop.run();
    CHECK(ear.failed == 1);
    CHECK(mesh.far.tunnels.size() == 1);
    CHECK(mesh.far.tunnels[0]->open_streams() == 0);
  }
  // Others are not affected.
  mesh.network.stop_ignoring(kFar);
  mesh.far.hold = false;
  const Asker& later = mesh.ask();
  mesh.loop.run();
  CHECK(later.tunnelled == 1);
}

TEST_CASE("a tunnel that has been told to end gets no further stream") {
  Mesh mesh;
  Asker& first = mesh.ask();
  mesh.loop.run();
  REQUIRE(first.tunnelled == 1);
  mesh.far.tunnels[0]->drain();
  mesh.loop.run();
  const Asker& second = mesh.ask();
  mesh.loop.run();
  CHECK(second.tunnelled == 1);
  CHECK(mesh.opened() == 2);
  CHECK(mesh.open() == 2);
  // The first lives on with its stream and ends with it.
  mesh.loop.advance(1min);
  CHECK(first.ear.failed == 0);
  say(*first.stream, "still there?");
  mesh.loop.run();
  Ear ear;
  mesh.far.streams[0]->set_events(&ear);
  mesh.far.streams[0]->start_reading();
  CHECK(ear.data == "still there?");
  first.stream->shutdown();
  mesh.far.streams[0]->shutdown();
  mesh.loop.run();
  first.stream.reset();
  mesh.far.streams.erase(mesh.far.streams.begin());
  mesh.loop.advance(2s);
  CHECK(mesh.open() == 1);
  CHECK(mesh.far.tunnels.size() == 1);
}

TEST_CASE("tunnels that are only kept for their streams leave room for others") {
  Mesh mesh;
  for (std::size_t i = 0; i < kMaxTunnelsPerKey; ++i) {
    mesh.ask();
    mesh.loop.run();
    mesh.far.tunnels.back()->drain();
    mesh.loop.run();
  }
  const Asker& next = mesh.ask();
  mesh.loop.run();
  CHECK(next.tunnelled == 1);
  CHECK(mesh.askers.front()->ear.failed == 0);
  CHECK(mesh.opened() == kMaxTunnelsPerKey + 1);
  CHECK(mesh.near.reports.own_limits.empty());
}

TEST_CASE("who calls a far agent that said goodbye waits for it to come back") {
  Mesh mesh;
  mesh.ask();
  mesh.loop.run();
  mesh.askers.clear();
  mesh.far.streams.clear();
  mesh.loop.run();
  REQUIRE(mesh.far.tunnels.size() == 1);
  mesh.far.stop_accepting();
  mesh.far.tunnels[0]->drain();
  mesh.loop.run();
  const Asker& asker = mesh.ask();
  mesh.loop.advance(2s);
  CHECK(mesh.open() <= 1);  // the old one is over; a new one waits in the queue
  SECTION("a while, and then is served") {
    mesh.far.leave(mesh.network);
    mesh.loop.advance(8s);
    CHECK(asker.refused == 0);
    CHECK(mesh.near.reports.failed.empty());
    mesh.far.listen(mesh.network, kFar);
    mesh.loop.advance(kKnockAgainAfter);
    CHECK(asker.tunnelled == 1);
    // From here on it is as any other.
    mesh.far.tunnels[0]->shed();
    mesh.far.leave(mesh.network);
    mesh.loop.run();
    const Asker& late = mesh.ask();
    mesh.loop.run();
    CHECK(late.refused == 1);
  }
  SECTION("not for ever") {
    mesh.far.leave(mesh.network);
    mesh.loop.advance(15s - 2s - 1ms);
    CHECK(asker.refused == 0);
    mesh.loop.advance(1ms);
    CHECK(asker.refused == 1);
    CHECK_THAT(asker.error,
               Catch::Contains("said goodbye") && Catch::Contains("connection refused"));
    mesh.loop.advance(1s);
    const Asker& late = mesh.ask();
    mesh.loop.run();
    CHECK(late.refused == 1);
  }
  SECTION("also on a loop that had no tunnel to hear it") {
    mesh.far.leave(mesh.network);
    Pool other(mesh.near_context);
    Asker late;
    late.request = other.connect(mesh.key(), request_to("10.0.0.2:9080"), &late);
    mesh.loop.advance(5s);
    CHECK(late.refused == 0);
    mesh.far.listen(mesh.network, kFar);
    mesh.loop.advance(kKnockAgainAfter);
    CHECK(late.tunnelled == 1);
    late.request.reset();
    late.stream.reset();
    mesh.loop.run();
  }
  SECTION("unless it is there and refuses") {
    mesh.far.leave(mesh.network);
    mesh.far.select(tls::test::always(credential_for(kProduct)));
    mesh.far.listen(mesh.network, kFar);
    mesh.loop.advance(6s);
    CHECK(asker.refused == 1);
    CHECK(asker.flag == telemetry::Flag::kTlsFailure);
  }
}

TEST_CASE("programs that reset without end wear a tunnel out before they end it for others") {
  Mesh mesh;
  Asker& other = mesh.ask();
  mesh.loop.run();
  for (std::uint32_t i = 0; i < 2 * kResetBurst; ++i) {
    Asker& asker = mesh.ask();
    mesh.loop.run();
    REQUIRE(asker.tunnelled == 1);
    asker.stream.reset();
    mesh.loop.run();
    mesh.askers.pop_back();
    mesh.far.streams.resize(1);
  }
  mesh.loop.advance(kGoawayPause + 1s);
  CHECK(mesh.near.reports.limits.empty());
  CHECK(mesh.away.reports.limits.empty());
  CHECK(other.ear.failed == 0);
  say(*other.stream, "still there");
  mesh.loop.run();
  Ear ear;
  mesh.far.streams[0]->set_events(&ear);
  mesh.far.streams[0]->start_reading();
  CHECK(ear.data == "still there");
  CHECK(mesh.opened() == 3);
  CHECK(mesh.open() == 2);  // the first for the sake of that stream, and the newest
}

TEST_CASE("an idle pool keeps nothing") {
  Mesh mesh;
  Asker& asker = mesh.ask();
  mesh.loop.run();
  asker.stream.reset();
  mesh.loop.run();
  mesh.far.streams.clear();
  mesh.loop.advance(kIdleTunnel + kGoawayPause + 1s);
  CHECK(mesh.open() == 0);
  CHECK(mesh.network.open_streams() == 0);
  CHECK(mesh.loop.running_timers() == 0);
  CHECK(mesh.near.reports.failed.empty());
}

TEST_CASE("a drained pool ends its tunnels with their last stream") {
  Mesh mesh;
  Asker& busy = mesh.ask();
  mesh.loop.run();
  mesh.pool->drain();
  mesh.loop.advance(kGoawayPause);
  CHECK(mesh.open() == 1);
  CHECK(busy.ear.failed == 0);
  busy.stream->shutdown();
  mesh.far.streams[0]->shutdown();
  mesh.loop.run();
  busy.stream.reset();
  mesh.far.streams.clear();
  mesh.loop.advance(1s);
  CHECK(mesh.open() == 0);
  CHECK(mesh.network.open_streams() == 0);
}

TEST_CASE("draining does not fail a request whose tunnel is still being opened") {
  Mesh mesh;
  mesh.far.select([&](std::optional<std::string_view>) {
    mesh.pool->drain();  // the ClientHello has come, nothing has gone back yet
    return credential_for(kReviews);
  });
  const Asker& asker = mesh.ask();
  mesh.loop.advance(3s);
  CHECK(asker.tunnelled == 1);
  CHECK(asker.refused == 0);
}

TEST_CASE("a pool may be destroyed at any time") {
  Mesh mesh;
  SECTION("with a request that has just come") { mesh.ask(); }
  SECTION("with a tunnel being dialled") {
    mesh.network.ignore(kFar);
    mesh.ask();
    mesh.loop.run();
  }
  SECTION("with a request unanswered") {
    mesh.far.hold = true;
    mesh.ask();
    mesh.loop.run();
  }
  SECTION("with a stream open and one more wanted") {
    mesh.ask();
    mesh.loop.run();
    mesh.ask();
  }
  mesh.pool.reset();
  mesh.loop.advance(11s);
  mesh.askers.clear();
  mesh.loop.run();
  CHECK(mesh.network.open_streams() == 0);
}

TEST_CASE("a far agent that never answers is given up after 15 s") {
  Mesh mesh;
  mesh.far.hold = true;
  Asker& asker = mesh.ask();
  mesh.loop.advance(std::chrono::milliseconds(14'900));
  CHECK(asker.refused == 0);
  mesh.loop.advance(std::chrono::milliseconds(200));
  CHECK(asker.refused == 1);
  CHECK(asker.flag == telemetry::Flag::kConnect);
  CHECK(asker.error.find("15s") != std::string::npos);
  CHECK(mesh.near.hits(telemetry::Limit::kAnswerTimeout) == 1);
}

TEST_CASE("tunnels with one key are bounded, and what finds all of them full is refused") {
  Mesh mesh;
  // Whole tunnels at a time: the streams, not their number at once, are what is tested.
  for (std::size_t tunnel = 0; tunnel < kMaxTunnelsPerKey; ++tunnel) {
    for (std::uint32_t i = 0; i < kMaxStreamsOut; ++i) {
      mesh.ask();
    }
    mesh.loop.run();
  }
  CHECK(mesh.opened() == kMaxTunnelsPerKey);
  CHECK(mesh.askers.back()->tunnelled == 1);
  const Asker& beyond = mesh.ask();
  mesh.loop.run();
  CHECK(beyond.refused == 1);
  CHECK(beyond.flag == telemetry::Flag::kOverload);
  CHECK(beyond.error == "all 256 tunnels to 10.0.0.2:15008 are full");
  CHECK(mesh.opened() == kMaxTunnelsPerKey);
  CHECK(mesh.near.hits(telemetry::Limit::kTunnelsPerDestination) == 1);
  CHECK(mesh.near.reports.own_limits.size() == 1);
  mesh.askers.front().reset();
  const Asker& next = mesh.ask();
  mesh.loop.run();
  CHECK(next.tunnelled == 1);
}
