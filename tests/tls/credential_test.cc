#include "tls/credential.h"

#include <openssl/err.h>
#include <catch2/catch.hpp>

#include "tls/certificates.h"
#include "tls/pair.h"
#include "tls/x509.h"

namespace meshnode::tls::test {
namespace {

using Catch::Matchers::Contains;

Shape shape_of_ours() {
  Shape shape;
  shape.issuer = &root_objects();
  return shape;
}

std::string refused(const std::string& chain, const std::string& key, const std::string& roots,
                    WallTime now = kNow) {
  auto result = Credential::from_pem(chain, key, roots, now);
  REQUIRE_FALSE(result);
  return result.error().message;
}

std::string refused(const Shape& shape) {
  Issued leaf = issue(shape);
  return refused(leaf.pem(), leaf.key_pem(), root().certificate);
}

TEST_CASE("a credential tells its identity, validity and serial") {
  Shape shape = shape_of_ours();
  Issued leaf = issue(shape);
  REQUIRE(ASN1_INTEGER_set_uint64(X509_get_serialNumber(leaf.certificate.get()), 0x0102abcd));
  REQUIRE(X509_sign(leaf.certificate.get(), root_objects().key.get(), EVP_sha256()));
  auto credential =
      Credential::from_pem(leaf.pem(), leaf.key_pem(), root().certificate, kNow).value();
  CHECK(credential->identity() == kProduct);
  CHECK(credential->not_before() == kNow - 1h);
  CHECK(credential->not_after() == kNow + 24h);
  CHECK(credential->serial() == "0102abcd");
}

TEST_CASE("a SEC1 key and text around the PEM blocks are read") {
  Issued leaf = issue(shape_of_ours());
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  REQUIRE(PEM_write_bio_ECPrivateKey(bio.get(), EVP_PKEY_get0_EC_KEY(leaf.key.get()), nullptr,
                                     nullptr, 0, nullptr, nullptr));
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;
  REQUIRE(BIO_mem_contents(bio.get(), &data, &size));
  std::string key(as_text({data, size}));
  CHECK_THAT(key, Contains("BEGIN EC PRIVATE KEY"));
  CHECK(Credential::from_pem("subject=...\n" + leaf.pem(), "Bag Attributes\n" + key,
                             root().certificate, kNow));
}

TEST_CASE("a P-384 key works") {
  Shape shape = shape_of_ours();
  shape.key = Key::kP384;
  Issued leaf = issue(shape);
  auto credential = Credential::from_pem(leaf.pem(), leaf.key_pem(), root().certificate, kNow);
  REQUIRE(credential);
  Pair pair(*credential);
  pair.shake();
  CHECK(pair.done());
}

TEST_CASE("a key that is not the certificate's is refused") {
  Issued one = issue(shape_of_ours());
  Issued two = issue(shape_of_ours());
  CHECK_THAT(refused(one.pem(), two.key_pem(), root().certificate),
             Contains("not the certificate's; store both from one issuance"));
}

TEST_CASE("a certificate outside its validity is refused with the dates") {
  Shape shape = shape_of_ours();
  shape.not_after = kNow - 1h;
  CHECK_THAT(refused(shape), Contains("expired at 2025-12-31T23:00:00Z"));
  shape = shape_of_ours();
  shape.not_before = kNow + 1h;
  CHECK_THAT(refused(shape), Contains("not yet valid, only from 2026-01-01T01:00:00Z"));
}

TEST_CASE("a certificate of another shape than a workload's is refused") {
  Shape shape = shape_of_ours();
  shape.constraints = "critical,CA:TRUE";
  CHECK_THAT(refused(shape), Contains("certificate authority's"));
  shape = shape_of_ours();
  shape.uris = {kProduct.uri(), kReviews.uri()};
  CHECK_THAT(refused(shape), Contains("2 URI SANs"));
  shape.uris = {"spiffe://example.internal/node/abc"};
  CHECK_THAT(refused(shape), Contains("spiffe://<trust-domain>/ns/<namespace>"));
  shape = shape_of_ours();
  shape.extended = "clientAuth";
  CHECK_THAT(refused(shape), Contains("lacks serverAuth"));
  shape.extended = "codeSigning";
  CHECK_THAT(refused(shape), Contains("lacks clientAuth"));
}

TEST_CASE("own keys must be elliptic: RSA and Ed25519 are refused with the next step") {
  Shape shape = shape_of_ours();
  shape.key = Key::kRsa2048;
  CHECK_THAT(refused(shape), Contains("RSA; issue one for an EC P-256 key"));
  shape.key = Key::kEd25519;
  CHECK_THAT(refused(shape), Contains("Ed25519; issue one for an EC P-256 key"));
  shape.key = Key::kP521;
  CHECK_THAT(refused(shape), Contains("neither P-256 nor P-384"));
}

TEST_CASE("a chain that does not end in the roots is refused") {
  Issued foreign = issue(authority_shape("foreign"));
  Issued leaf = issue(shape_of_ours());
  CHECK_THAT(refused(leaf.pem(), leaf.key_pem(), foreign.pem()),
             Contains("unknown issuer \"/O=meshnode\""));

  Issued middle = issue(authority_shape("middle", &root_objects()));
  Shape shape = shape_of_ours();
  shape.issuer = &middle;
  Issued below = issue(shape);
  CHECK_THAT(refused(below.pem(), below.key_pem(), root().certificate),
             Contains("unknown issuer \"/CN=middle\""));
  CHECK(
      Credential::from_pem(below.pem() + middle.pem(), below.key_pem(), root().certificate, kNow));
}

TEST_CASE("several roots are all trusted") {
  Issued foreign = issue(authority_shape("foreign"));
  Issued leaf = issue(shape_of_ours());
  CHECK(Credential::from_pem(leaf.pem(), leaf.key_pem(), foreign.pem() + root().certificate, kNow));
}

TEST_CASE("a root of the same name with broken extensions is passed over and leaves no error") {
  std::string der = root_objects().der();
  const std::size_t at = der.find(std::string("\x30\x03\x01\x01\xff", 5));
  REQUIRE(at != std::string::npos);
  der[at + 1] = '\x7f';  // basicConstraints longer than it is
  const Issued broken{parse_certificate(as_bytes(der)), nullptr};
  const Issued leaf = issue(shape_of_ours());
  for (const bool first : {false, true}) {
    const std::string& whole = root().certificate;
    const std::string roots = first ? broken.pem() + whole : whole + broken.pem();
    CHECK(Credential::from_pem(leaf.pem(), leaf.key_pem(), roots, kNow));
    CHECK(ERR_peek_error() == 0);
  }
}

TEST_CASE("64 roots and a chain of five certificates are read, more are not") {
  Issued leaf = issue(shape_of_ours());
  std::string roots = root().certificate;
  for (int i = 1; i < 64; ++i) roots += issue(authority_shape("root " + std::to_string(i))).pem();
  CHECK(Credential::from_pem(leaf.pem(), leaf.key_pem(), roots, kNow));
  CHECK_THAT(refused(leaf.pem(), leaf.key_pem(), roots + root().certificate),
             Contains("more than 64"));

  std::string chain = leaf.pem();
  for (int i = 0; i < 4; ++i) chain += root().certificate;
  CHECK(Credential::from_pem(chain, leaf.key_pem(), root().certificate, kNow));
  CHECK_THAT(refused(chain + root().certificate, leaf.key_pem(), root().certificate),
             Contains("more than 5"));
}

TEST_CASE("text that holds no certificate or key is refused by what is missing") {
  Issued leaf = issue(shape_of_ours());
  CHECK_THAT(refused("", leaf.key_pem(), root().certificate), Contains("certificate chain"));
  CHECK_THAT(refused(leaf.pem(), "", root().certificate), Contains("no private key"));
  CHECK_THAT(refused(leaf.pem(), leaf.key_pem(), "nothing"), Contains("trusted roots"));
  CHECK_THAT(refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                     leaf.key_pem(), root().certificate),
             Contains("certificate 1 of the certificate chain is not X.509"));
  std::string half = leaf.pem().substr(0, leaf.pem().size() / 2);
  CHECK_THAT(refused(half, leaf.key_pem(), root().certificate), Contains("no PEM block"));
  CHECK_THAT(refused(leaf.pem(), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                     root().certificate),
             Contains("malformed"));
}

TEST_CASE("an encrypted key is refused with the next step") {
  Issued leaf = issue(shape_of_ours());
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  std::string password = "secret";
  REQUIRE(PEM_write_bio_PKCS8PrivateKey(bio.get(), leaf.key.get(), EVP_aes_128_cbc(),
                                        password.data(), static_cast<int>(password.size()), nullptr,
                                        nullptr));
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;
  REQUIRE(BIO_mem_contents(bio.get(), &data, &size));
  CHECK_THAT(refused(leaf.pem(), std::string(as_text({data, size})), root().certificate),
             Contains("store it without a password"));
}

TEST_CASE("the end of time is a valid notAfter") {
  Shape shape = shape_of_ours();
  Issued leaf = issue(shape);
  REQUIRE(ASN1_TIME_set_string(X509_getm_notAfter(leaf.certificate.get()), "99991231235959Z"));
  REQUIRE(X509_sign(leaf.certificate.get(), root_objects().key.get(), EVP_sha256()));
  auto credential = Credential::from_pem(leaf.pem(), leaf.key_pem(), root().certificate, kNow);
  REQUIRE(credential);
  CHECK((*credential)->not_after() == WallTime::max());
}

}  // namespace
}  // namespace meshnode::tls::test
