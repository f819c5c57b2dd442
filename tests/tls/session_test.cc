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

}  // namespace
}  // namespace meshnode::tls::test
