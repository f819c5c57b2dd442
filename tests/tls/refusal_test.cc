/// Whom a session refuses, what it says about it here, and which alert the peer gets.

#include <catch2/catch.hpp>

#include "tls/certificates.h"
#include "tls/pair.h"
#include "tls/raw_peer.h"

namespace meshnode::tls::test {
namespace {

using Catch::Matchers::Contains;

struct Outcome {
  std::string reason;
  int alert = 0;
};

Outcome client_refused(RawOptions options, WallTime now = kNow,
                       CredentialSelector select = always(credential_for(kReviews))) {
  End server;
  start_server(server, std::move(select), now);
  RawPeer client(options);
  Result<Session::Progress> result = client.shake(server);
  REQUIRE_FALSE(result);
  CHECK(result.error().code == ErrorCode::kTls);
  CHECK(server.session->handshake().error() == result.error());
  return {result.error().message, client.alert()};
}

Outcome client_refused(const Shape& shape, WallTime now = kNow) {
  Issued leaf = issue(shape);
  RawOptions options;
  options.leaf = &leaf;
  return client_refused(options, now);
}

Outcome server_refused(RawOptions options, const SpiffeId& expected = kReviews) {
  options.server = true;
  End client;
  start_client(client, expected);
  RawPeer server(options);
  Result<Session::Progress> result = server.shake(client);
  REQUIRE_FALSE(result);
  return {result.error().message, server.alert()};
}

Shape client_shape() {
  Shape shape;
  shape.issuer = &root_objects();
  return shape;
}

Shape server_shape() {
  Shape shape = client_shape();
  shape.uris = {kReviews.uri()};
  return shape;
}

TEST_CASE("a well-formed certificate of our root is accepted from a raw client") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  End server;
  start_server(server, always(credential_for(kReviews)));
  RawPeer client(options);
  Result<Session::Progress> result = client.shake(server);
  INFO((result ? "" : result.error().message));
  REQUIRE(result);
  CHECK(*result == Session::Progress::kDone);
  CHECK(server.session->peer().identity == kProduct);
}

TEST_CASE("the same identity from another authority is refused") {
  PemPair other = make_root("example.internal", kNow - 24h, 24h * 365).value();
  Pair pair(credential_for(kProduct, other));
  pair.shake();
  // The client refuses first: it does not trust the server's authority either.
  REQUIRE_FALSE(pair.client.last);
  CHECK_THAT(pair.client.last.error().message, Contains("unknown issuer"));
  REQUIRE_FALSE(pair.server.last);
  CHECK_THAT(pair.server.last.error().message, Contains("unknown_ca"));

  Issued foreign_root = issue(authority_shape("foreign"));
  Shape shape = client_shape();
  shape.issuer = &foreign_root;
  Outcome outcome = client_refused(shape);
  CHECK_THAT(outcome.reason, Contains("unknown issuer"));
  CHECK(outcome.alert == SSL_AD_UNKNOWN_CA);
}

TEST_CASE("an authority of the same name and another key is refused") {
  PemPair twin = make_root("example.internal", kNow - 24h, 24h * 3650).value();
  PemPair leaf = issue_leaf(twin, kProduct, kNow, 1h).value();
  Pair pair(
      Credential::from_pem(leaf.certificate, leaf.key, twin.certificate + root().certificate, kNow)
          .value());
  pair.shake();
  REQUIRE_FALSE(pair.server.last);
  CHECK_THAT(pair.server.last.error().message, Contains("unknown issuer"));
}

TEST_CASE("an expired and a not yet valid certificate are refused with the dates") {
  Shape shape = client_shape();
  shape.not_after = kNow - 1s;
  Outcome expired = client_refused(shape);
  CHECK_THAT(expired.reason, Contains("expired at 2025-12-31T23:59:59Z") &&
                                 Contains("the time here is 2026-01-01T00:00:00Z"));
  CHECK(expired.alert == SSL_AD_CERTIFICATE_EXPIRED);

  shape = client_shape();
  shape.not_before = kNow + 1s;
  Outcome early = client_refused(shape);
  CHECK_THAT(early.reason, Contains("not yet valid, only from 2026-01-01T00:00:01Z"));
  CHECK(early.alert == SSL_AD_BAD_CERTIFICATE);
}

TEST_CASE("validity has no slack: its first second counts, its last does not") {
  struct Case {
    WallTime not_before;
    WallTime not_after;
    bool accepted;
  };
  for (const Case& each : {Case{kNow - 1h, kNow, false}, Case{kNow - 1h, kNow + 1s, true},
                           Case{kNow, kNow + 1h, true}}) {
    Shape shape = client_shape();
    shape.not_before = each.not_before;
    shape.not_after = each.not_after;
    Issued leaf = issue(shape);
    RawOptions options;
    options.leaf = &leaf;
    End server;
    start_server(server, always(credential_for(kReviews)));
    RawPeer client(options);
    CHECK(client.shake(server).has_value() == each.accepted);
  }
}

TEST_CASE("anything but exactly one URI SAN is refused") {
  Shape shape = client_shape();
  shape.uris = {kProduct.uri(), kReviews.uri()};
  Outcome two = client_refused(shape);
  CHECK_THAT(two.reason, Contains("2 URI SANs; it needs exactly one"));
  CHECK(two.alert == SSL_AD_BAD_CERTIFICATE);

  shape.uris = {kProduct.uri(), kProduct.uri()};
  CHECK_THAT(client_refused(shape).reason, Contains("2 URI SANs"));
  shape.uris = {};
  CHECK_THAT(client_refused(shape).reason, Contains("no URI SAN"));
  shape.dns = {"productpage.bookinfo"};
  CHECK_THAT(client_refused(shape).reason, Contains("no URI SAN"));

  shape = client_shape();
  shape.second_san = true;
  CHECK_THAT(client_refused(shape).reason, Contains("extensions are malformed"));
}

TEST_CASE("a DNS name beside the one URI SAN is no obstacle") {
  Shape shape = client_shape();
  shape.dns = {"productpage.bookinfo"};
  Issued leaf = issue(shape);
  RawOptions options;
  options.leaf = &leaf;
  End server;
  start_server(server, always(credential_for(kReviews)));
  RawPeer client(options);
  CHECK(client.shake(server));
}

TEST_CASE("a URI SAN that is no workload identity is refused") {
  for (const std::string& uri : std::vector<std::string>{
           "spiffe://example.internal/ns/bookinfo/sa/productpage" + std::string(1, '\0'),
           "spiffe://example.internal/ns/bookinfo/sa/product" + std::string(1, '\0') + "page",
           "spiffe://example.internal/ns/bookinfo/sa/productpage/",
           "spiffe://example.internal./ns/bookinfo/sa/productpage",
           "spiffe://EXAMPLE.internal/ns/bookinfo/sa/productpage",
           "SPIFFE://example.internal/ns/bookinfo/sa/productpage",
           "https://example.internal/ns/bookinfo/sa/productpage", "spiffe://example.internal",
           ""}) {
    INFO(uri);
    Shape shape = client_shape();
    shape.uris = {uri};
    Outcome outcome = client_refused(shape);
    CHECK(outcome.alert == SSL_AD_BAD_CERTIFICATE);
  }
}

TEST_CASE("another trust domain is refused, also one that ours ends with or begins with") {
  for (const char* domain : {"other.internal", "evil-example.internal", "sub.example.internal",
                             "example.internal.evil", "internal"}) {
    Shape shape = client_shape();
    shape.uris = {std::string("spiffe://") + domain + "/ns/bookinfo/sa/productpage"};
    Outcome outcome = client_refused(shape);
    CHECK_THAT(outcome.reason, Contains("another trust domain than ours, example.internal"));
    CHECK(outcome.alert == SSL_AD_ACCESS_DENIED);
  }
}

TEST_CASE("an authority's certificate as leaf and a wrong usage are refused") {
  Shape shape = client_shape();
  shape.constraints = "critical,CA:TRUE";
  CHECK_THAT(client_refused(shape).reason, Contains("certificate authority's, not a workload's"));

  shape = client_shape();
  shape.usage = "critical,digitalSignature,keyCertSign";
  shape.constraints = "";
  CHECK_THAT(client_refused(shape).reason, Contains("certificate authority's"));
  shape = client_shape();
  shape.extended = "serverAuth";
  Outcome outcome = client_refused(shape);
  CHECK_THAT(outcome.reason, Contains("lacks clientAuth"));
  CHECK(outcome.alert == SSL_AD_UNSUPPORTED_CERTIFICATE);

  shape = server_shape();
  shape.extended = "clientAuth";
  Issued leaf = issue(shape);
  RawOptions options;
  options.leaf = &leaf;
  CHECK_THAT(server_refused(options).reason, Contains("lacks serverAuth"));
}

TEST_CASE("a certificate without key usages is accepted, one that may not sign is not") {
  Shape shape = client_shape();
  shape.usage = "";
  shape.extended = "";
  Issued leaf = issue(shape);
  RawOptions options;
  options.leaf = &leaf;
  End server;
  start_server(server, always(credential_for(kReviews)));
  RawPeer client(options);
  CHECK(client.shake(server));

  shape.usage = "critical,keyAgreement";
  Issued mute = issue(shape);
  auto result = Credential::from_pem(mute.pem(), mute.key_pem(), root().certificate, kNow);
  REQUIRE_FALSE(result);
  CHECK_THAT(result.error().message, Contains("lacks digitalSignature"));
}

TEST_CASE("a chain of five certificates is accepted, one of six is not") {
  std::vector<Issued> authorities;
  authorities.reserve(5);
  const Issued* issuer = &root_objects();
  for (int depth = 1; depth <= 4; ++depth) {
    authorities.push_back(issue(authority_shape("intermediate " + std::to_string(depth), issuer)));
    issuer = &authorities.back();
    Shape shape = client_shape();
    shape.issuer = issuer;
    Issued leaf = issue(shape);
    RawOptions options;
    options.leaf = &leaf;
    for (const Issued& authority : authorities) options.intermediates.push_back(&authority);
    if (depth <= 3) {
      End server;
      start_server(server, always(credential_for(kReviews)));
      RawPeer client(options);
      Result<Session::Progress> result = client.shake(server);
      INFO((result ? "" : result.error().message));
      CHECK(result);
    } else {
      Outcome outcome = client_refused(options);
      CHECK_THAT(outcome.reason, Contains("5 certificates"));
      CHECK(outcome.alert == SSL_AD_UNKNOWN_CA);
    }
  }
}

TEST_CASE("more certificates than a chain may have are not even read") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  options.intermediates.assign(5, &root_objects());
  CHECK_THAT(client_refused(options).reason, Contains("6 certificates; at most 5"));
}

