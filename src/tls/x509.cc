#include "tls/x509.h"

#include <fmt/format.h>
#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/mem.h>
#include <openssl/nid.h>

#include "base/escape.h"

namespace meshnode::tls {
namespace {

constexpr int kMinRsaBits = 2048;
constexpr int kMaxRsaBits = 8192;

std::optional<WallTime> wall_time(const ASN1_TIME* time) {
  bssl::UniquePtr<ASN1_TIME> epoch(ASN1_TIME_set(nullptr, 0));
  int days = 0;
  int seconds = 0;
  if (!epoch || !ASN1_TIME_diff(&days, &seconds, epoch.get(), time)) {
    ERR_clear_error();
    return std::nullopt;
  }
  // RFC 5280's 9999-12-31 does not fit 64-bit nanoseconds.
  using Days = std::chrono::duration<std::int64_t, std::ratio<86400>>;
  constexpr auto kLast = std::chrono::floor<Days>(WallTime::max().time_since_epoch());
  constexpr auto kFirst = std::chrono::ceil<Days>(WallTime::min().time_since_epoch());
  if (Days(days) >= kLast) return WallTime::max();
  if (Days(days) <= kFirst) return WallTime::min();
  return WallTime(Days(days) + std::chrono::seconds(seconds));
}

// Empty when the key is fit for use.
std::string key_fault(X509* certificate) {
  bssl::UniquePtr<EVP_PKEY> key(X509_get_pubkey(certificate));
  if (!key) {
    ERR_clear_error();
    return "its public key is of no known kind";
  }
  switch (EVP_PKEY_id(key.get())) {
    case EVP_PKEY_EC: {
      int curve = EC_GROUP_get_curve_name(EC_KEY_get0_group(EVP_PKEY_get0_EC_KEY(key.get())));
      if (curve == NID_X9_62_prime256v1 || curve == NID_secp384r1) return {};
      return "its elliptic curve is neither P-256 nor P-384";
    }
    case EVP_PKEY_ED25519:
      return {};
    case EVP_PKEY_RSA: {
      int bits = EVP_PKEY_bits(key.get());
      if (bits >= kMinRsaBits && bits <= kMaxRsaBits) return {};
      return fmt::format("its RSA key has {} bits, not {} to {}", bits, kMinRsaBits, kMaxRsaBits);
    }
    default:
      return "its public key is of no supported kind";
  }
}

std::optional<Refusal> check_dates(const X509* certificate, WallTime now, std::string_view what) {
  Validity validity = validity_of(certificate);
  // BoringSSL's own path check counts the last second as expired too.
  if (now >= validity.not_after) {
    return Refusal{SSL_AD_CERTIFICATE_EXPIRED,
                   fmt::format("{} expired at {}: renew it, or a clock is off", what,
                               rfc3339(validity.not_after)),
                   true};
  }
  if (now < validity.not_before) {
    return Refusal{SSL_AD_BAD_CERTIFICATE,
                   fmt::format("{} is not yet valid, only from {}: a clock is off", what,
                               rfc3339(validity.not_before)),
                   true};
  }
  return std::nullopt;
}

std::uint8_t path_alert(int error) {
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return SSL_AD_CERTIFICATE_EXPIRED;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_INVALID_CA:
    case X509_V_ERR_CERT_CHAIN_TOO_LONG:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return SSL_AD_UNKNOWN_CA;
    default:
      return SSL_AD_BAD_CERTIFICATE;
  }
}

std::string path_reason(X509_STORE_CTX* context, int error, WallTime now) {
  // At the depth limit the search for an issuer just stops.
  if (error == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY &&
      X509_STORE_CTX_get_error_depth(context) + 1 >= static_cast<int>(kMaxChain)) {
    error = X509_V_ERR_CERT_CHAIN_TOO_LONG;
  }
  X509* at = X509_STORE_CTX_get_current_cert(context);
  std::string subject = at ? name_text(X509_get_subject_name(at)) : "?";
  std::string issuer = at ? name_text(X509_get_issuer_name(at)) : "?";
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
    case X509_V_ERR_CERT_NOT_YET_VALID:
      if (auto refusal =
              at ? check_dates(at, now, "the issuing certificate " + subject) : std::nullopt) {
        return refusal->reason;
      }
      break;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
      return fmt::format(
          "unknown issuer {}: none of the trusted roots signed it; is it of "
          "another mesh, or has the root been replaced on one side only?",
          issuer);
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return fmt::format(
          "unknown issuer: signed by another key than that of the trusted root named {}; was a "
          "new root made under the old name?",
          issuer);
    case X509_V_ERR_CERT_CHAIN_TOO_LONG:
      return fmt::format("its chain has more than {} certificates", kMaxChain);
    case X509_V_ERR_INVALID_CA:
      return fmt::format("issued by {}, which is no certificate authority", subject);
    default:
      break;
  }
  return fmt::format("its chain does not verify at {}: {}", subject,
                     X509_verify_cert_error_string(error));
}

