/// Sessions whose private keys answer later, elsewhere or never.

#include "tls/signer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <optional>

#include "tls/certificates.h"
#include "tls/credential_parts.h"
#include "tls/pair.h"
#include "tls/raw_peer.h"

namespace meshnode::tls::test {
namespace {

/// Keeps each request until the test answers it.
class Desk {
 public:
  struct Pending {
    std::uint16_t algorithm;
    std::vector<std::uint8_t> input;
    std::function<void(Result<Signature>)> done;
  };

  class Request final : public SignRequest {
   public:
    explicit Request(Desk* desk) : desk_(desk) {}
    ~Request() override { desk_->cancel(); }

   private:
    Desk* desk_;
  };

  class Client final : public Signer {
   public:
    explicit Client(Desk* desk) : desk_(desk) {}
    std::unique_ptr<SignRequest> sign(std::uint16_t algorithm, Bytes input,
                                      std::function<void(Result<Signature>)> done) const override {
      desk_->pending = Pending{algorithm, {input.begin(), input.end()}, std::move(done)};
      return std::make_unique<Request>(desk_);
    }

   private:
    Desk* desk_;
  };

  void cancel() {
    if (pending) ++cancelled;
    pending.reset();
  }
  void answer(const Signer& key) {
    Pending taken = std::move(*pending);
    pending.reset();
    key.sign(taken.algorithm, taken.input, std::move(taken.done));
  }
  void answer(Error error) {
    Pending taken = std::move(*pending);
    pending.reset();
    taken.done(fail(std::move(error)));
  }

