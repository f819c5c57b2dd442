#pragma once
/// What sessions need of a Credential beyond its public face. Private to tls/. Thread: immutable.

#include <memory>
#include <string>
#include <vector>

#include "tls/credential.h"
#include "tls/x509.h"

namespace meshnode::tls {

class StoredCredential final : public Credential {
 public:
  struct Parts {
    SpiffeId identity;
    Validity validity;
    std::string serial;
    std::vector<bssl::UniquePtr<CRYPTO_BUFFER>> chain;
    std::unique_ptr<const Signer> signer;
    bssl::UniquePtr<X509_STORE> roots;
  };

  explicit StoredCredential(Parts parts) : parts_(std::move(parts)) {}

  const SpiffeId& identity() const override { return parts_.identity; }
  WallTime not_before() const override { return parts_.validity.not_before; }
  WallTime not_after() const override { return parts_.validity.not_after; }
  const std::string& serial() const override { return parts_.serial; }

  const std::vector<bssl::UniquePtr<CRYPTO_BUFFER>>& chain() const { return parts_.chain; }
  const Signer& signer() const { return *parts_.signer; }
  /// An X509_STORE locks itself; verifying against it changes nothing that is seen.
  X509_STORE* roots() const { return parts_.roots.get(); }

 private:
  Parts parts_;
};

/// Credential has no other implementation.
inline const StoredCredential& stored(const Credential& credential) {
  return static_cast<const StoredCredential&>(credential);
}

/// Signs with a key in this process, at once.
class KeySigner final : public Signer {
 public:
  explicit KeySigner(bssl::UniquePtr<EVP_PKEY> key) : key_(std::move(key)) {}
  std::unique_ptr<SignRequest> sign(std::uint16_t algorithm, Bytes input,
                                    std::function<void(Result<Signature>)> done) const override;

 private:
  Result<Signature> signature(std::uint16_t algorithm, Bytes input) const;

  bssl::UniquePtr<EVP_PKEY> key_;
};

}  // namespace meshnode::tls
