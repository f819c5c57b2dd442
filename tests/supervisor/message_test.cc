#include "supervisor/message.h"

#include <rapidcheck.h>
#include <catch2/catch.hpp>

#include "supervisor/frame.h"
#include "supervisor/restart_policy.h"

using namespace meshnode;
using namespace meshnode::supervisor;

namespace {

std::string ascii(std::size_t max) {
  const auto size = *rc::gen::inRange<std::size_t>(0, max);
  return *rc::gen::container<std::string>(size, rc::gen::inRange<char>(' ', '~'));
}

CaptureReport any_report() {
  CaptureReport m;
  m.ok = *rc::gen::arbitrary<bool>();
  m.error = ascii(200);
  m.v4 = *rc::gen::arbitrary<bool>();
  m.v6 = *rc::gen::arbitrary<bool>();
  m.conflicts = {ascii(200), ascii(30)};
  m.repaired = *rc::gen::arbitrary<std::uint64_t>();
  m.last_repair = ascii(200);
  m.waiting = {ascii(20), ascii(20)};
  m.failed[ascii(10)] = ascii(200);
  m.spaces[ascii(10)] = {ascii(40), ascii(40)};
  m.undeclared[ascii(10)] = ascii(100);
  m.bypass[ascii(10)] = *rc::gen::arbitrary<std::uint64_t>();
  m.bypass_by_workload[ascii(10)] = *rc::gen::arbitrary<std::uint64_t>();
  return m;
}

Bytes piece(const std::string& text, std::size_t from, std::size_t size) {
  return as_bytes(std::string_view(text).substr(from, size));
}

}  // namespace

TEST_CASE("every message to a worker survives the channel") {
  REQUIRE(rc::check([] {
    Listeners listeners;
    for (int i = *rc::gen::inRange(0, 32); i > 0; --i) listeners.names.push_back(ascii(30));
    listeners.history.restarts = *rc::gen::arbitrary<std::uint64_t>();
    listeners.history.last_reason = ascii(100);
    listeners.history.first = WallTime{std::chrono::milliseconds(*rc::gen::inRange(0, 1 << 30))};
    listeners.history.last = WallTime{std::chrono::milliseconds(*rc::gen::inRange(0, 1 << 30))};
    for (std::uint16_t i = *rc::gen::inRange<std::uint16_t>(0, 20); i > 0; --i) {
      listeners.steering.slots["shop/w" + std::to_string(i)] = i;
    }
    listeners.steering.next = *rc::gen::inRange<std::uint16_t>(0, capture::kMaxSlot + 1);
    const auto slot = *rc::gen::inRange<std::uint16_t>(1, capture::kMaxSlot + 1);
    for (const ToWorker& message :
         {ToWorker(listeners), ToWorker(Reload{}), ToWorker(Drain{}), ToWorker(any_report()),
          ToWorker(SpaceListeners{slot, listeners.names}), ToWorker(SpaceGone{slot})}) {
      const auto back = decode_to_worker(encode(message));
      RC_ASSERT(back.has_value());
      RC_ASSERT(*back == message);
    }
  }));
}

TEST_CASE("every message to the supervisor survives the channel") {
  capture::Spec spec;
  spec.workloads.push_back({"bookinfo/reviews", 1, capture::ByUser{1000}, {9080}});
  spec.workloads.push_back({"bookinfo/ratings", 2, capture::ByCgroup{"ratings.slice"}, {}});
  for (const ToSupervisor& message :
       {ToSupervisor(Ready{}), ToSupervisor(Drained{}), ToSupervisor(CaptureRequest{spec, 3}),
        ToSupervisor(Settings{std::chrono::milliseconds(700)}),
        ToSupervisor(Settings{kLongestDrain})}) {
    const auto back = decode_to_supervisor(encode(message));
    REQUIRE(back);
    CHECK(*back == message);
  }
}