std::string bio_text(BIO* bio) {
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;
  if (!BIO_mem_contents(bio, &data, &size)) return {};
  return std::string(as_text({data, size}));
}

bssl::UniquePtr<BIO> borrow(std::string_view text) {
  return bssl::UniquePtr<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// One PEM block. `data` may hold a private key: BoringSSL clears it when it is freed.
struct Block {
  std::string label;
  bool encrypted = false;
  bssl::UniquePtr<std::uint8_t> data;
  long size = 0;
};

std::optional<Block> next_block(BIO* bio) {
  char* name = nullptr;
  char* header = nullptr;
  unsigned char* data = nullptr;
  long size = 0;
  if (!PEM_read_bio(bio, &name, &header, &data, &size)) {
    ERR_clear_error();
    return std::nullopt;
  }
  bssl::UniquePtr<char> owned_name(name);
  bssl::UniquePtr<char> owned_header(header);
  Block block;
  block.data.reset(data);
  block.size = size;
  block.label = name;
  block.encrypted = header[0] != '\0';
  return block;
}

}  // namespace

CertificatePtr parse_certificate(Bytes der) {
  const std::uint8_t* at = der.data();
  CertificatePtr certificate(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
  if (!certificate || at != der.data() + der.size()) {
    ERR_clear_error();
    return nullptr;
  }
  return certificate;
}

Validity validity_of(const X509* certificate) {
  return {wall_time(X509_get0_notBefore(certificate)).value_or(WallTime::max()),
          wall_time(X509_get0_notAfter(certificate)).value_or(WallTime::min())};
}

std::string name_text(const X509_NAME* name) {
  bssl::UniquePtr<char> line(X509_NAME_oneline(name, nullptr, 0));
  if (!line) ERR_clear_error();
  return quoted(line ? line.get() : "");
}

std::string serial_text(const X509* certificate) {
  const ASN1_INTEGER* serial = X509_get0_serialNumber(certificate);
  std::string out;
  Bytes bytes(ASN1_STRING_get0_data(serial), static_cast<std::size_t>(ASN1_STRING_length(serial)));
  for (std::uint8_t byte : bytes) out += fmt::format("{:02x}", byte);
  return out;
}

Result<std::string> uri_name_of(X509* certificate) {
  int critical = 0;
  bssl::UniquePtr<STACK_OF(GENERAL_NAME)> names(static_cast<STACK_OF(GENERAL_NAME)*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, nullptr)));
  if (!names) {
    ERR_clear_error();
    if (critical == -1) {
      return fail(ErrorCode::kInvalid,
                  "the certificate has no URI SAN; it needs exactly one, "
                  "its SPIFFE identity");
    }
    return fail(ErrorCode::kInvalid,
                critical == -2 ? "the certificate has two subjectAltName extensions"
                               : "the certificate's subjectAltName extension is malformed");
  }
  std::string_view uri;
  std::size_t count = 0;
  for (std::size_t i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* text = name->d.uniformResourceIdentifier;
    uri =
        as_text({ASN1_STRING_get0_data(text), static_cast<std::size_t>(ASN1_STRING_length(text))});
    ++count;
  }
  if (count != 1) {
    return fail(ErrorCode::kInvalid,
                fmt::format("the certificate has {} URI SANs; it needs exactly one, its SPIFFE "
                            "identity",
                            count == 0 ? "no" : std::to_string(count)));
  }
  return std::string(uri);
}

