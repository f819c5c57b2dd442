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
