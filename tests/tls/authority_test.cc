#include "tls/authority.h"

#include <catch2/catch.hpp>

#include "tls/certificate.h"
#include "tls/certificates.h"
#include "tls/credential.h"
#include "tls/pair.h"
#include "tls/x509.h"

namespace meshnode::tls::test {
namespace {

using Catch::Matchers::Contains;

CertificatePtr only(const std::string& pem) {
  return std::move(read_certificates(pem, "test", 1).value().front());
}

TEST_CASE("a root is an authority of its trust domain and nothing else") {
  PemPair pem = make_root("example.internal", kNow, 24h * 365).value();
  CertificatePtr root_certificate = only(pem.certificate);
  CHECK(X509_get_extension_flags(root_certificate.get()) & EXFLAG_CA);
  CHECK(X509_get_key_usage(root_certificate.get()) ==
        (X509v3_KU_KEY_CERT_SIGN | X509v3_KU_CRL_SIGN));
  CHECK(uri_name_of(root_certificate.get()).value() == "spiffe://example.internal");
  CHECK(validity_of(root_certificate.get()).not_after == kNow + 24h * 365);
  CHECK_FALSE(identity_of(root_certificate.get()));
  CHECK_THAT(pem.key, Contains("BEGIN PRIVATE KEY"));
}

TEST_CASE("a trust domain that is no lower-case DNS name gets no root") {
  for (const char* domain : {"", "Example.internal", "example.internal.", "a b", "a,URI:x"}) {
    CHECK_FALSE(make_root(domain, kNow, 24h));
  }
  CHECK_FALSE(make_root("example.internal", kNow, Duration::zero()));
  CHECK_FALSE(make_root("example.internal", kNow, Duration::max()));
}

TEST_CASE("a leaf verifies, serves both roles and differs in serial from the next") {
  PemPair one = issue_leaf(root(), kReviews, kNow, 24h).value();
  PemPair two = issue_leaf(root(), kReviews, kNow, 24h).value();
  auto first = Credential::from_pem(one.certificate, one.key, root().certificate, kNow).value();
  auto second = Credential::from_pem(two.certificate, two.key, root().certificate, kNow).value();
  CHECK(first->identity() == kReviews);
  CHECK(first->not_before() == kNow - 1min);
  CHECK(first->not_after() == kNow + 24h);
  CHECK(first->serial() != second->serial());
  CHECK(first->serial().size() == 32);
  CHECK(one.key != two.key);
}

TEST_CASE("a leaf never outlives its root") {
  PemPair short_root = make_root("example.internal", kNow, 2h).value();
  PemPair leaf = issue_leaf(short_root, kReviews, kNow + 1h, 24h).value();
  CHECK(validity_of(only(leaf.certificate).get()).not_after == kNow + 2h);
}

TEST_CASE("a root does not issue outside its trust domain or after its time") {
  SpiffeId foreign = id_of("spiffe://other.internal/ns/bookinfo/sa/reviews");
  auto outside = issue_leaf(root(), foreign, kNow, 1h);
  REQUIRE_FALSE(outside);
  CHECK_THAT(outside.error().message, Contains("outside the root's trust domain"));

  PemPair old = make_root("example.internal", kNow - 48h, 24h).value();
  auto late = issue_leaf(old, kReviews, kNow, 1h);
  REQUIRE_FALSE(late);
  CHECK_THAT(late.error().message, Contains("valid from") && Contains("meshnode ca init"));
  CHECK_FALSE(issue_leaf(root(), kReviews, kNow, Duration::zero()));
}

TEST_CASE("only a root issues: a leaf, a foreign key and noise do not") {
  PemPair leaf = issue_leaf(root(), kReviews, kNow, 24h).value();
  auto by_leaf = issue_leaf(leaf, kProduct, kNow, 1h);
  REQUIRE_FALSE(by_leaf);
  CHECK_THAT(by_leaf.error().message, Contains("no certificate authority's"));

  auto by_mixture = issue_leaf(PemPair{root().certificate, leaf.key}, kProduct, kNow, 1h);
  REQUIRE_FALSE(by_mixture);
  CHECK_THAT(by_mixture.error().message, Contains("not its certificate's"));
  CHECK_FALSE(issue_leaf(PemPair{"", ""}, kProduct, kNow, 1h));
}

TEST_CASE("the identity is read from DER, and only from all of it") {
  Shape shape;
  shape.issuer = &root_objects();
  std::string der = issue(shape).der();
  CHECK(certificate_identity(as_bytes(der)).value() == kProduct);
  CHECK_FALSE(certificate_identity(as_bytes(der + "x")));
  CHECK_FALSE(certificate_identity(as_bytes(der.substr(0, der.size() - 1))));
  CHECK_FALSE(certificate_identity({}));
}

}  // namespace
}  // namespace meshnode::tls::test
