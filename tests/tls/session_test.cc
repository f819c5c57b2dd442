#include "tls/session.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tls/pair.h"

namespace meshnode::tls::test {
namespace {

std::vector<std::uint8_t> pattern(std::size_t size) {
  std::vector<std::uint8_t> data(size);
  std::uint32_t state = 1;
  for (std::uint8_t& byte : data) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::uint8_t>(state >> 24);
  }
  return data;
}

TEST_CASE("both ends learn who the other is and which credential was shown") {
  Pair pair;
  pair.shake();
  INFO((pair.client.last ? "" : pair.client.last.error().message));
  INFO((pair.server.last ? "" : pair.server.last.error().message));
  REQUIRE(pair.done());
  CHECK(pair.client.session->peer().identity == kReviews);
  CHECK(pair.server.session->peer().identity == kProduct);
  CHECK(pair.client.session->peer().not_after == kNow + 24h);
  CHECK(pair.server.session->presented()->identity() == kReviews);
  CHECK(pair.client.session->presented()->identity() == kProduct);
}

TEST_CASE("no session tickets follow the handshake") {
  Pair pair;
  pair.shake();
  REQUIRE(pair.done());
  CHECK(pair.server.pieces.size() == 1);
  CHECK(pair.client.pieces.size() == 2);
}

TEST_CASE("16,384 bytes of plaintext are one record") {
  Pair pair;
  pair.shake();
  REQUIRE(pair.done());
  pair.client.pieces.clear();
  std::vector<std::uint8_t> data = pattern(16384 * 3);
  REQUIRE(pair.client.session->write(Bytes(data).first(16384)));
  CHECK(pair.client.pieces.size() == 1);
  REQUIRE(pair.client.session->write(data));
  CHECK(pair.client.pieces.size() == 4);
  REQUIRE(pair.client.session->write(Bytes(data).first(16385)));
  CHECK(pair.client.pieces.size() == 6);
}

TEST_CASE("read fills its buffer with whole records and asks for more when all is used up") {
  Pair pair;
  pair.shake();
  REQUIRE(pair.done());
  std::vector<std::uint8_t> data = pattern(16384 * 5);
  REQUIRE(pair.client.session->write(data));
  std::vector<std::uint8_t> wire = pair.client.take();
  std::vector<std::uint8_t> got(16384 * 3 + 100);
  pair.server.session->feed(wire);

  Result<Session::Plaintext> first = pair.server.session->read(got);
  REQUIRE(first);
  CHECK(first->size == 16384 * 3);
  CHECK_FALSE(first->need_input);
  CHECK(std::equal(got.begin(), got.begin() + 16384 * 3, data.begin()));

  Result<Session::Plaintext> second = pair.server.session->read(got);
  REQUIRE(second);
  CHECK(second->size == 16384 * 2);
  CHECK(second->need_input);
  CHECK(std::equal(got.begin(), got.begin() + 16384 * 2, data.begin() + 16384 * 3));
}

void move_all(End& from, End& to, std::vector<std::uint8_t>& received, std::size_t step) {
  std::vector<std::uint8_t> wire = from.take();
  std::vector<std::uint8_t> buffer(64 * 1024);
  for (std::size_t at = 0; at < wire.size(); at += std::min(step, wire.size() - at)) {
    to.session->feed(Bytes(wire).subspan(at, std::min(step, wire.size() - at)));
    for (;;) {
      Result<Session::Plaintext> got = to.session->read(buffer);
      REQUIRE(got);
      received.insert(received.end(), buffer.begin(),
                      buffer.begin() + static_cast<std::ptrdiff_t>(got->size));
      if (got->need_input) break;
    }
  }
}

TEST_CASE("a handshake and data in pieces of any size arrive whole") {
  for (std::size_t step : {1u, 2u, 3u, 5u, 7u, 64u, 1000u, 16406u}) {
    Pair pair;
    pair.shake(step);
    REQUIRE(pair.done());
    std::vector<std::uint8_t> data = pattern(40'000);
    REQUIRE(pair.client.session->write(data));
    std::vector<std::uint8_t> received;
    move_all(pair.client, pair.server, received, step);
    CHECK(received == data);
  }
}

TEST_CASE("one cut at every byte of the handshake changes nothing") {
  std::size_t longest = 0;
  for (std::size_t cut = 1; cut < 1600; cut += 1) {
    Pair pair;
    pair.shake(cut);
    REQUIRE(pair.done());
    longest = std::max(longest, pair.server.pieces.front());
  }
  CHECK(longest < 1600);
}

TEST_CASE("64 MiB each way arrive as they were sent") {
  Pair pair;
  pair.shake();
  REQUIRE(pair.done());
  std::vector<std::uint8_t> data = pattern(8 * 1024 * 1024);
  for (int round = 0; round < 8; ++round) {
    data[static_cast<std::size_t>(round)] ^= 0x5a;
    std::vector<std::uint8_t> there;
    std::vector<std::uint8_t> back;
    REQUIRE(pair.client.session->write(data));
    REQUIRE(pair.server.session->write(data));
    move_all(pair.client, pair.server, there, 256 * 1024);
    move_all(pair.server, pair.client, back, 256 * 1024);
    REQUIRE(there == data);
    REQUIRE(back == data);
  }
}

TEST_CASE("a buffer smaller than a record is filled and the rest kept") {
  Pair pair;
  pair.shake();
  std::vector<std::uint8_t> data = pattern(16384);
  REQUIRE(pair.client.session->write(data));
  std::vector<std::uint8_t> wire = pair.client.take();
  pair.server.session->feed(wire);
  std::vector<std::uint8_t> received;
  std::vector<std::uint8_t> buffer(1000);
  for (;;) {
    Result<Session::Plaintext> got = pair.server.session->read(buffer);
    REQUIRE(got);
    received.insert(received.end(), buffer.begin(),
                    buffer.begin() + static_cast<std::ptrdiff_t>(got->size));
    if (got->need_input) break;
  }
  CHECK(received == data);
  Result<Session::Plaintext> nothing = pair.server.session->read({});
  REQUIRE(nothing);
  CHECK(nothing->size == 0);
}

TEST_CASE("close_notify is told apart from input that just ends, and the other way stays open") {
  Pair pair;
  pair.shake();
  std::vector<std::uint8_t> buffer(32 * 1024);
  REQUIRE(pair.client.session->write(pattern(100)));
  std::vector<std::uint8_t> wire = pair.client.take();
  pair.server.session->feed(wire);
  Result<Session::Plaintext> ended = pair.server.session->read(buffer);
  REQUIRE(ended);
  CHECK(ended->size == 100);
  CHECK(ended->need_input);
  CHECK_FALSE(ended->closed);

  REQUIRE(pair.client.session->write(pattern(50)));
  pair.client.session->close();
  std::vector<std::uint8_t> last = pair.client.take();
  pair.server.session->feed(last);
  Result<Session::Plaintext> closed = pair.server.session->read(buffer);
  REQUIRE(closed);
  CHECK(closed->size == 50);
  CHECK(closed->closed);
  CHECK(pair.server.session->read(buffer)->closed);

  REQUIRE(pair.server.session->write(pattern(70)));
  std::vector<std::uint8_t> received;
  move_all(pair.server, pair.client, received, 1000);
  CHECK(received.size() == 70);
  CHECK_FALSE(pair.client.session->write(pattern(1)));
}

TEST_CASE("data decrypted before a bad record is handed over, then the error") {
  Pair pair;
  pair.shake();
  REQUIRE(pair.client.session->write(pattern(16384 * 3)));
  std::vector<std::uint8_t> wire = pair.client.take();
  wire.back() ^= 1;
  pair.server.session->feed(wire);
  std::vector<std::uint8_t> buffer(128 * 1024);
  Result<Session::Plaintext> good = pair.server.session->read(buffer);
  REQUIRE(good);
  CHECK(good->size == 16384 * 2);
  CHECK_FALSE(good->need_input);
  Result<Session::Plaintext> bad = pair.server.session->read(buffer);
  REQUIRE_FALSE(bad);
  CHECK(bad.error().code == ErrorCode::kTls);
  CHECK_THAT(bad.error().message, Catch::Contains("does not decrypt"));
  CHECK_FALSE(pair.server.session->write(buffer));
  // The peer hears why.
  std::vector<std::uint8_t> alert = pair.server.take();
  pair.client.session->feed(alert);
  Result<Session::Plaintext> told = pair.client.session->read(buffer);
  REQUIRE_FALSE(told);
  CHECK_THAT(told.error().message, Catch::Contains("alert"));
}

TEST_CASE("noise instead of a handshake is refused in words") {
  struct Case {
    std::string bytes;
    std::string reason;
  };
  for (const Case& each :
       {Case{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "plain HTTP"},
        Case{std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "does not speak TLS"},
        Case{std::string(64, 'x'), "does not speak TLS"},
        Case{std::string("\x16\x03\x01\x00\x04\x01\x00\x00\x00", 9), "TLS failed"}}) {
    Pair pair;
    pair.server.session->feed(as_bytes(each.bytes));
    Result<Session::Progress> result = pair.server.session->handshake();
    REQUIRE_FALSE(result);
    CHECK(result.error().code == ErrorCode::kTls);
    CHECK_THAT(result.error().message, Catch::Contains(each.reason));
  }
}

TEST_CASE("a handshake message of 64 KiB is waited for, a longer one is refused at its header") {
  for (bool over : {false, true}) {
    Pair pair;
    std::string header("\x16\x03\x01\x00\x04\x01", 6);
    header += over ? std::string("\x01\x00\x01", 3) : std::string("\x01\x00\x00", 3);
    pair.server.session->feed(as_bytes(header));
    Result<Session::Progress> result = pair.server.session->handshake();
    if (!over) {
      REQUIRE(result);
      CHECK(*result == Session::Progress::kNeedInput);
    } else {
      REQUIRE_FALSE(result);
      CHECK_THAT(result.error().message, Catch::Contains("over 65536 bytes"));
    }
  }
}

TEST_CASE("without a credential there is a refusal, not a crash") {
  End client;
  auto session = Session::client(
      nullptr, kReviews, [] { return kNow; }, &client);
  REQUIRE_FALSE(session);
  CHECK(session.error().code == ErrorCode::kUnavailable);

  Pair pair(credential_for(kProduct), always(nullptr));
  pair.shake();
  REQUIRE_FALSE(pair.server.last);
  CHECK(pair.server.last.error().message == "no certificate to present");
  REQUIRE_FALSE(pair.client.last);
  CHECK_THAT(pair.client.last.error().message, Catch::Contains("unrecognized_name"));
}

TEST_CASE("using a session out of turn is an error, not a crash") {
  Pair pair;
  std::vector<std::uint8_t> buffer(100);
  CHECK(pair.client.session->write(buffer).error().code == ErrorCode::kInternal);
  CHECK(pair.client.session->read(buffer).error().code == ErrorCode::kInternal);
  pair.client.session->close();
  pair.shake();
  REQUIRE(pair.done());
  REQUIRE(pair.client.session->write(pattern(100)));
  std::vector<std::uint8_t> wire = pair.client.take();
  pair.server.session->feed(wire);
  pair.server.session->feed(wire);
  Result<Session::Plaintext> result = pair.server.session->read(buffer);
  REQUIRE_FALSE(result);
  CHECK(result.error().code == ErrorCode::kInternal);
}

}  // namespace
}  // namespace meshnode::tls::test