  std::optional<Pending> pending;
  int cancelled = 0;
};

struct Remote {
  explicit Remote(const SpiffeId& id) {
    Shape shape;
    shape.uris = {id.uri()};
    shape.issuer = &root_objects();
    leaf = issue(shape);
    key = std::make_unique<KeySigner>(bssl::UpRef(leaf.key));
    credential = Credential::with_signer(leaf.pem(), std::make_unique<Desk::Client>(&desk),
                                         root().certificate, kNow)
                     .value();
  }
  Issued leaf;
  std::unique_ptr<KeySigner> key;
  Desk desk;
  std::shared_ptr<const Credential> credential;
};

using Progress = Session::Progress;

TEST_CASE("a server waits for its signature and goes on when it comes") {
  Remote remote(kReviews);
  Pair pair(credential_for(kProduct), remote.credential);
  pair.shake();
  REQUIRE(pair.server.last);
  CHECK(*pair.server.last == Progress::kWaitingForSignature);
  REQUIRE(remote.desk.pending);
  CHECK(pair.server.session->handshake().value() == Progress::kWaitingForSignature);
  CHECK(pair.server.signatures == 0);

  remote.desk.answer(*remote.key);
  CHECK(pair.server.signatures == 1);
  pair.server.last = pair.server.session->handshake();
  pair.shake();
  CHECK(pair.done());
  CHECK(remote.desk.cancelled == 0);
}

TEST_CASE("a client waits for its signature, and early data of the server is kept meanwhile") {
  Remote remote(kProduct);
  Shape shape;
  shape.uris = {kReviews.uri()};
  shape.issuer = &root_objects();
  Issued leaf = issue(shape);
  RawOptions options;
  options.server = true;
  options.leaf = &leaf;
  RawPeer server(options);
  End client;
  client.session = std::move(Session::client(
                                 remote.credential, kReviews, [] { return kNow; }, &client)
                                 .value());

  REQUIRE(client.session->handshake().value() == Progress::kNeedInput);
  server.give(client.take());
  SSL_do_handshake(server.ssl());
  std::vector<std::uint8_t> flight = server.take();
  client.session->feed(flight);
  REQUIRE(client.session->handshake().value() == Progress::kWaitingForSignature);
  std::fill(flight.begin(), flight.end(), std::uint8_t{0});

  remote.desk.answer(*remote.key);
  REQUIRE(client.signatures == 1);
  REQUIRE(client.session->handshake().value() == Progress::kDone);
  server.give(client.take());
  CHECK(SSL_do_handshake(server.ssl()) == 1);
  CHECK(SSL_write(server.ssl(), "hello", 5) == 5);
  std::vector<std::uint8_t> data = server.take();
  client.session->feed(data);
  std::vector<std::uint8_t> buffer(100);
  CHECK(client.session->read(buffer)->size == 5);
}

TEST_CASE("what is fed while waiting is kept, up to 64 KiB") {
  Remote remote(kReviews);
  Pair pair(credential_for(kProduct), remote.credential);
  pair.shake();
  REQUIRE(pair.server.last.value() == Progress::kWaitingForSignature);
  std::vector<std::uint8_t> early(64 * 1024);
  pair.server.session->feed(Bytes(early).first(1000));
  pair.server.session->feed(Bytes(early).subspan(1000));
  CHECK(pair.server.session->handshake().value() == Progress::kWaitingForSignature);
  pair.server.session->feed(Bytes(early).first(1));
  Result<Progress> over = pair.server.session->handshake();
  REQUIRE_FALSE(over);
  CHECK(over.error().code == ErrorCode::kLimit);
}

TEST_CASE("a change_cipher_spec behind the ClientHello survives the wait") {
  Remote remote(kReviews);
  Pair pair(credential_for(kProduct), remote.credential);
  REQUIRE(pair.client.session->handshake().value() == Progress::kNeedInput);
  std::vector<std::uint8_t> hello = pair.client.take();
  hello.insert(hello.end(), {0x14, 0x03, 0x03, 0x00, 0x01, 0x01});
  pair.server.session->feed(hello);
  REQUIRE(pair.server.session->handshake().value() == Progress::kWaitingForSignature);
  std::fill(hello.begin(), hello.end(), std::uint8_t{0xff});
  remote.desk.answer(*remote.key);
  REQUIRE(pair.server.session->handshake().value() == Progress::kNeedInput);
  pair.server.last = Progress::kNeedInput;
  pair.shake();
  CHECK(pair.done());
}

TEST_CASE("destroying a waiting session cancels its request") {
  Remote remote(kReviews);
  {
    Pair pair(credential_for(kProduct), remote.credential);
    pair.shake();
    REQUIRE(remote.desk.pending);
  }
  CHECK(remote.desk.cancelled == 1);
  CHECK_FALSE(remote.desk.pending);
}

TEST_CASE("a signer that fails ends the handshake with its words") {
  Remote remote(kReviews);
  Pair pair(credential_for(kProduct), remote.credential);
  pair.shake();
  remote.desk.answer(Error{ErrorCode::kUnavailable, "the key process is gone"});
  Result<Progress> result = pair.server.session->handshake();
  REQUIRE_FALSE(result);
  CHECK_THAT(result.error().message,
             Catch::Contains("our signature failed: the key process is gone"));
}

TEST_CASE("a signature of another key or an impossible length is not sent as if it were right") {
  Remote remote(kReviews);
  Pair pair(credential_for(kProduct), remote.credential);
  pair.shake();
  KeySigner other(make_key(Key::kP256));
  remote.desk.answer(other);
  pair.server.last = pair.server.session->handshake();
  pair.shake();
  REQUIRE_FALSE(pair.client.last);

  Pair second(credential_for(kProduct), remote.credential);
  second.shake();
  auto taken = std::move(*remote.desk.pending);
  remote.desk.pending.reset();
  taken.done(Signature(5000));
  Result<Progress> result = second.server.session->handshake();
  REQUIRE_FALSE(result);
  CHECK_THAT(result.error().message, Catch::Contains("longer than the key allows"));
}

TEST_CASE("a key signer refuses an algorithm of another kind of key") {
  KeySigner signer(make_key(Key::kP256));
  std::optional<Result<Signature>> got;
  std::vector<std::uint8_t> input(10);
  signer.sign(SSL_SIGN_RSA_PSS_RSAE_SHA256, input, [&](auto result) { got = std::move(result); });
  REQUIRE(got);
  CHECK_FALSE(*got);
}

}  // namespace
}  // namespace meshnode::tls::test