TEST_CASE("what is told of network namespaces has its bounds at both ends") {
  CaptureReport report;
  for (std::size_t i = 0; i <= kMaxSpaces; ++i) {
    report.spaces["shop/w" + std::to_string(i)] =
        std::vector<std::string>(kMaxSpaceAddresses + 1, "10.0.0.1");
    report.undeclared["shop/w" + std::to_string(i)] = std::string(kMaxText, 'a');
  }
  const auto back = decode_to_worker(encode(ToWorker(report)));
  REQUIRE(back);
  const auto& spaces = std::get<CaptureReport>(*back).spaces;
  CHECK(spaces.size() == kMaxSpaces);
  CHECK(spaces.begin()->second.size() == kMaxSpaceAddresses);
  const auto& undeclared = std::get<CaptureReport>(*back).undeclared;
  CHECK(undeclared.size() == kMaxSpaces);
  CHECK(undeclared.begin()->second.size() == 1024);

  std::string addresses = "\"a\"";
  for (std::size_t i = 0; i < kMaxSpaceAddresses; ++i) addresses += ",\"a\"";
  std::string text = encode(ToWorker(CaptureReport{}));
  const std::string none = "\"spaces\":{}";
  REQUIRE(text.find(none) != std::string::npos);
  text.replace(text.find(none), none.size(), "\"spaces\":{\"shop/web\":[" + addresses + "]}");
  CHECK(decode_to_worker(text).error().message.find("spaces") != std::string::npos);
  text = encode(ToWorker(CaptureReport{}));
  text.replace(text.find("\"undeclared\":{}"), 15,
               "\"undeclared\":{\"shop/web\":\"" + std::string(1025, 'a') + "\"}");
  CHECK(decode_to_worker(text).error().message.find("undeclared") != std::string::npos);

  CHECK_FALSE(decode_to_worker(R"({"type":"space-gone","slot":0})"));
  CHECK_FALSE(decode_to_worker(R"({"type":"space-gone","slot":65001})"));
  CHECK_FALSE(decode_to_worker(R"({"type":"space-listeners","slot":1})"));
}

TEST_CASE("text beyond the bound is cut by the sender and refused by the receiver") {
  CaptureReport report;
  report.error = std::string(kMaxText + 1, 'e');
  auto back = decode_to_worker(encode(ToWorker(report)));
  REQUIRE(back);
  CHECK(std::get<CaptureReport>(*back).error.size() == kMaxText);

  std::string longer = encode(ToWorker(report));
  longer.insert(longer.find("eee"), "e");
  CHECK_FALSE(decode_to_worker(longer));
}

TEST_CASE("a worker may ask for ten minutes to drain and not for a millisecond more") {
  CHECK(decode_to_supervisor(R"({"type":"settings","drainMillis":600000})"));
  CHECK_FALSE(decode_to_supervisor(R"({"type":"settings","drainMillis":600001})"));
  CHECK_FALSE(decode_to_supervisor(R"({"type":"settings","drainMillis":-1})"));
}

TEST_CASE("no more listeners are believed than descriptors can come") {
  Listeners message;
  message.names.assign(kMaxListeners, "n");
  CHECK(decode_to_worker(encode(ToWorker(message))));
  message.names.emplace_back("n");
  CHECK_FALSE(decode_to_worker(encode(ToWorker(message))));
}

TEST_CASE("steering is believed within the bounds of a capture spec") {
  Listeners message;
  for (std::uint16_t i = 1; i <= capture::kMaxWorkloads; ++i) {
    message.steering.slots["shop/w" + std::to_string(i)] = i;
  }
  message.steering.next = capture::kMaxSlot;
  CHECK(decode_to_worker(encode(ToWorker(message))));
  message.steering.slots["shop/more"] = capture::kMaxWorkloads + 1;
  CHECK_FALSE(decode_to_worker(encode(ToWorker(message))));

  const auto believed = [](Steering steering) {
    return decode_to_worker(encode(ToWorker(Listeners{{}, {}, std::move(steering)}))).has_value();
  };
  CHECK(believed({{{"a/b", capture::kMaxSlot}}, 1}));
  CHECK_FALSE(believed({{{"a/b", capture::kMaxSlot + 1}}, 1}));
  CHECK_FALSE(believed({{{"a/b", 0}}, 1}));
  CHECK_FALSE(believed({{{"a/b", 1}, {"a/c", 1}}, 1}));
  CHECK_FALSE(believed({{{"b", 1}}, 1}));
  CHECK_FALSE(believed({{}, capture::kMaxSlot + 1}));
  for (const std::uint16_t next : {std::uint16_t{0}, std::uint16_t{capture::kMaxSlot + 1}}) {
    CHECK_FALSE(decode_to_supervisor(encode(ToSupervisor(CaptureRequest{{}, next}))));
  }
}

