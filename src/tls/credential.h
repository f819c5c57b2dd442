#pragma once
/// What one workload shows and trusts: certificate chain, signer, roots. Immutable; shared by
/// every loop through shared_ptr<const Credential>. Thread-safe.

#include <meshnode/ids.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <memory>
#include <string>
#include <string_view>
#include "tls/signer.h"

namespace meshnode::tls {

class Credential {
 public:
  virtual ~Credential() = default;
  virtual const SpiffeId& identity() const = 0;
  virtual WallTime not_before() const = 0;
  virtual WallTime not_after() const = 0;
  /// Lower-case hex, for status and logs.
  virtual const std::string& serial() const = 0;

  /// From PEM text: a chain (leaf first), its PKCS#8 or SEC1 key (EC P-256, or Ed25519 refused),
  /// and one or more roots. Refuses, with the reason: a key that is not the leaf's, a leaf
  /// outside its validity at `now`, a CA as leaf, not exactly one URI SAN or one that is
  /// no SpiffeId, a chain that does not verify against the roots, wrong key usage.
  static Result<std::shared_ptr<const Credential>> from_pem(std::string_view chain,
                                                            std::string_view key,
                                                            std::string_view roots, WallTime now);
  /// The same with the key held behind a signer of the caller's.
  static Result<std::shared_ptr<const Credential>> with_signer(std::string_view chain,
                                                               std::unique_ptr<const Signer> signer,
                                                               std::string_view roots,
                                                               WallTime now);
};

}  // namespace meshnode::tls
