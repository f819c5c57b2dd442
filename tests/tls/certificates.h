#pragma once
/// Certificates of any shape, also those our own authority would never issue.

#include <meshnode/time.h>
#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/ec_key.h>
#include <openssl/evp.h>
#include <openssl/nid.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "tls/pair.h"

namespace meshnode::tls::test {

/// What cannot fail in a test or a fuzz program that is right.
template <class Made>
void must(const Made& made) {
  if (!made) std::abort();
}

struct Issued {
  bssl::UniquePtr<X509> certificate;
  bssl::UniquePtr<EVP_PKEY> key;

  std::string pem() const {
    bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
    must(PEM_write_bio_X509(bio.get(), certificate.get()));
    return text(bio.get());
  }
  std::string key_pem() const {
    bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
    must(
        PEM_write_bio_PKCS8PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr));
    return text(bio.get());
  }
  std::string der() const {
    std::uint8_t* data = nullptr;
    int size = i2d_X509(certificate.get(), &data);
    must(size > 0);
    bssl::UniquePtr<std::uint8_t> owned(data);
    return std::string(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
  }

 private:
  static std::string text(BIO* bio) {
    const std::uint8_t* data = nullptr;
    std::size_t size = 0;
    must(BIO_mem_contents(bio, &data, &size));
    return std::string(reinterpret_cast<const char*>(data), size);
  }
};

enum class Key { kP256, kP384, kP521, kEd25519, kRsa1024, kRsa2048 };

inline bssl::UniquePtr<EVP_PKEY> make_key(Key kind) {
  bssl::UniquePtr<EVP_PKEY> key(EVP_PKEY_new());
  if (kind == Key::kEd25519) {
    bssl::UniquePtr<EVP_PKEY_CTX> context(EVP_PKEY_CTX_new_id(EVP_PKEY_ED25519, nullptr));
    EVP_PKEY* raw = nullptr;
    must(EVP_PKEY_keygen_init(context.get()));
    must(EVP_PKEY_keygen(context.get(), &raw));
    key.reset(raw);
  } else if (kind == Key::kRsa1024 || kind == Key::kRsa2048) {
    bssl::UniquePtr<RSA> rsa(RSA_new());
    bssl::UniquePtr<BIGNUM> exponent(BN_new());
    must(BN_set_word(exponent.get(), RSA_F4));
    must(RSA_generate_key_ex(rsa.get(), kind == Key::kRsa1024 ? 1024 : 2048, exponent.get(),
                             nullptr));
    must(EVP_PKEY_set1_RSA(key.get(), rsa.get()));
  } else {
    int curve = kind == Key::kP256   ? NID_X9_62_prime256v1
                : kind == Key::kP384 ? NID_secp384r1
                                     : NID_secp521r1;
    bssl::UniquePtr<EC_KEY> ec(EC_KEY_new_by_curve_name(curve));
    must(EC_KEY_generate_key(ec.get()));
    must(EVP_PKEY_set1_EC_KEY(key.get(), ec.get()));
  }
  return key;
}

struct Shape {
  std::vector<std::string> uris = {"spiffe://example.internal/ns/bookinfo/sa/productpage"};
  std::vector<std::string> dns;
  std::string constraints = "critical,CA:FALSE";
  std::string usage = "critical,digitalSignature";
  std::string extended = "serverAuth,clientAuth";
  std::string subject = "leaf";
  Key key = Key::kP256;
  WallTime not_before = kNow - 1h;
  WallTime not_after = kNow + 24h;
  const Issued* issuer = nullptr;  ///< self-signed when null
  bool second_san = false;         ///< repeats the whole extension
};

inline void add_names(X509* certificate, const Shape& shape) {
  bssl::UniquePtr<STACK_OF(GENERAL_NAME)> names(sk_GENERAL_NAME_new_null());
  auto add = [&](int type, const std::string& text) {
    bssl::UniquePtr<GENERAL_NAME> name(GENERAL_NAME_new());
    ASN1_IA5STRING* value = ASN1_IA5STRING_new();
    must(ASN1_STRING_set(value, text.data(), static_cast<int>(text.size())));
    GENERAL_NAME_set0_value(name.get(), type, value);
    must(bssl::PushToStack(names.get(), std::move(name)));
  };
  for (const std::string& uri : shape.uris) add(GEN_URI, uri);
  for (const std::string& dns : shape.dns) add(GEN_DNS, dns);
  if (sk_GENERAL_NAME_num(names.get()) == 0) return;
  must(X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, X509V3_ADD_APPEND));
  if (shape.second_san) {
    must(X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, X509V3_ADD_APPEND));
  }
}

inline Issued issue(const Shape& shape) {
  Issued out{bssl::UniquePtr<X509>(X509_new()), make_key(shape.key)};
  X509* certificate = out.certificate.get();
  static std::uint64_t serial = 1000;
  must(X509_set_version(certificate, X509_VERSION_3));
  must(ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), ++serial));
  auto seconds = [](WallTime time) {
    return std::chrono::floor<std::chrono::seconds>(time.time_since_epoch()).count();
  };
  must(ASN1_TIME_set(X509_getm_notBefore(certificate), seconds(shape.not_before)));
  must(ASN1_TIME_set(X509_getm_notAfter(certificate), seconds(shape.not_after)));
  must(X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                                  reinterpret_cast<const std::uint8_t*>(shape.subject.data()),
                                  static_cast<int>(shape.subject.size()), -1, 0));
  X509* issuer = shape.issuer ? shape.issuer->certificate.get() : certificate;
  EVP_PKEY* signer = shape.issuer ? shape.issuer->key.get() : out.key.get();
  must(X509_set_issuer_name(certificate, X509_get_subject_name(issuer)));
  must(X509_set_pubkey(certificate, out.key.get()));
  auto extend = [&](int nid, const std::string& value) {
    if (value.empty()) return;
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
    bssl::UniquePtr<X509_EXTENSION> extension(
        X509V3_EXT_nconf_nid(nullptr, &context, nid, value.c_str()));
    must(extension);
    must(X509_add_ext(certificate, extension.get(), -1));
  };
  extend(NID_basic_constraints, shape.constraints);
  extend(NID_key_usage, shape.usage);
  extend(NID_ext_key_usage, shape.extended);
  add_names(certificate, shape);
  const EVP_MD* digest = EVP_PKEY_id(signer) == EVP_PKEY_ED25519 ? nullptr : EVP_sha256();
  must(X509_sign(certificate, signer, digest));
  return out;
}

inline Shape authority_shape(const std::string& subject, const Issued* issuer = nullptr) {
  Shape shape;
  shape.uris.clear();
  shape.constraints = "critical,CA:TRUE";
  shape.usage = "critical,keyCertSign,cRLSign";
  shape.extended = "";
  shape.subject = subject;
  shape.not_after = kNow + 24h * 3650;
  shape.issuer = issuer;
  return shape;
}

/// The root of the test mesh as objects, to issue what `root()`'s own functions refuse.
inline const Issued& root_objects() {
  static const Issued issued = [] {
    Issued out;
    bssl::UniquePtr<BIO> certificate(
        BIO_new_mem_buf(root().certificate.data(), static_cast<int>(root().certificate.size())));
    bssl::UniquePtr<BIO> key(
        BIO_new_mem_buf(root().key.data(), static_cast<int>(root().key.size())));
    out.certificate.reset(PEM_read_bio_X509(certificate.get(), nullptr, nullptr, nullptr));
    out.key.reset(PEM_read_bio_PrivateKey(key.get(), nullptr, nullptr, nullptr));
    return out;
  }();
  return issued;
}

}  // namespace meshnode::tls::test
