#include "tls/authority.h"

#include <fmt/format.h>
#include <openssl/bn.h>
#include <openssl/ec_key.h>
#include <openssl/evp.h>
#include <openssl/mem.h>
#include <openssl/nid.h>
#include <openssl/rand.h>

#include <array>

#include "base/escape.h"
#include "tls/x509.h"

namespace meshnode::tls {
namespace {

constexpr Duration kSkew = std::chrono::minutes(1);
constexpr std::size_t kSerialBytes = 16;

bssl::UniquePtr<EVP_PKEY> make_key() {
  bssl::UniquePtr<EC_KEY> ec(EC_KEY_new_by_curve_name(NID_X9_62_prime256v1));
  bssl::UniquePtr<EVP_PKEY> key(EVP_PKEY_new());
  if (!ec || !key || !EC_KEY_generate_key(ec.get()) || !EVP_PKEY_set1_EC_KEY(key.get(), ec.get())) {
    return nullptr;
  }
  return key;
}

bool set_serial(X509* certificate) {
  std::array<std::uint8_t, kSerialBytes> random{};
  // A positive INTEGER of the full length, never zero (RFC 5280 §4.1.2.2).
  RAND_bytes(random.data(), random.size());
  random[0] = static_cast<std::uint8_t>((random[0] & 0x7f) | 0x40);
  bssl::UniquePtr<BIGNUM> number(BN_bin2bn(random.data(), random.size(), nullptr));
  return number && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate));
}

bool set_time(ASN1_TIME* to, WallTime time) {
  auto seconds = std::chrono::floor<std::chrono::seconds>(time.time_since_epoch()).count();
  return ASN1_TIME_set(to, seconds) != nullptr;
}

bool add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  bssl::UniquePtr<X509_EXTENSION> extension(
      X509V3_EXT_nconf_nid(nullptr, &context, nid, value.c_str()));
  return extension && X509_add_ext(certificate, extension.get(), -1);
}

bool set_name(X509_NAME* name, const char* field, std::string_view value) {
  return X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8,
                                    reinterpret_cast<const std::uint8_t*>(value.data()),
                                    static_cast<int>(value.size()), -1, 0);
}

struct Draft {
  CertificatePtr certificate{X509_new()};
  bssl::UniquePtr<EVP_PKEY> key = make_key();
};

bool fill(Draft& draft, WallTime not_before, WallTime not_after) {
  X509* certificate = draft.certificate.get();
  return certificate && draft.key && X509_set_version(certificate, X509_VERSION_3) &&
         set_serial(certificate) && set_time(X509_getm_notBefore(certificate), not_before) &&
         set_time(X509_getm_notAfter(certificate), not_after) &&
         X509_set_pubkey(certificate, draft.key.get());
}

Result<PemPair> finish(Draft& draft, EVP_PKEY* signing_key) {
  if (!X509_sign(draft.certificate.get(), signing_key, EVP_sha256())) {
    return fail(ErrorCode::kInternal, "cannot sign the certificate: " + take_library_error());
  }
  Result<std::string> certificate = write_certificate(draft.certificate.get());
  if (!certificate) return fail(certificate.error());
  Result<std::string> key = write_private_key(draft.key.get());
  if (!key) return fail(key.error());
  return PemPair{std::move(*certificate), std::move(*key)};
}

Result<std::string> trust_domain_of(X509* root) {
  constexpr std::string_view kScheme = "spiffe://";
  Result<std::string> uri = uri_name_of(root);
  if (!uri || !uri->starts_with(kScheme) || !is_dns_name(uri->substr(kScheme.size()))) {
    return fail(ErrorCode::kInvalid,
                "the root certificate names no trust domain; make one with meshnode ca init");
  }
  return uri->substr(kScheme.size());
}

struct Root {
  CertificatePtr certificate;
  bssl::UniquePtr<EVP_PKEY> key;
};