Result<SpiffeId> identity_of(X509* leaf) {
  Result<std::string> uri = uri_name_of(leaf);
  if (!uri) return fail(uri.error());
  return SpiffeId::parse(*uri);
}

std::optional<Refusal> check_leaf(X509* leaf, Role role, WallTime now) {
  if (auto refusal = check_dates(leaf, now, "the certificate")) return refusal;
  auto refuse = [](std::uint8_t alert, std::string reason) {
    return Refusal{alert, std::move(reason)};
  };
  std::uint32_t flags = X509_get_extension_flags(leaf);
  if (flags & EXFLAG_INVALID) {
    ERR_clear_error();
    return refuse(SSL_AD_BAD_CERTIFICATE, "the certificate's extensions are malformed");
  }
  if (flags & EXFLAG_CA) {
    return refuse(SSL_AD_BAD_CERTIFICATE,
                  "the certificate is a certificate authority's, not a workload's");
  }
  if (flags & EXFLAG_KUSAGE) {
    std::uint32_t usage = X509_get_key_usage(leaf);
    if (!(usage & X509v3_KU_DIGITAL_SIGNATURE)) {
      return refuse(SSL_AD_UNSUPPORTED_CERTIFICATE,
                    "the certificate's key usage lacks digitalSignature");
    }
    if (usage & (X509v3_KU_KEY_CERT_SIGN | X509v3_KU_CRL_SIGN)) {
      return refuse(SSL_AD_UNSUPPORTED_CERTIFICATE,
                    "the certificate's key usage is a certificate authority's");
    }
  }
  if (flags & EXFLAG_XKUSAGE) {
    std::uint32_t usage = X509_get_extended_key_usage(leaf);
    if (!(usage & XKU_SSL_CLIENT) && role != Role::kServer) {
      return refuse(SSL_AD_UNSUPPORTED_CERTIFICATE,
                    "the certificate's extended key usage lacks clientAuth");
    }
    if (!(usage & XKU_SSL_SERVER) && role != Role::kClient) {
      return refuse(SSL_AD_UNSUPPORTED_CERTIFICATE,
                    "the certificate's extended key usage lacks serverAuth");
    }
  }
  if (std::string fault = key_fault(leaf); !fault.empty()) {
    return refuse(SSL_AD_UNSUPPORTED_CERTIFICATE, "the certificate is refused: " + fault);
  }
  return std::nullopt;
}

std::optional<Refusal> check_path(X509_STORE* roots, const std::vector<CertificatePtr>& chain,
                                  WallTime now) {
  bssl::UniquePtr<X509_STORE_CTX> context(X509_STORE_CTX_new());
  bssl::UniquePtr<STACK_OF(X509)> others(sk_X509_new_null());
  if (!context || !others) return Refusal{SSL_AD_INTERNAL_ERROR, "out of memory"};
  for (std::size_t i = 1; i < chain.size(); ++i) {
    if (!bssl::PushToStack(others.get(), bssl::UpRef(chain[i]))) {
      return Refusal{SSL_AD_INTERNAL_ERROR, "out of memory"};
    }
  }
  if (!X509_STORE_CTX_init(context.get(), roots, chain.front().get(), others.get())) {
    return Refusal{SSL_AD_INTERNAL_ERROR, take_library_error()};
  }
  X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_time(
      parameters, std::chrono::floor<std::chrono::seconds>(now.time_since_epoch()).count());
  X509_VERIFY_PARAM_set_depth(parameters, static_cast<int>(kMaxChain) - 1);
  X509_VERIFY_PARAM_set_flags(parameters, X509_V_FLAG_TRUSTED_FIRST);
  const bool verified = X509_verify_cert(context.get()) == 1;
  ERR_clear_error();  // also of a certificate it had no need of
  if (!verified) {
    const int error = X509_STORE_CTX_get_error(context.get());
    return Refusal{
        path_alert(error), path_reason(context.get(), error, now),
        error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID};
  }
  const STACK_OF(X509)* path = X509_STORE_CTX_get0_chain(context.get());
  std::size_t length = sk_X509_num(path);
  if (length > kMaxChain) {
    return Refusal{SSL_AD_UNKNOWN_CA,
                   fmt::format("its chain has more than {} certificates", kMaxChain)};
  }
  for (std::size_t i = 1; i < length; ++i) {
    X509* issuer = sk_X509_value(path, i);
    if (std::string fault = key_fault(issuer); !fault.empty()) {
      return Refusal{SSL_AD_UNSUPPORTED_CERTIFICATE,
                     fmt::format("the issuing certificate {} is refused: {}",
                                 name_text(X509_get_subject_name(issuer)), fault)};
    }
  }
  return std::nullopt;
}

