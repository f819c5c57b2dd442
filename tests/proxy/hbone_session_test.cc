#include "proxy/hbone_session.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <deque>
#include <memory>
#include <string>
#include <vector>

using namespace meshnode;
using namespace meshnode::proxy;

namespace {

/// Records what a stream hears.
struct Ear final : StreamEvents {
  std::string data;
  bool ended = false;
  bool failed = false;
  int drained = 0;
  Stream* stop_after_each = nullptr;
  void on_data(MutableBytes bytes) override {
    data += as_text(bytes);
    if (stop_after_each != nullptr) {
      stop_after_each->stop_reading();
    }
  }
  void on_end() override { ended = true; }
  void on_error(const Error&) override { failed = true; }
  void on_drained() override { ++drained; }
};

struct Answer final : ConnectEvents {
  bool accepted = false;
  int status = -1;
  bool unprocessed = false;
  void on_connect_accepted() override { accepted = true; }
  void on_connect_refused(int code, bool fresh, const Error&) override {
    status = code;
    unprocessed = fresh;
  }
};

/// One end: a session whose output is kept until the test carries it over.
struct End final : HboneEvents {
  explicit End(Role role) : session(role, this) {}
  std::string out;
  std::vector<std::size_t> outputs;
  bool open = true;
  bool one_output = false;  // shuts after each
  bool waiting = false;
  bool pong = false;
  std::vector<std::string> malformed;
  std::vector<std::string> excesses;
  std::vector<telemetry::Limit> limits;
  std::vector<std::unique_ptr<HboneStream>> accepted;
  std::vector<ConnectRequest> requests;
  Status status;
  HboneSession session;

  bool writable() const override { return open; }
  void on_output(MutableBytes frames) override {
    out += as_text(frames);
    outputs.push_back(frames.size());
    open = open && !one_output;
  }
  void on_output_waiting() override { waiting = true; }
  void on_output_done() override {}
  void on_connect(std::unique_ptr<HboneStream> stream, ConnectRequest request) override {
    accepted.push_back(std::move(stream));
    requests.push_back(std::move(request));
  }
  void on_malformed(const std::string& reason) override { malformed.push_back(reason); }
  void on_excess(telemetry::Limit limit, const std::string& reason) override {
    limits.push_back(limit);
    excesses.push_back(reason);
  }
  void on_limit_hit(telemetry::Limit limit) override { limits.push_back(limit); }
  void on_ping_answered() override { pong = true; }
  int resets = 0;
  void on_reset_counted() override { ++resets; }
  int idle_frames = 0;
  void on_idle_frame() override { ++idle_frames; }
  void on_streams_changed() override {}

  void take(const std::string& bytes) {
    std::vector<std::uint8_t> buffer(kReadHeadroom);
    buffer.insert(buffer.end(), bytes.begin(), bytes.end());
    if (status) {
      status = session.receive(MutableBytes(buffer).subspan(kReadHeadroom));
    }
  }
};

struct Pair {
  End client{Role::kClient};
  End server{Role::kServer};
  void settle() {
    for (int i = 0; i < 1000; ++i) {
      client.session.pump();
      server.session.pump();
      if (client.out.empty() && server.out.empty()) {
        return;
      }
      const std::string to_server = std::exchange(client.out, {});
      const std::string to_client = std::exchange(server.out, {});
      if (!to_server.empty()) {
        server.take(to_server);
      }
      if (!to_client.empty()) {
        client.take(to_client);
      }
    }
    FAIL("the sessions never come to rest");
  }
};

ConnectRequest request_to(const std::string& authority) {
  ConnectRequest request;
  request.authority = authority;
  request.forwarded = "for=\"10.0.0.1:1234\"";
  return request;
}

/// An accepted stream with both ears on.
struct Joined {
  explicit Joined(Pair& pair) {
    near = pair.client.session.connect(request_to("10.0.0.2:80"), &answer);
    pair.settle();
    REQUIRE(pair.server.accepted.size() == 1);
    far = std::move(pair.server.accepted.front());
    pair.server.accepted.clear();
    far->set_events(&far_ear);
    far->start_reading();
    far->respond(200);
    pair.settle();
    REQUIRE(answer.accepted);
    near->set_events(&near_ear);
    near->start_reading();
  }
  Answer answer;
  Ear near_ear;
  Ear far_ear;
  std::unique_ptr<HboneStream> near;
  std::unique_ptr<HboneStream> far;
};

void say(HboneStream& stream, const std::string& text) {
  const Bytes piece = as_bytes(text);
  stream.write({&piece, 1});
}

/// As io does: data in a buffer with headroom.
void forward(HboneStream& stream, const std::string& text) {
  std::vector<std::uint8_t> buffer(kReadHeadroom);
  buffer.insert(buffer.end(), text.begin(), text.end());
  stream.forward(MutableBytes(buffer).subspan(kReadHeadroom));
}

std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>((i * 31 + i / 251) & 0xff);
  }
  return text;
}

}  // namespace