Result<Root> read_root(const PemPair& pem, const SpiffeId& id, WallTime now) {
  Result<std::vector<CertificatePtr>> certificates =
      read_certificates(pem.certificate, "root certificate", 1);
  if (!certificates) return fail(certificates.error());
  Root root{std::move(certificates->front()), nullptr};
  std::uint32_t flags = X509_get_extension_flags(root.certificate.get());
  if ((flags & EXFLAG_INVALID) || !(flags & EXFLAG_CA) ||
      !(X509_get_key_usage(root.certificate.get()) & X509v3_KU_KEY_CERT_SIGN)) {
    take_library_error();
    return fail(ErrorCode::kInvalid, "the root certificate is no certificate authority's");
  }
  Validity validity = validity_of(root.certificate.get());
  if (now > validity.not_after || now < validity.not_before) {
    return fail(
        ErrorCode::kInvalid,
        fmt::format("the root certificate is valid from {} to {}, not now ({}); make a "
                    "new one with meshnode ca init",
                    rfc3339(validity.not_before), rfc3339(validity.not_after), rfc3339(now)));
  }
  Result<std::string> trust_domain = trust_domain_of(root.certificate.get());
  if (!trust_domain) return fail(trust_domain.error());
  if (*trust_domain != id.trust_domain()) {
    return fail(ErrorCode::kInvalid,
                fmt::format("{} is outside the root's trust domain {}", id.uri(), *trust_domain));
  }
  Result<bssl::UniquePtr<EVP_PKEY>> key = read_private_key(pem.key);
  if (!key) return fail(key.error());
  root.key = std::move(*key);
  if (!X509_check_private_key(root.certificate.get(), root.key.get())) {
    take_library_error();
    return fail(ErrorCode::kInvalid, "the root's private key is not its certificate's");
  }
  return root;
}

}  // namespace

Result<PemPair> make_root(std::string_view trust_domain, WallTime now, Duration lifetime) {
  if (!is_dns_name(trust_domain)) {
    return fail(ErrorCode::kInvalid, fmt::format("the trust domain {} is not a lower-case DNS name",
                                                 quoted(trust_domain)));
  }
  if (lifetime <= Duration::zero() || lifetime > WallTime::max() - now) {
    return fail(ErrorCode::kInvalid, "the root's lifetime must be positive and end before 2262");
  }
  Draft draft;
  X509* root = draft.certificate.get();
  bool made =
      fill(draft, now - kSkew, now + lifetime) &&
      set_name(X509_get_subject_name(root), "O", "meshnode") &&
      X509_set_issuer_name(root, X509_get_subject_name(root)) &&
      add_extension(root, root, NID_basic_constraints, "critical,CA:TRUE") &&
      add_extension(root, root, NID_key_usage, "critical,keyCertSign,cRLSign") &&
      add_extension(root, root, NID_subject_key_identifier, "hash") &&
      add_extension(root, root, NID_subject_alt_name, fmt::format("URI:spiffe://{}", trust_domain));
  if (!made) {
    return fail(ErrorCode::kInternal, "cannot make the root: " + take_library_error());
  }
  return finish(draft, draft.key.get());
}

Result<PemPair> issue_leaf(const PemPair& pem, const SpiffeId& id, WallTime now,
                           Duration lifetime) {
  if (lifetime <= Duration::zero()) {
    return fail(ErrorCode::kInvalid, "the certificate's lifetime must be positive");
  }
  Result<Root> root = read_root(pem, id, now);
  if (!root) return fail(root.error());
  Validity bounds = validity_of(root->certificate.get());
  WallTime not_before = std::max(now - kSkew, bounds.not_before);
  WallTime not_after =
      lifetime > bounds.not_after - now ? bounds.not_after : WallTime(now + lifetime);

  Draft draft;
  X509* leaf = draft.certificate.get();
  X509* issuer = root->certificate.get();
  // An empty subject makes the SAN critical (RFC 5280 §4.2.1.6).
  bool made = fill(draft, not_before, not_after) &&
              X509_set_issuer_name(leaf, X509_get_subject_name(issuer)) &&
              add_extension(leaf, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
              add_extension(leaf, issuer, NID_key_usage, "critical,digitalSignature") &&
              add_extension(leaf, issuer, NID_ext_key_usage, "serverAuth,clientAuth") &&
              add_extension(leaf, issuer, NID_authority_key_identifier, "keyid") &&
              add_extension(leaf, issuer, NID_subject_alt_name, "critical,URI:" + id.uri());
  if (!made) {
    return fail(ErrorCode::kInternal, "cannot make the certificate: " + take_library_error());
  }
  return finish(draft, root->key.get());
}

Result<std::string> root_trust_domain(std::string_view certificate) {
  Result<std::vector<CertificatePtr>> certificates =
      read_certificates(certificate, "root certificate", 1);
  if (!certificates) return fail(certificates.error());
  return trust_domain_of(certificates->front().get());
}

}  // namespace meshnode::tls
