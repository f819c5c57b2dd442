#pragma once
/// Certificates as BoringSSL objects: reading, the identity profile, chain verification. Private to
/// tls/. Thread: functions without state; an X509_STORE may serve several threads at once.

#include <meshnode/bytes.h>
#include <meshnode/ids.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <openssl/pool.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace meshnode::tls {

using CertificatePtr = bssl::UniquePtr<X509>;

/// Why a certificate is refused: the TLS alert that says so to the peer, and the words for people.
struct Refusal {
  std::uint8_t alert = SSL_AD_BAD_CERTIFICATE;
  std::string reason;
  bool of_dates = false;  ///< for a person to compare with the time here, which `reason` leaves out
};

/// What the holder of a leaf does with it: decides which extended key usage it needs.
enum class Role { kClient, kServer, kBoth };

/// A chain of more certificates than this, the root included, is refused.
inline constexpr std::size_t kMaxChain = 5;
/// More roots than this in one credential are refused.
inline constexpr std::size_t kMaxRoots = 64;

CertificatePtr parse_certificate(Bytes der);

struct Validity {
  WallTime not_before;
  WallTime not_after;
};
/// Dates outside WallTime's range are moved to its ends; an unreadable date is never valid.
Validity validity_of(const X509* certificate);

/// Subject or issuer on one line, escaped and bounded: the bytes are the peer's.
std::string name_text(const X509_NAME* name);
/// Lower-case hex.
std::string serial_text(const X509* certificate);

/// The certificate's one URI SAN, as it stands; other kinds of names are ignored.
Result<std::string> uri_name_of(X509* certificate);
/// The identity from exactly one URI SAN (SPIFFE X.509-SVID §2).
Result<SpiffeId> identity_of(X509* leaf);

/// The leaf's own properties: validity at `now`, no CA, key usage, extended key usage for `role`,
/// key strength. Keys: EC P-256 and P-384, Ed25519, RSA of 2048 to 8192 bits, because Istio's
/// waypoints and many corporate authorities use RSA.
std::optional<Refusal> check_leaf(X509* leaf, Role role, WallTime now);

/// A path from `chain` (leaf first, the rest only helps) to one of `roots`, at `now`, of at most
/// kMaxChain certificates whose keys all meet check_leaf()'s strength.
std::optional<Refusal> check_path(X509_STORE* roots, const std::vector<CertificatePtr>& chain,
                                  WallTime now);

/// Every CERTIFICATE block of `pem`; `what` names the text in errors. At least one, at most `max`.
Result<std::vector<CertificatePtr>> read_certificates(std::string_view pem, std::string_view what,
                                                      std::size_t max);
Result<bssl::UniquePtr<EVP_PKEY>> read_private_key(std::string_view pem);

Result<std::string> write_certificate(X509* certificate);
Result<std::string> write_private_key(const EVP_PKEY* key);

/// The first error BoringSSL queued on this thread, in its words; empties the queue.
std::string take_library_error();

}  // namespace meshnode::tls