TEST_CASE("a leaf cannot issue, and an intermediate counts only if it may") {
  Issued middle = issue(client_shape());
  Shape shape = client_shape();
  shape.issuer = &middle;
  Issued leaf = issue(shape);
  RawOptions options;
  options.leaf = &leaf;
  options.intermediates = {&middle};
  CHECK_FALSE(client_refused(options).reason.empty());

  Shape no_constraints = authority_shape("no constraints", &root_objects());
  no_constraints.constraints = "";
  Issued weak = issue(no_constraints);
  shape.issuer = &weak;
  Issued second = issue(shape);
  options.leaf = &second;
  options.intermediates = {&weak};
  CHECK_FALSE(client_refused(options).reason.empty());

  Shape expired = authority_shape("old authority", &root_objects());
  expired.not_after = kNow - 1h;
  Issued old = issue(expired);
  shape.issuer = &old;
  Issued third = issue(shape);
  options.leaf = &third;
  options.intermediates = {&old};
  CHECK_THAT(client_refused(options).reason,
             Contains("old authority") && Contains("expired at 2025-12-31T23:00:00Z"));
}

TEST_CASE("keys: RSA of 2048 bits, P-384 and Ed25519 are accepted, less is not") {
  for (Key kind : {Key::kRsa2048, Key::kP384, Key::kEd25519}) {
    Shape shape = client_shape();
    shape.key = kind;
    Issued leaf = issue(shape);
    RawOptions options;
    options.leaf = &leaf;
    End server;
    start_server(server, always(credential_for(kReviews)));
    RawPeer client(options);
    if (kind == Key::kEd25519) {
      std::uint16_t algorithm = SSL_SIGN_ED25519;
      SSL_set_signing_algorithm_prefs(client.ssl(), &algorithm, 1);
    }
    Result<Session::Progress> result = client.shake(server);
    INFO((result ? "" : result.error().message));
    CHECK(result);
  }
  Shape shape = client_shape();
  shape.key = Key::kRsa1024;
  CHECK_THAT(client_refused(shape).reason, Contains("RSA key has 1024 bits"));
  shape.key = Key::kP521;
  // The peer itself has no signature algorithm in common with us.
  Issued leaf = issue(shape);
  RawOptions options;
  options.leaf = &leaf;
  End server;
  start_server(server, always(credential_for(kReviews)));
  RawPeer client(options);
  Result<Session::Progress> result = client.shake(server);
  CHECK_FALSE((result && *result == Session::Progress::kDone));
}