TEST_CASE("text that is no UTF-8 still makes a message") {
  CaptureReport report;
  report.error = "iptables said \xff\xfe";
  CHECK(decode_to_worker(encode(ToWorker(report))));
}

TEST_CASE("text at the bound is understood whatever octets it has") {
  // As the names and comments of other people's rules may be. U+FFFD would be longer.
  for (const char octet : {'\xff', '\xc3', 'x'}) {
    CaptureReport report;
    report.error = std::string(kMaxText, octet);
    report.last_repair = std::string(kMaxText - 1, 'x') + "\xc3\xa4";
    report.failed["n/w"] = std::string(kMaxText, octet);
    report.waiting = {std::string(kMaxText + 1, octet)};
    REQUIRE(decode_to_worker(encode(ToWorker(report))));
    Listeners listeners;
    listeners.history.last_reason = std::string(kMaxText + 1, octet);
    REQUIRE(decode_to_worker(encode(ToWorker(listeners))));
  }
}

TEST_CASE("what a broken worker may send is refused") {
  for (const char* text : {"", "null", "[]", "{}", "{\"type\":1}", "{\"type\":\"listeners\"}",
                           "{\"type\":\"ready\"", "{\"type\":\"ready\",\"more\":1}",
                           "{\"type\":\"capture\"}", "{\"type\":\"capture\",\"spec\":\"{}\"}",
                           "{\"type\":\"capture\",\"spec\":{}}", "{\"type\":\"ready\"} trailing"}) {
    INFO(text);
    CHECK_FALSE(decode_to_supervisor(text));
  }
  CHECK_FALSE(decode_to_supervisor(std::string(1 << 20, '[')));
  CHECK_FALSE(decode_to_supervisor("{\"type\":" + std::string(1 << 20, '[')));
}

TEST_CASE("a spec that the capture room refuses never reaches the rules") {
  capture::Spec spec;
  spec.workloads.push_back({"a/b", 1, capture::ByCgroup{"../escape"}, {80}});
  CHECK_FALSE(decode_to_supervisor(encode(ToSupervisor(CaptureRequest{spec, 2}))));
}

TEST_CASE("frames come out as they went in, however the stream is cut") {
  REQUIRE(rc::check([] {
    std::vector<std::string> bodies;
    std::string stream;
    for (int i = *rc::gen::inRange(1, 6); i > 0; --i) {
      bodies.push_back("b" + *rc::gen::arbitrary<std::string>());
      stream += *make_frame(bodies.back());
    }
    FrameDecoder decoder;
    std::vector<std::string> out;
    for (std::size_t at = 0; at < stream.size();) {
      const auto size = *rc::gen::inRange<std::size_t>(1, 9);
      decoder.feed(piece(stream, at, size));
      at += size;
      for (auto next = decoder.next(); next && *next; next = decoder.next()) out.push_back(**next);
    }
    RC_ASSERT(out == bodies);
    RC_ASSERT(!decoder.in_frame());
  }));
}

TEST_CASE("a frame may be as long as the limit and not one octet longer") {
  FrameDecoder at_limit;
  at_limit.feed(as_bytes(*make_frame(std::string(kMaxFrame, 'x'))));
  const auto body = at_limit.next();
  REQUIRE(body);
  CHECK((*body)->size() == kMaxFrame);
  CHECK_FALSE(make_frame(std::string(kMaxFrame + 1, 'x')));

  FrameDecoder beyond;
  beyond.feed(as_bytes(std::string_view("\x00\x40\x00\x01", 4)));
  CHECK_FALSE(beyond.next());
}

TEST_CASE("a worker is replaced at once, and slower when it keeps dying at the start") {
  RestartPolicy policy;
  using std::chrono::milliseconds;
  std::vector<Duration> delays;
  for (int i = 0; i < 7; ++i) delays.push_back(policy.next_delay(milliseconds(5)));
  CHECK(delays == std::vector<Duration>{milliseconds(0), milliseconds(100), milliseconds(200),
                                        milliseconds(400), milliseconds(800), milliseconds(1000),
                                        milliseconds(1000)});
  CHECK(policy.next_delay(RestartPolicy::kSettled) == milliseconds(0));
  CHECK(policy.next_delay(milliseconds(1)) == milliseconds(100));
}
