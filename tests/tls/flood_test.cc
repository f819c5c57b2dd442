/// What a peer may not repeat without end, and what we offer on the wire.

#include <catch2/catch.hpp>

#include "tls/certificates.h"
#include "tls/pair.h"
#include "tls/raw_peer.h"

namespace meshnode::tls::test {
namespace {

struct Joined {
  explicit Joined(const std::function<void(SSL*)>& prepare = nullptr) {
    Shape shape;
    shape.issuer = &root_objects();
    leaf = issue(shape);
    RawOptions options;
    options.leaf = &leaf;
    client = std::make_unique<RawPeer>(options);
    if (prepare) prepare(client->ssl());
    start_server(server, always(credential_for(kReviews)));
    Result<Session::Progress> result = client->shake(server);
    INFO((result ? "" : result.error().message));
    REQUIRE(result);
    REQUIRE(*result == Session::Progress::kDone);
  }
  Result<Session::Plaintext> deliver() {
    wire = client->take();
    server.session->feed(wire);
    return server.session->read(buffer);
  }
  Issued leaf;
  std::unique_ptr<RawPeer> client;
  End server;
  std::vector<std::uint8_t> wire;
  std::vector<std::uint8_t> buffer = std::vector<std::uint8_t>(64 * 1024);
};

TEST_CASE("32 key updates in a row are followed, the 33rd is refused; data starts a new count") {
  Joined joined;
  auto update = [&] {
    REQUIRE(SSL_key_update(joined.client->ssl(), SSL_KEY_UPDATE_NOT_REQUESTED));
    // BoringSSL sends a key update with the next write only.
    SSL_write(joined.client->ssl(), "", 0);
  };
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 32; ++i) {
      update();
      Result<Session::Plaintext> result = joined.deliver();
      REQUIRE(result);
    }
    REQUIRE(SSL_write(joined.client->ssl(), "data", 4) == 4);
    Result<Session::Plaintext> result = joined.deliver();
    REQUIRE(result);
    CHECK(result->size == 4);
  }
  bool refused = false;
  for (int i = 0; i < 33 && !refused; ++i) {
    update();
    Result<Session::Plaintext> result = joined.deliver();
    refused = !result;
    if (refused) {
      CHECK(i == 32);
      CHECK_THAT(result.error().message, Catch::Contains("too many key updates"));
    }
  }
  CHECK(refused);
}

TEST_CASE("32 empty records in a row are skipped, the 33rd is refused; data starts a new count") {
  Joined joined;
  auto empty = [&](int count) {
    joined.wire = joined.client->records(count, SSL3_RT_APPLICATION_DATA, {});
    joined.server.session->feed(joined.wire);
    return joined.server.session->read(joined.buffer);
  };
  REQUIRE(empty(32));
  joined.wire = joined.client->records(1, SSL3_RT_APPLICATION_DATA, as_bytes("data"));
  joined.server.session->feed(joined.wire);
  Result<Session::Plaintext> result = joined.server.session->read(joined.buffer);
  REQUIRE(result);
  CHECK(result->size == 4);
  REQUIRE(empty(32));
  result = empty(1);
  REQUIRE_FALSE(result);
  CHECK_THAT(result.error().message, Catch::Contains("too many empty records"));
}

TEST_CASE("a server that we dialled may send 32 session tickets, and no more") {
  const int at_once = GENERATE(1, 10'000);
  Shape shape;
  shape.issuer = &root_objects();
  shape.uris = {kReviews.uri()};
  Issued leaf = issue(shape);
  RawOptions options;
  options.server = true;
  options.leaf = &leaf;
  RawPeer server(options);
  SSL_set_options(server.ssl(), SSL_OP_NO_TICKET);
  End client;
  start_client(client);
  Result<Session::Progress> progress = server.shake(client);
  REQUIRE(progress);
  REQUIRE(*progress == Session::Progress::kDone);
  // RFC 8446 §4.6.1: an hour's lifetime, a nonce and a ticket of four octets.
  const std::string ticket("\4\0\0\x13\0\0\x0e\x10\1\2\3\4\2no\0\4tick\0\0", 23);
  int sent = 0;
  std::vector<std::uint8_t> wire;
  Result<Session::Plaintext> result = Session::Plaintext{};
  while (result && sent < 10'000) {
    wire = server.records(at_once, SSL3_RT_HANDSHAKE, as_bytes(ticket));
    sent += at_once;
    client.session->feed(wire);
    result = client.session->read(client.scratch);
  }
  REQUIRE_FALSE(result);
  CHECK_THAT(result.error().message, Catch::Contains("too many session tickets"));
  CHECK(sent == (at_once == 1 ? 33 : 10'000));
  server.give(client.take());
  CHECK(server.alert() == SSL_AD_UNEXPECTED_MESSAGE);
}

TEST_CASE("answers to key updates do not pile up") {
  Joined joined;
  for (int i = 0; i < 31; ++i) {
    REQUIRE(SSL_key_update(joined.client->ssl(), SSL_KEY_UPDATE_REQUESTED));
    SSL_write(joined.client->ssl(), "", 0);
  }
  joined.server.pieces.clear();
  REQUIRE(joined.deliver());
  CHECK(joined.server.pieces.size() <= 1);
}

TEST_CASE("no tickets, no early data: a second connection is a full handshake") {
  Joined first;
  SSL_SESSION* session = SSL_get_session(first.client->ssl());
  CHECK(SSL_SESSION_has_ticket(session) == 0);
  CHECK(SSL_SESSION_early_data_capable(session) == 0);
  CHECK(SSL_session_reused(first.client->ssl()) == 0);
}

TEST_CASE("X25519 and, between equals with hardware AES, TLS_AES_128_GCM_SHA256 are chosen") {
  Joined joined;
  CHECK(SSL_get_curve_id(joined.client->ssl()) == SSL_CURVE_X25519);
  CHECK(SSL_CIPHER_get_id(SSL_get_current_cipher(joined.client->ssl())) ==
        TLS1_CK_AES_128_GCM_SHA256);
}

TEST_CASE("P-256 serves peers without X25519") {
  Shape shape;
  shape.issuer = &root_objects();
  Issued leaf = issue(shape);
  RawOptions options;
  options.leaf = &leaf;
  options.groups = "P-256";
  End server;
  start_server(server, always(credential_for(kReviews)));
  RawPeer client(options);
  Result<Session::Progress> result = client.shake(server);
  REQUIRE(result);
  CHECK(SSL_get_curve_id(client.ssl()) == SSL_CURVE_SECP256R1);
}

}  // namespace
}  // namespace meshnode::tls::test