TEST_CASE("a weak authority is refused though it is trusted") {
  Shape weak = authority_shape("weak root");
  weak.key = Key::kRsa1024;
  Issued weak_root = issue(weak);
  Shape shape = client_shape();
  shape.issuer = &weak_root;
  Issued leaf = issue(shape);
  auto result = Credential::from_pem(leaf.pem(), leaf.key_pem(), weak_root.pem(), kNow);
  REQUIRE_FALSE(result);
  CHECK_THAT(result.error().message, Contains("weak root") && Contains("1024 bits"));
}

TEST_CASE("a client without a certificate is refused") {
  Outcome outcome = client_refused(RawOptions{});
  CHECK_THAT(outcome.reason, Contains("the peer presented no certificate; is it"));
  CHECK(outcome.alert == SSL_AD_CERTIFICATE_REQUIRED);
}

TEST_CASE("TLS 1.2 is refused by both ends") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  options.max_version = TLS1_2_VERSION;
  Outcome outcome = client_refused(options);
  CHECK_THAT(outcome.reason, Contains("the peer does not offer TLS 1.3; is it"));
  CHECK(outcome.alert == SSL_AD_PROTOCOL_VERSION);

  Issued server_leaf = issue(server_shape());
  options.leaf = &server_leaf;
  Outcome other = server_refused(options);
  CHECK_THAT(other.reason, Contains("protocol_version") && Contains("TLS 1.3"));
}