TEST_CASE("a CONNECT carries its authority and forwarded field and is answered") {
  Pair pair;
  Joined joined(pair);
  CHECK(pair.server.requests.front().authority == "10.0.0.2:80");
  CHECK(pair.server.requests.front().forwarded == "for=\"10.0.0.1:1234\"");
}

TEST_CASE("bytes pass both ways, small and large, whole and in order") {
  Pair pair;
  Joined joined(pair);
  const std::string large = pattern(1'000'000);
  say(*joined.near, "hello");
  forward(*joined.near, large);
  pair.settle();
  CHECK(joined.far_ear.data == "hello" + large);
  forward(*joined.far, large);
  say(*joined.far, "bye");
  pair.settle();
  CHECK(joined.near_ear.data == large + "bye");
}

TEST_CASE("a full read and its frame header fill sixteen TLS records exactly") {
  Pair pair;
  Joined joined(pair);
  pair.client.outputs.clear();
  forward(*joined.near, pattern(kMaxPayload));
  REQUIRE(pair.client.outputs.size() == 1);
  CHECK(pair.client.outputs.front() == std::size_t{16} * 16'384);
}

TEST_CASE("small pieces of different streams leave two by two, the odd one when asked for") {
  Pair pair;
  Joined first(pair);
  Joined second(pair);
  Joined third(pair);
  pair.client.outputs.clear();
  pair.client.waiting = false;
  forward(*first.near, "one");
  CHECK(pair.client.outputs.empty());
  CHECK(pair.client.waiting);
  forward(*second.near, "two");
  CHECK(pair.client.outputs.size() == 1);
  forward(*third.near, "three");
  CHECK(pair.client.outputs.size() == 1);
  pair.settle();
  CHECK(pair.client.outputs.size() == 2);
  CHECK(first.far_ear.data == "one");
  CHECK(second.far_ear.data == "two");
  CHECK(third.far_ear.data == "three");
}

TEST_CASE("each direction ends by itself and the other goes on") {
  Pair pair;
  Joined joined(pair);
  say(*joined.near, "question");
  joined.near->shutdown();
  pair.settle();
  CHECK(joined.far_ear.data == "question");
  CHECK(joined.far_ear.ended);
  CHECK_FALSE(joined.near_ear.ended);
  CHECK(joined.near->queued() == 0);
  say(*joined.far, "answer");
  joined.far->shutdown();
  pair.settle();
  CHECK(joined.near_ear.data == "answer");
  CHECK(joined.near_ear.ended);
  CHECK_FALSE(joined.near_ear.failed);
  CHECK_FALSE(joined.far_ear.failed);
}

TEST_CASE("an end is counted as queued until it has left, then drained is told") {
  Pair pair;
  Joined joined(pair);
  pair.client.open = false;
  joined.near->shutdown();
  CHECK(joined.near->queued() == 1);
  CHECK(joined.near_ear.drained == 0);
  pair.client.open = true;
  pair.settle();
  CHECK(joined.near->queued() == 0);
  CHECK(joined.near_ear.drained == 1);
}

TEST_CASE("the last end tells drained although nghttp2 closes the stream with it") {
  Pair pair;
  Joined joined(pair);
  joined.far->shutdown();
  pair.settle();
  joined.near->shutdown();
  pair.settle();
  CHECK(joined.near_ear.drained == 1);
  CHECK(joined.near->queued() == 0);
}

TEST_CASE("a reset arrives as an error") {
  Pair pair;
  Joined joined(pair);
  joined.near->reset();
  pair.settle();
  CHECK(joined.far_ear.failed);
  CHECK_FALSE(joined.far_ear.ended);
  CHECK(pair.client.session.open_streams() == 0);
  CHECK(pair.server.session.open_streams() == 0);
}

TEST_CASE("a stream dropped with data still queued leaves nothing behind") {
  Pair pair;
  Joined joined(pair);
  pair.client.open = false;
  forward(*joined.near, pattern(100'000));
  joined.near.reset();
  pair.client.open = true;
  pair.settle();
  CHECK(joined.far_ear.failed);
  CHECK(pair.client.status.has_value());
  Joined again(pair);
  say(*again.near, "still alive");
  pair.settle();
  CHECK(again.far_ear.data == "still alive");
}

TEST_CASE("a reader that stops holds at most one stream window, and loses nothing") {
  Pair pair;
  Joined joined(pair);
  joined.far->stop_reading();
  const std::string all = pattern(6U << 20U);
  forward(*joined.near, all);
  pair.settle();
  CHECK(joined.far_ear.data.empty());
  CHECK(joined.near->queued() == all.size() - kStreamWindow);
  joined.far->start_reading();
  pair.settle();
  CHECK(joined.far_ear.data == all);
  CHECK(joined.near->queued() == 0);
}

TEST_CASE("no more is put out than one frame beyond what is welcome") {
  Pair pair;
  Joined joined(pair);
  const std::string all = pattern(2U << 20U);
  pair.client.open = false;
  forward(*joined.near, all);
  pair.client.outputs.clear();
  pair.client.one_output = true;
  for (std::size_t frames = 1; joined.near->queued() > 0; ++frames) {
    pair.client.open = true;
    pair.client.session.pump();
    REQUIRE(pair.client.outputs.size() == frames);
  }
  pair.client.one_output = false;
  pair.client.open = true;
  pair.settle();
  CHECK(joined.far_ear.data == all);
}

TEST_CASE("stopped streams do not hold up another, as long as the connection has room") {
  Pair pair;
  Joined first(pair);
  Joined second(pair);
  Joined third(pair);
  Joined fourth(pair);
  Joined other(pair);
  for (Joined* stuck : {&first, &second, &third}) {
    stuck->far->stop_reading();
    forward(*stuck->near, pattern(5U << 20U));
    pair.settle();
    CHECK(stuck->near->queued() == (1U << 20U));
  }
  fourth.far->stop_reading();
  forward(*fourth.near, pattern(7U << 19U));
  pair.settle();
  const std::string data = pattern(8U << 20U);
  forward(*other.near, data);
  pair.settle();
  CHECK(other.far_ear.data == data);
}

TEST_CASE("what a reset stream held is everybody's again") {
  Pair pair;
  Joined other(pair);
  for (int i = 0; i < 8; ++i) {
    Joined stuck(pair);
    stuck.far->stop_reading();
    forward(*stuck.near, pattern(5U << 20U));
    pair.settle();
    stuck.far->reset();
    pair.settle();
  }
  const std::string data = pattern(20U << 20U);
  forward(*other.near, data);
  pair.settle();
  CHECK(other.far_ear.data == data);
}

TEST_CASE("what a slow program has taken is credited before it has taken all") {
  Pair pair;
  Joined joined(pair);
  joined.far->stop_reading();
  const std::string data = pattern(6U << 20U);
  forward(*joined.near, data);
  pair.settle();
  const std::size_t held_back = joined.near->queued();
  REQUIRE(held_back == (2U << 20U));
  joined.far_ear.stop_after_each = joined.far.get();
  while (joined.far_ear.data.size() < (5U << 19U)) {
    joined.far->start_reading();
  }
  pair.settle();
  CHECK(joined.near->queued() < held_back);
  joined.far_ear.stop_after_each = nullptr;
  joined.far->start_reading();
  pair.settle();
  CHECK(joined.far_ear.data == data);
}

TEST_CASE("under steady back-pressure a stream's buffer does not grow with what it has sent") {
  Pair pair;
  Joined joined(pair);
  std::string all = pattern(300'000);
  pair.client.open = false;
  forward(*joined.near, all);
  for (int i = 0; i < 100; ++i) {
    pair.client.one_output = true;  // as a socket that takes a frame at a time
    pair.client.open = true;
    pair.client.session.pump();
    pair.client.open = false;
    const std::string more = pattern(kMaxPayload);
    forward(*joined.near, more);
    all += more;
    CHECK(joined.near->send_buffer() < (2U << 20U));
    pair.server.take(std::exchange(pair.client.out, {}));
    pair.server.session.pump();
    pair.client.take(std::exchange(pair.server.out, {}));
  }
  pair.client.one_output = false;
  pair.client.open = true;
  pair.settle();
  CHECK(joined.far_ear.data == all);
}

TEST_CASE("an answer other than 200 refuses the connection") {
  Pair pair;
  Answer answer;
  auto stream = pair.client.session.connect(request_to("10.0.0.2:81"), &answer);
  pair.settle();
  const int status = GENERATE(400, 401, 503);
  pair.server.accepted.front()->respond(status);
  pair.settle();
  CHECK(answer.status == status);
  CHECK_FALSE(answer.accepted);
  CHECK(pair.server.session.open_streams() == 0);
}

TEST_CASE("an interim answer is waited out") {
  Pair pair;
  Answer answer;
  auto stream = pair.client.session.connect(request_to("10.0.0.2:80"), &answer);
  pair.settle();
  // HEADERS with END_HEADERS of stream 1: ":status: 103" as a literal, then the static table's 200.
  pair.client.take(
      std::string("\0\0\5\1\4\0\0\0\1\x08\x03"
                  "103",
                  14));
  CHECK_FALSE(answer.accepted);
  CHECK(answer.status == -1);
  pair.client.take(std::string("\0\0\1\1\4\0\0\0\1\x88", 10));
  CHECK(pair.client.status);
  CHECK(answer.accepted);
}

TEST_CASE("a lost tunnel refuses what was asked and resets what was open") {
  Pair pair;
  Joined joined(pair);
  Answer pending;
  auto stream = pair.client.session.connect(request_to("10.0.0.2:80"), &pending);
  pair.client.session.abandon({ErrorCode::kReset, "gone"});
  CHECK(pending.status == 0);
  CHECK(joined.near_ear.failed);
}

TEST_CASE("a session announcing its end takes no more and lets the open streams finish") {
  Pair pair;
  Joined joined(pair);
  pair.server.session.announce_end();
  pair.settle();
  CHECK_FALSE(pair.client.session.can_connect());
  pair.server.session.refuse_new();
  pair.settle();
  say(*joined.near, "still here");
  pair.settle();
  CHECK(joined.far_ear.data == "still here");
  joined.near->shutdown();
  joined.far->shutdown();
  pair.settle();
  CHECK(joined.near_ear.ended);
}

TEST_CASE("at most a hundred streams go out on one session") {
  Pair pair;
  pair.settle();
  Answer answer;
  std::vector<std::unique_ptr<HboneStream>> streams;
  while (pair.client.session.can_connect()) {
    streams.push_back(pair.client.session.connect(request_to("10.0.0.2:80"), &answer));
    REQUIRE(streams.size() <= kMaxStreamsOut);
  }
  CHECK(streams.size() == kMaxStreamsOut);
}

TEST_CASE("a peer that opens more streams than it was told is calmed") {
  Pair pair;
  std::vector<std::unique_ptr<HboneStream>> streams;
  std::vector<std::unique_ptr<Answer>> answers;
  pair.settle();
  for (std::uint32_t i = 0; i < kMaxStreamsIn; ++i) {
    answers.push_back(std::make_unique<Answer>());
    streams.push_back(pair.client.session.connect(request_to("10.0.0.2:80"), answers.back().get()));
  }
  pair.settle();
  REQUIRE(pair.server.accepted.size() == kMaxStreamsIn);
  CHECK(pair.server.excesses.empty());
  // HEADERS of stream 401 with END_HEADERS; two literals: ":method: CONNECT" and ":authority: a:1".
  pair.server.take(std::string("\0\0\x0e\1\4\0\0\1\x91\2\7CONNECT\1\3a:1", 23));
  pair.server.session.pump();
  CHECK(pair.server.accepted.size() == kMaxStreamsIn);
  CHECK(pair.server.excesses == std::vector<std::string>{"more than 200 streams at once"});
  CHECK(pair.server.limits == std::vector<telemetry::Limit>{telemetry::Limit::kStreams});
  CHECK(pair.server.malformed.empty());
  CHECK(pair.server.session.over());
  const std::string calm("\0\0\0\x0b", 4);
  CHECK(pair.server.out.find(calm) != std::string::npos);
}

TEST_CASE("before the peer has acknowledged the limit of streams the surplus is refused, no more") {
  const auto octet = [](std::uint32_t value) { return static_cast<char>(value & 0xffU); };
  const auto ask = [&](std::uint32_t stream) {
    std::string out("\0\0\x0e\1\4\0\0\0\0\2\7CONNECT\1\3a:1", 23);
    out[7] = octet(stream >> 8U);
    out[8] = octet(stream);
    return out;
  };
  End server(Role::kServer);
  server.take(std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33));
  for (std::uint32_t i = 0; i < kMaxStreamsIn + 2; ++i) {
    server.take(ask(2 * i + 1));
  }
  server.session.pump();
  CHECK(server.accepted.size() == kMaxStreamsIn);
  CHECK(server.excesses == std::vector<std::string>(2, "more than 200 streams at once"));
  CHECK_FALSE(server.session.calmed());
  CHECK_FALSE(server.session.over());
  for (const std::uint32_t surplus : {401U, 403U}) {
    std::string refused("\0\0\4\3\0\0\0\1\0\0\0\0\7", 13);  // RST_STREAM, REFUSED_STREAM
    refused[8] = octet(surplus);
    CHECK(server.out.find(refused) != std::string::npos);
  }
  server.take(std::string("\0\0\0\4\1\0\0\0\0", 9) + ask(405));
  server.session.pump();
  CHECK(server.accepted.size() == kMaxStreamsIn);
  CHECK(server.session.calmed());
  CHECK(server.session.over());
  CHECK(server.out.find(std::string("\0\0\0\x0b", 4)) != std::string::npos);
}

TEST_CASE("a malformed request costs nobody else anything, also as the last one allowed") {
  Pair pair;
  std::vector<std::unique_ptr<HboneStream>> streams;
  std::vector<std::unique_ptr<Answer>> answers;
  pair.settle();
  for (std::uint32_t i = 0; i + 1 < kMaxStreamsIn; ++i) {
    answers.push_back(std::make_unique<Answer>());
    streams.push_back(pair.client.session.connect(request_to("10.0.0.2:80"), answers.back().get()));
  }
  pair.settle();
  // HEADERS of stream 399: ":method: CONNECT" and ":path: /".
  pair.server.take(std::string("\0\0\x0c\1\4\0\0\1\x8f\2\7CONNECT\4\1/", 21));
  pair.server.session.pump();
  CHECK(pair.server.malformed.size() == 1);
  CHECK(pair.server.excesses.empty());
  CHECK_FALSE(pair.server.session.calmed());
  CHECK_FALSE(pair.server.session.over());
  CHECK(pair.server.session.has_live_streams());
}

TEST_CASE("a header list that a few octets blow up is not read to its end") {
  Pair pair;
  pair.settle();
  // A request's two fields, "x" with 4,000 octets into the dynamic table, 200 references to it.
  std::string block("\2\7CONNECT\1\3a:1\x40\1x\x7f\xa1\x1e", 20);
  block += std::string(4000, 'y') + std::string(200, '\xbe');
  std::string frame("\0\0\0\1\4\0\0\0\1", 9);
  frame[1] = static_cast<char>(block.size() >> 8U);
  frame[2] = static_cast<char>(block.size() & 0xffU);
  pair.server.take(frame + block);
  pair.server.session.pump();
  CHECK(pair.server.excesses == std::vector<std::string>{"a header list of more than 16 KiB"});
  CHECK(pair.server.accepted.empty());
  CHECK(pair.server.limits == std::vector<telemetry::Limit>{telemetry::Limit::kHeaderList});
  CHECK(pair.server.session.calmed());
  CHECK(pair.server.session.over());
}

TEST_CASE("a header list over the limit is answered 503, and the next request as ever") {
  Pair pair;
  ConnectRequest request = request_to("10.0.0.2:80");
  const std::size_t others = 7 + 7 + 32 + 10 + 11 + 32 + 9 + request.forwarded.size() + 32 + 7 + 32;
  Answer most;
  request.baggage = std::string(kMaxHeaderList - others, 'b');
  const auto first = pair.client.session.connect(request, &most);
  pair.settle();
  CHECK(pair.server.accepted.size() == 1);
  Answer more;
  request.baggage += 'b';
  const auto second = pair.client.session.connect(request, &more);
  pair.settle();
  CHECK(more.status == 503);
  CHECK(pair.server.accepted.size() == 1);
  CHECK(pair.server.excesses == std::vector<std::string>{"a header list of more than 16 KiB"});
  Answer next;
  const auto third = pair.client.session.connect(request_to("10.0.0.2:80"), &next);
  pair.settle();
  CHECK(pair.server.accepted.size() == 2);
}

TEST_CASE("a frame of 1 MiB is taken, one octet more ends the session as over the limit") {
  const bool more = GENERATE(false, true);
  Pair pair;
  pair.settle();
  const std::uint32_t size = kMaxFrame + (more ? 1 : 0);
  // Of a type that nobody knows, which is ignored.
  std::string frame("\0\0\0\xf0\0\0\0\0\0", 9);
  for (int i = 0; i < 3; ++i) {
    frame[static_cast<std::size_t>(i)] = static_cast<char>(size >> (16 - 8 * i));
  }
  pair.server.take(frame + std::string(size, 'x'));
  pair.server.session.pump();
  CHECK(pair.server.session.over() == more);
  CHECK(pair.server.limits ==
        std::vector<telemetry::Limit>(more ? 1 : 0, telemetry::Limit::kFrame));
}

TEST_CASE("data of a whole stream window is taken, one octet more resets or ends for the limit") {
  const bool more = GENERATE(false, true);
  Pair pair;
  Joined joined(pair);
  joined.far->stop_reading();
  std::string frame("\0\x40\0\0\0\0\0\0\1", 9);
  frame += std::string(16'384, 'd');
  for (std::uint32_t sent = 0; sent < kStreamWindow; sent += 16'384) {
    pair.server.take(frame);
  }
  if (more) {
    pair.server.take(std::string("\0\0\1\0\0\0\0\0\1x", 10));
  }
  pair.server.session.pump();
  CHECK(joined.far->unread() == kStreamWindow + (more ? 1 : 0));
  CHECK(pair.server.limits ==
        std::vector<telemetry::Limit>(more ? 1 : 0, telemetry::Limit::kWindow));
}

TEST_CASE("resets are counted where they are sent and where they arrive") {
  Pair pair;
  Joined joined(pair);
  joined.near->reset();
  pair.settle();
  CHECK(pair.client.resets == 1);
  CHECK(pair.server.resets == 1);
}

TEST_CASE("a session that is calmed ends with GOAWAY") {
  Pair pair;
  Joined joined(pair);
  pair.server.session.calm();
  pair.settle();
  CHECK(pair.server.session.over());
  CHECK_FALSE(pair.client.session.can_connect());
}

TEST_CASE("before the peer's settings only one request goes out") {
  Pair pair;
  Answer answer;
  CHECK(pair.client.session.can_connect());
  auto stream = pair.client.session.connect(request_to("10.0.0.2:80"), &answer);
  CHECK_FALSE(pair.client.session.can_connect());
  pair.settle();
  CHECK(pair.client.session.can_connect());
}

TEST_CASE("a ping is answered") {
  Pair pair;
  pair.settle();
  pair.client.session.ping();
  pair.settle();
  CHECK(pair.client.pong);
}

TEST_CASE("garbage ends the session with an error") {
  Pair pair;
  pair.settle();
  pair.server.take("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  pair.server.session.pump();
  CHECK(pair.server.session.over());
}

TEST_CASE("what differs with every request does not push the rest out of the HPACK table") {
  Pair pair;
  pair.settle();
  ConnectRequest request = request_to("10.0.0.2:80");
  request.baggage = "k8s.cluster.name=mesh,k8s.namespace.name=default,service.name=a-long-name";
  std::size_t second = 0;
  for (int number = 1; number <= 200; ++number) {
    request.forwarded = fmt::format("for=\"10.0.0.1:{}\"", 11000 + number);
    request.traceparent = fmt::format("00-{:032x}-{:016x}-01", number, number);
    Answer answer;
    auto stream = pair.client.session.connect(request, &answer);
    pair.client.session.pump();
    second = number == 2 ? pair.client.out.size() : second;
    CAPTURE(number);
    if (number > 2) {
      // Each is as short as the second, but for what Huffman's code makes of other digits.
      REQUIRE(pair.client.out.size() <= second + 8);
    }
    pair.settle();
    stream.reset();
    pair.settle();
  }
}

TEST_CASE("a GOAWAY that names an error is kept with the words that came with it") {
  Pair pair;
  pair.settle();
  const std::string words = "too_many\nresets";
  std::string goaway("\0\0\0\7\0\0\0\0\0\0\0\0\0\0\0\0\x0b", 17);
  goaway[2] = static_cast<char>(8 + words.size());
  pair.client.take(goaway + words);
  CHECK(pair.client.session.complaint() ==
        "the far agent ended the tunnel, ENHANCE_YOUR_CALM \"too_many\\nresets\": a limit of its "
        "was exceeded");
}

TEST_CASE("frames without content are only told of beyond what traffic accounts for") {
  Pair pair;
  pair.settle();
  const int before = pair.server.idle_frames;
  const std::string ping(
      "\0\0\x8\6\0\0\0\0\0"
      "12345678",
      17);
  pair.server.take(ping);
  CHECK(pair.server.idle_frames == before + 1);
  Answer answer;
  const auto stream = pair.client.session.connect(request_to("10.0.0.2:9080"), &answer);
  pair.settle();
  REQUIRE(pair.server.accepted.size() == 1);
  pair.server.accepted[0]->respond(200);
  const std::string text(12'800, 'x');
  const Bytes piece = as_bytes(text);
  pair.server.accepted[0]->write({&piece, 1});
  pair.settle();
  const int during = pair.server.idle_frames;
  for (int i = 0; i < 100; ++i) {
    pair.server.take(ping);
  }
  CHECK(pair.server.idle_frames == during);
  for (int i = 0; i < 100; ++i) {
    pair.server.take(ping);
  }
  CHECK(pair.server.idle_frames > during);
}

TEST_CASE("HEADERS of a stream that is gone carry nothing, and are not large") {
  Pair pair;
  Joined joined(pair);
  joined.near->reset();
  pair.settle();
  const auto late = [](std::size_t size) {
    std::string made("\0\0\0\1\5\0\0\0\1", 9);
    made[1] = static_cast<char>(size >> 8U);
    made[2] = static_cast<char>(size & 0xffU);
    return made + std::string(size, '\x82');  // ":method: GET"
  };
  const int before = pair.server.idle_frames;
  pair.server.take(late(1));
  pair.server.take(late(kMaxHeaderList));
  CHECK(pair.server.idle_frames == before + 2);
  CHECK_FALSE(pair.server.session.calmed());
  pair.server.take(late(kMaxHeaderList + 1));
  CHECK(pair.server.session.calmed());
  CHECK(pair.server.excesses == std::vector<std::string>{"a header list of more than 16 KiB"});
  CHECK(pair.server.limits == std::vector<telemetry::Limit>{telemetry::Limit::kHeaderList});
}

TEST_CASE("what traffic pays for is saved up to a bound") {
  Pair pair;
  Joined joined(pair);
  forward(*joined.far, pattern(20U << 20U));
  pair.settle();
  const int before = pair.server.idle_frames;
  std::string idle;
  for (int i = 0; i < 100; ++i) {
    idle += std::string("\0\0\5\2\0\0\0\0\x63\0\0\0\0\x10", 14);  // PRIORITY
  }
  for (int i = 0; i < 990; ++i) {  // and the last window updates
    pair.server.take(idle);
  }
  CHECK(pair.server.idle_frames == before);
  for (int i = 0; i < 20; ++i) {
    pair.server.take(idle);
  }
  CHECK(pair.server.idle_frames >= before + 1000);
}
