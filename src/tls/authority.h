#pragma once
/// A small certificate authority for `meshnode ca`: P-256, X.509 v3, SPIFFE profile.

#include <meshnode/ids.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <string>
#include <string_view>

namespace meshnode::tls {

struct PemPair {
  std::string certificate;
  std::string key;  ///< PKCS#8
};

/// A self-signed root for the trust domain: CA:TRUE, keyCertSign and cRLSign, its one URI SAN
/// spiffe://<trust-domain> (SPIFFE X.509-SVID §3 signing certificates).
Result<PemPair> make_root(std::string_view trust_domain, WallTime now, Duration lifetime);

/// A leaf for `id`: digitalSignature, serverAuth and clientAuth, exactly one URI SAN, random
/// 128-bit serial, notBefore one minute early for clock skew, never beyond the root's own end.
/// Refuses an id outside the root's trust domain and a root that is expired or no CA.
Result<PemPair> issue_leaf(const PemPair& root, const SpiffeId& id, WallTime now,
                           Duration lifetime);

/// The trust domain that a root of make_root() is for.
Result<std::string> root_trust_domain(std::string_view certificate);

}  // namespace meshnode::tls
