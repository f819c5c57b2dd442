/// A peer with a good certificate that breaks HTTP/2, or overdoes it, and what is said of it.

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <utility>

#include "proxy/tunnel.h"
#include "proxy/tunnels.h"

using namespace meshnode;
using namespace meshnode::proxy;
using namespace meshnode::proxy::test;

namespace {

enum Type {
  kData,
  kHeaders,
  kPriority,
  kRst,
  kSettings,
  kPush,
  kPing,
  kGoaway,
  kWindow,
  kContinuation
};

const std::string kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

std::string frame(int type, int flags, int stream, const std::string& payload) {
  std::string out(9, '\0');
  out[1] = static_cast<char>(payload.size() >> 8U);
  out[2] = static_cast<char>(payload.size() & 0xff);
  out[3] = static_cast<char>(type);
  out[4] = static_cast<char>(flags);
  out[7] = static_cast<char>(stream >> 8);
  out[8] = static_cast<char>(stream & 0xff);
  return out + payload;
}

const std::string kAcknowledged = frame(kSettings, 1, 0, "");

/// The HEADERS that open the peer's stream number `nth`, from 0.
std::string open(std::uint32_t nth) {
  std::string made = frame(kHeaders, 4, 0, std::string("\2\7CONNECT\1\3a:1", 14));
  made[7] = static_cast<char>((2 * nth + 1) >> 8U);
  made[8] = static_cast<char>((2 * nth + 1) & 0xffU);
  return made;
}

/// A TLS client that sends whatever the test wants over a server's tunnel.
struct Raw final : StreamEvents, tls::SessionEvents {
  explicit Raw(const std::string& first = kPreface + frame(kSettings, 0, 0, "")) {
    auto [near, far] = network.pair({at("10.0.0.1:4000"), at("10.0.0.2:15008"), {}});
    server.open(Role::kServer, std::move(far), credential_for(kReviews));
    stream = std::move(near);
    tls = std::move(*tls::Session::client(
        credential_for(kProduct), kReviews, [this] { return context.clock.wall_now(); }, this));
    stream->set_events(this);
    stream->start_reading();
    shake();
    loop.run();
    REQUIRE(server.ready == 1);
    send(first);
  }
  void shake() { done = *tls->handshake() == tls::Session::Progress::kDone; }
  void send(const std::string& octets) {
    REQUIRE(tls->write(as_bytes(octets)));
    loop.run();
  }
  /// The whole window of the stream number `nth`, which nobody reads.
  void fill(std::uint32_t nth) {
    const std::string piece =
        frame(kData, 0, static_cast<int>(2 * nth + 1), std::string(16'384, 'd'));
    for (std::uint32_t sent = 0; sent < kStreamWindow; sent += 16'384) {
      send(piece);
    }
    CHECK(server.accepted.back()->unread() == kStreamWindow);
  }
  void on_ciphertext(Bytes record) override { stream->write({&record, 1}); }
  void on_signed() override {}
  void on_data(MutableBytes data) override {
    tls->feed(data);
    if (!done) {
      shake();
    }
    std::vector<std::uint8_t> buffer(65'536);
    while (done) {
      const auto got = tls->read(buffer);
      if (!got || got->closed) {
        return;
      }
      heard += as_text(Bytes(buffer).first(got->size));
      if (got->need_input) {
        return;
      }
    }
  }
  void on_end() override {}
  void on_error(const Error&) override {}
  void on_drained() override {}
  /// Its end is heard of at once, its connection is kept for a second so that GOAWAY is read.
  bool over() {
    loop.advance(1s);
    return server.gone == 1;
  }
  /// The error code of the GOAWAY that was heard; -1: none.
  int goaway() const {
    for (std::size_t i = 0; i + 17 <= heard.size();) {
      const auto octet = [&](std::size_t k) {
        return static_cast<std::size_t>(static_cast<unsigned char>(heard[i + k]));
      };
      if (octet(3) == kGoaway) {
        return static_cast<int>(octet(16));
      }
      i += 9U + (octet(0) << 16U) + (octet(1) << 8U) + octet(2);
    }
    return -1;
  }

  FakeLoop loop;
  FakeNetwork network{loop};
  Recorders recorders;
  ProxyContext context{recorders.context(loop, network, nullptr)};
  TunnelHolder server{context};
  std::unique_ptr<Stream> stream;
  std::unique_ptr<tls::Session> tls;
  bool done = false;
  std::string heard;
};

constexpr int kFlowControl = 3;
constexpr int kCalm = 11;  // ENHANCE_YOUR_CALM

}  // namespace

TEST_CASE("a session that breaks HTTP/2 is told of once, with what it did") {
  using telemetry::Limit;
  struct Row {
    std::string octets, says;
    int code;
    std::uint64_t frame = 0, window = 0;
  };
  const Row row =
      GENERATE(Row{frame(kData, 0, 5, "x"), "DATA: stream in idle", 1},
               Row{frame(kHeaders, 5, 2, "\x82"), "PROTOCOL_ERROR", 1},
               Row{frame(kHeaders, 5, 1, "\xff\xff\xff\xff\xff\xff"), "COMPRESSION_ERROR", 9},
               Row{frame(kPing, 0, 0, "1234567"), "FRAME_SIZE_ERROR", 6, 1},
               Row{frame(kWindow, 0, 0, "\x7f\xff\xff\xff"), "FLOW_CONTROL_ERROR", 3, 0, 1},
               Row{std::string("\x7f\0\0\0\0\0\0\0\1", 9), "FRAME_SIZE_ERROR", 6, 1});
  Raw raw;
  raw.send(row.octets);
  CHECK(raw.over());
  CHECK(raw.goaway() == row.code);
  REQUIRE(raw.server.malformed.size() == 1);
  CHECK_THAT(raw.server.malformed[0], Catch::Contains(row.says));
  CHECK(raw.server.error == raw.server.malformed[0]);
  CHECK(raw.server.excesses.empty());
  CHECK(raw.recorders.hits(Limit::kFrame) == row.frame);
  CHECK(raw.recorders.hits(Limit::kWindow) == row.window);
}

TEST_CASE("a session that does not begin with the preface is told of") {
  Raw raw("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
  CHECK(raw.over());
  REQUIRE(raw.server.malformed.size() == 1);
  CHECK_THAT(raw.server.malformed[0], Catch::Contains("preface"));
}

TEST_CASE("frames without content: 1,000 at once and 33 a second, then the tunnel ends") {
  const std::string idle =
      GENERATE(frame(kPing, 0, 0, "12345678"), frame(kSettings, 0, 0, ""),
               frame(kPriority, 0, 9, std::string(4, '\0') + "\x10"), frame(0xf0, 0, 0, "noise"),
               frame(kWindow, 0, 0, std::string("\0\0\0\1", 4)));
  Raw raw;
  for (int i = 1; i < 999; ++i) {  // its first SETTINGS counted
    raw.send(idle);
  }
  raw.loop.advance(1s);
  for (int i = 0; i < 33; ++i) {
    raw.send(idle);
  }
  CHECK(raw.server.gone == 0);
  CHECK(raw.recorders.hits(telemetry::Limit::kFlood) == 0);
  raw.send(idle + idle + idle + idle + idle);
  CHECK(raw.over());
  CHECK(raw.recorders.hits(telemetry::Limit::kFlood) == 1);
  CHECK(raw.goaway() == kCalm);
  REQUIRE(raw.server.excesses.size() == 1);
  CHECK_THAT(raw.server.excesses[0], Catch::Contains("frames without content"));
  CHECK(raw.server.error == raw.server.excesses[0]);
  CHECK(raw.server.malformed.empty());
}

TEST_CASE("resets: 1,000 at once and 33 a second, then the tunnel ends") {
  const std::string request("\0\7:method\7CONNECT\0\x0a:authority\3a:1", 33);
  Raw raw;
  int stream = -1;
  const auto ask_and_reset = [&] {
    stream += 2;
    raw.send(frame(kHeaders, 4, stream, request) + frame(kRst, 0, stream, std::string(4, '\0')));
    raw.server.accepted.clear();
  };
  for (std::uint32_t i = 0; i + 1 < kResetBurst; ++i) {
    ask_and_reset();
  }
  raw.loop.advance(1s);
  for (std::uint32_t i = 0; i < kResetsPerSecond + 1; ++i) {
    ask_and_reset();
  }
  CHECK(raw.server.excesses.empty());
  CHECK(raw.server.gone == 0);
  ask_and_reset();
  CHECK(raw.over());
  CHECK(raw.goaway() == kCalm);
  REQUIRE(raw.server.excesses.size() == 1);
  CHECK_THAT(raw.server.excesses[0], Catch::Contains("streams reset"));
  CHECK(raw.recorders.hits(telemetry::Limit::kResets) == 1);
}

TEST_CASE("a peer that overdoes it and does not read is gone after a second") {
  Raw raw;
  raw.stream->stop_reading();
  for (int i = 0; i < 1'100; ++i) {
    raw.send(frame(kSettings, 0, 0, "") + frame(kPing, 0, 0, "12345678"));
  }
  raw.loop.advance(1s + 1ms);
  CHECK(raw.over());
  CHECK(raw.server.excesses.size() == 1);
}

TEST_CASE("a request's header fields have ten seconds, trickled or not") {
  Raw raw;
  const bool trickled = GENERATE(true, false);
  raw.send(frame(kHeaders, 4, 1, std::string(20, '\x82')).substr(0, 9));
  for (int i = 0; i < 9; ++i) {
    raw.loop.advance(1s);
    if (trickled) {
      raw.send("\x82");
    }
  }
  CHECK(raw.server.gone == 0);
  raw.loop.advance(1s + 1ms);
  CHECK(raw.goaway() == kCalm);
  REQUIRE(raw.server.excesses.size() == 1);
  CHECK_THAT(raw.server.excesses[0], Catch::Contains("longer than 10 s"));
  CHECK(raw.recorders.hits(telemetry::Limit::kSlowHeaders) == 1);
  raw.loop.run();
  CHECK(raw.over());
}

TEST_CASE("more streams than a peer was told are counted, refused before it says that it knows") {
  const bool knows = GENERATE(false, true);
  Raw raw;
  raw.send(knows ? kAcknowledged : "");
  for (std::uint32_t i = 0; i < kMaxStreamsIn; ++i) {
    raw.send(open(i));
  }
  CHECK(raw.recorders.hits(telemetry::Limit::kStreams) == 0);
  raw.send(open(kMaxStreamsIn));
  CHECK(raw.recorders.hits(telemetry::Limit::kStreams) == 1);
  CHECK(raw.server.excesses.size() == 1);
  CHECK(raw.over() == knows);
  CHECK(raw.goaway() == (knows ? kCalm : -1));
}

TEST_CASE("a stream's window is taken whole, one octet more resets the stream") {
  Raw raw;
  raw.send(kAcknowledged + open(0));
  raw.fill(0);
  CHECK(raw.recorders.hits(telemetry::Limit::kWindow) == 0);
  raw.send(frame(kData, 0, 1, "x"));
  CHECK(raw.recorders.hits(telemetry::Limit::kWindow) == 1);
  raw.loop.advance(1s);
  CHECK(raw.server.gone == 0);
  CHECK(raw.server.malformed.empty());
  Ear ear;
  raw.server.accepted.front()->set_events(&ear);
  raw.server.accepted.front()->start_reading();
  CHECK(ear.error ==
        "the stream was reset for what the far agent sent on it: FLOW_CONTROL_ERROR");
}

TEST_CASE("the connection's window is taken whole, one octet more ends the tunnel") {
  Raw raw;
  raw.send(kAcknowledged);
  const std::uint32_t streams = kConnectionWindow / kStreamWindow;
  for (std::uint32_t i = 0; i < streams; ++i) {
    raw.send(open(i));
    raw.fill(i);
  }
  raw.send(open(streams));
  CHECK(raw.recorders.hits(telemetry::Limit::kWindow) == 0);
  CHECK(raw.server.gone == 0);
  raw.send(frame(kData, 0, static_cast<int>(2 * streams + 1), "x"));
  CHECK(raw.recorders.hits(telemetry::Limit::kWindow) == 1);
  CHECK(raw.over());
  CHECK(raw.goaway() == kFlowControl);
  REQUIRE(raw.server.malformed.size() == 1);
  CHECK_THAT(raw.server.malformed[0], Catch::Contains("FLOW_CONTROL_ERROR"));
}

TEST_CASE("eight CONTINUATION frames make a request, a ninth ends the tunnel") {
  const bool taken = GENERATE(true, false);
  const std::size_t count = kMaxContinuations + (taken ? 0 : 1);
  Raw raw;
  std::string octets = open(0);
  octets[4] = 0;  // END_HEADERS comes with the last
  for (std::size_t i = 1; i <= count; ++i) {
    octets += frame(kContinuation, i == count ? 4 : 0, 1, "");
  }
  raw.send(octets);
  CHECK(raw.server.accepted.size() == (taken ? 1 : 0));
  CHECK(raw.over() == !taken);
  CHECK(raw.goaway() == (taken ? -1 : kCalm));
  CHECK(raw.recorders.hits(telemetry::Limit::kFlood) == (taken ? 0 : 1));
}