TEST_CASE("a client that offers no h2 is refused before any certificate is shown") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  for (const std::string& alpn : {std::string(), std::string("\x08http/1.1"),
                                  std::string("\x03h2c\x02h3"), std::string("\x01h")}) {
    options.alpn = alpn;
    Outcome outcome = client_refused(options);
    CHECK_THAT(outcome.reason, Contains("the peer does not offer ALPN h2; "));
    CHECK(outcome.alert == SSL_AD_NO_APPLICATION_PROTOCOL);
  }
}

TEST_CASE("h2 is found among other protocols") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  options.alpn = "\x08http/1.1\x02h2";
  End server;
  start_server(server, always(credential_for(kReviews)));
  RawPeer client(options);
  CHECK(client.shake(server));
}

TEST_CASE("a server that chooses no h2 is refused") {
  Issued leaf = issue(server_shape());
  RawOptions options;
  options.leaf = &leaf;
  options.alpn = "";
  Outcome outcome = server_refused(options);
  CHECK_THAT(outcome.reason, Contains("the peer did not choose ALPN h2; is it"));
  CHECK(outcome.alert == SSL_AD_NO_APPLICATION_PROTOCOL);
}

TEST_CASE("a server of another identity than the expected one is refused") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  Outcome outcome = server_refused(options);
  CHECK(outcome.reason == "the peer is " + kProduct.uri() + ", not " + kReviews.uri());
  CHECK(outcome.alert == SSL_AD_ACCESS_DENIED);
}

TEST_CASE("an unknown server name is refused in the selector's words") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  options.server_name = "nobody.nowhere.sa.example.internal";
  std::string asked;
  Outcome outcome = client_refused(options, kNow, [&](std::optional<std::string_view> name) {
    asked = name.value_or("-");
    return Result<std::shared_ptr<const Credential>>(
        fail(ErrorCode::kNotFound, "no workload here answers to that name"));
  });
  CHECK(asked == options.server_name);
  CHECK(outcome.reason == "no workload here answers to that name");
  CHECK(outcome.alert == SSL_AD_UNRECOGNIZED_NAME);
}

TEST_CASE("the selector is asked without a name when the client sends none") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  options.server_name = "";
  End server;
  bool asked = false;
  start_server(server, [&](std::optional<std::string_view> name) {
    asked = !name;
    return credential_for(kReviews);
  });
  RawPeer client(options);
  CHECK(client.shake(server));
  CHECK(asked);
}

TEST_CASE("a server name of 253 octets is looked up, one of 254 is not") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  for (std::size_t size : {std::size_t{253}, std::size_t{254}, std::size_t{255}}) {
    options.server_name = std::string(size, 'a');
    std::size_t asked = 0;
    Outcome outcome = client_refused(options, kNow, [&](std::optional<std::string_view> name) {
      asked = name->size();
      return Result<std::shared_ptr<const Credential>>(fail(ErrorCode::kNotFound, "unknown"));
    });
    CHECK(outcome.alert == SSL_AD_UNRECOGNIZED_NAME);
    CHECK(asked == (size == 253 ? 253u : 0u));
  }
}

TEST_CASE("a peer without a common key exchange group is refused") {
  Issued leaf = issue(client_shape());
  RawOptions options;
  options.leaf = &leaf;
  options.groups = "P-521";
  CHECK_THAT(client_refused(options).reason, Contains("no key exchange group"));
}

TEST_CASE("a refusal by the server reaches the client's read with the alert's name") {
  // In TLS 1.3 the client is done before the server has looked at its certificate.
  Pair pair(credential_for(kProduct), always(credential_for(kReviews)));
  Issued foreign_root = issue(authority_shape("foreign"));
  Shape shape = client_shape();
  shape.issuer = &foreign_root;
  Issued leaf = issue(shape);
  Pair refused(Credential::from_pem(leaf.pem(), leaf.key_pem(),
                                    foreign_root.pem() + root().certificate, kNow)
                   .value(),
               credential_for(kReviews));
  refused.shake();
  REQUIRE(refused.client.last);
  REQUIRE_FALSE(refused.server.last);
  REQUIRE_FALSE(refused.client.after);
  CHECK_THAT(refused.client.after.error().message, Contains("the peer sent the alert unknown_ca"));
}

}  // namespace
}  // namespace meshnode::tls::test