Result<std::vector<CertificatePtr>> read_certificates(std::string_view pem, std::string_view what,
                                                      std::size_t max) {
  bssl::UniquePtr<BIO> bio = borrow(pem);
  std::vector<CertificatePtr> certificates;
  while (std::optional<Block> block = next_block(bio.get())) {
    if (block->label != PEM_STRING_X509) continue;
    CertificatePtr certificate =
        parse_certificate({block->data.get(), static_cast<std::size_t>(block->size)});
    if (!certificate) {
      return fail(ErrorCode::kInvalid, fmt::format("certificate {} of the {} is not X.509",
                                                   certificates.size() + 1, what));
    }
    if (certificates.size() == max) {
      return fail(ErrorCode::kLimit, fmt::format("more than {} certificates in the {}", max, what));
    }
    certificates.push_back(std::move(certificate));
  }
  if (certificates.empty()) {
    return fail(ErrorCode::kInvalid,
                fmt::format("no PEM block \"BEGIN CERTIFICATE\" in the {}", what));
  }
  return certificates;
}

Result<bssl::UniquePtr<EVP_PKEY>> read_private_key(std::string_view pem) {
  bssl::UniquePtr<BIO> bio = borrow(pem);
  while (std::optional<Block> block = next_block(bio.get())) {
    if (block->encrypted || block->label == PEM_STRING_PKCS8) {
      return fail(ErrorCode::kInvalid, "the private key is encrypted; store it without a password");
    }
    const std::uint8_t* at = block->data.get();
    bssl::UniquePtr<EVP_PKEY> key;
    if (block->label == PEM_STRING_PKCS8INF) {
      CBS cbs;
      CBS_init(&cbs, at, static_cast<std::size_t>(block->size));
      key.reset(EVP_parse_private_key(&cbs));
      if (CBS_len(&cbs) != 0) key.reset();
    } else if (block->label == PEM_STRING_ECPRIVATEKEY) {
      key.reset(d2i_PrivateKey(EVP_PKEY_EC, nullptr, &at, block->size));
    } else if (block->label == PEM_STRING_RSA) {
      return fail(ErrorCode::kInvalid, "the private key is RSA; issue an EC P-256 key instead");
    } else {
      continue;
    }
    if (!key) {
      return fail(ErrorCode::kInvalid, "the private key is malformed: " + take_library_error());
    }
    return key;
  }
  return fail(ErrorCode::kInvalid,
              "no private key found; expected a PEM block \"BEGIN PRIVATE KEY\" or \"BEGIN EC "
              "PRIVATE KEY\"");
}

Result<std::string> write_certificate(X509* certificate) {
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  if (!bio || !PEM_write_bio_X509(bio.get(), certificate)) {
    return fail(ErrorCode::kInternal, "cannot write the certificate: " + take_library_error());
  }
  return bio_text(bio.get());
}

Result<std::string> write_private_key(const EVP_PKEY* key) {
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  if (!bio || !PEM_write_bio_PKCS8PrivateKey(bio.get(), const_cast<EVP_PKEY*>(key), nullptr,
                                             nullptr, 0, nullptr, nullptr)) {
    return fail(ErrorCode::kInternal, "cannot write the private key: " + take_library_error());
  }
  return bio_text(bio.get());
}

std::string take_library_error() {
  std::uint32_t code = ERR_get_error();
  ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason ? reason : "unknown error";
}

}  // namespace meshnode::tls
