#include "tls/credential.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "tls/credential_parts.h"

namespace meshnode::tls {
namespace {

struct Checked {
  StoredCredential::Parts parts;
  CertificatePtr leaf;
};

Result<bssl::UniquePtr<X509_STORE>> make_store(std::string_view roots) {
  Result<std::vector<CertificatePtr>> certificates =
      read_certificates(roots, "trusted roots", kMaxRoots);
  if (!certificates) return fail(certificates.error());
  bssl::UniquePtr<X509_STORE> store(X509_STORE_new());
  for (CertificatePtr& root : *certificates) {
    if (!store || !X509_STORE_add_cert(store.get(), root.get())) {
      return fail(ErrorCode::kInvalid, "cannot use the trusted roots: " + take_library_error());
    }
  }
  return store;
}

// Own keys sign every handshake: only curves whose signing is cheap.
std::string own_key_fault(X509* leaf) {
  bssl::UniquePtr<EVP_PKEY> key(X509_get_pubkey(leaf));
  int kind = key ? EVP_PKEY_id(key.get()) : EVP_PKEY_NONE;
  ERR_clear_error();
  if (kind == EVP_PKEY_EC) return {};
  return fmt::format("the certificate's key is {}; issue one for an EC P-256 key instead",
                     kind == EVP_PKEY_RSA       ? "RSA"
                     : kind == EVP_PKEY_ED25519 ? "Ed25519"
                                                : "of no supported kind");
}

Result<Checked> check(std::string_view chain_pem, std::string_view roots, WallTime now) {
  Result<std::vector<CertificatePtr>> chain =
      read_certificates(chain_pem, "certificate chain", kMaxChain);
  if (!chain) return fail(chain.error());
  Checked checked;
  checked.leaf = bssl::UpRef(chain->front());
  StoredCredential::Parts& parts = checked.parts;

  Result<SpiffeId> identity = identity_of(checked.leaf.get());
  if (!identity) return fail(identity.error());
  parts.identity = std::move(*identity);
  parts.validity = validity_of(checked.leaf.get());
  parts.serial = serial_text(checked.leaf.get());

  if (auto refusal = check_leaf(checked.leaf.get(), Role::kBoth, now)) {
    return fail(ErrorCode::kInvalid, refusal->reason);
  }
  if (std::string fault = own_key_fault(checked.leaf.get()); !fault.empty()) {
    return fail(ErrorCode::kInvalid, fault);
  }
  Result<bssl::UniquePtr<X509_STORE>> store = make_store(roots);
  if (!store) return fail(store.error());
  parts.roots = std::move(*store);
  if (auto refusal = check_path(parts.roots.get(), *chain, now)) {
    return fail(ErrorCode::kInvalid, refusal->reason);
  }

  for (const CertificatePtr& certificate : *chain) {
    std::uint8_t* der = nullptr;
    int size = i2d_X509(certificate.get(), &der);
    if (size <= 0) return fail(ErrorCode::kInternal, take_library_error());
    bssl::UniquePtr<std::uint8_t> owned(der);
    bssl::UniquePtr<CRYPTO_BUFFER> buffer(
        CRYPTO_BUFFER_new(der, static_cast<std::size_t>(size), nullptr));
    if (!buffer) return fail(ErrorCode::kInternal, "out of memory");
    parts.chain.push_back(std::move(buffer));
  }
  return checked;
}

std::shared_ptr<const Credential> finish(StoredCredential::Parts parts) {
  return std::make_shared<const StoredCredential>(std::move(parts));
}

}  // namespace

std::unique_ptr<SignRequest> KeySigner::sign(std::uint16_t algorithm, Bytes input,
                                             std::function<void(Result<Signature>)> done) const {
  done(signature(algorithm, input));
  return nullptr;
}

Result<Signature> KeySigner::signature(std::uint16_t algorithm, Bytes input) const {
  const EVP_MD* digest = SSL_get_signature_algorithm_digest(algorithm);
  bssl::ScopedEVP_MD_CTX context;
  Signature out(EVP_PKEY_size(key_.get()) > 0 ? static_cast<std::size_t>(EVP_PKEY_size(key_.get()))
                                              : 0);
  std::size_t size = out.size();
  if (SSL_get_signature_algorithm_key_type(algorithm) != EVP_PKEY_id(key_.get()) ||
      !EVP_DigestSignInit(context.get(), nullptr, digest, nullptr, key_.get()) ||
      !EVP_DigestSign(context.get(), out.data(), &size, input.data(), input.size())) {
    return fail(ErrorCode::kTls, "cannot sign: " + take_library_error());
  }
  out.resize(size);
  return out;
}

Result<std::shared_ptr<const Credential>> Credential::from_pem(std::string_view chain,
                                                               std::string_view key,
                                                               std::string_view roots,
                                                               WallTime now) {
  Result<Checked> checked = check(chain, roots, now);
  if (!checked) return fail(checked.error());
  Result<bssl::UniquePtr<EVP_PKEY>> own = read_private_key(key);
  if (!own) return fail(own.error());
  if (!X509_check_private_key(checked->leaf.get(), own->get())) {
    ERR_clear_error();
    return fail(ErrorCode::kInvalid,
                "the private key is not the certificate's; store both from one issuance");
  }
  checked->parts.signer = std::make_unique<KeySigner>(std::move(*own));
  return finish(std::move(checked->parts));
}

Result<std::shared_ptr<const Credential>> Credential::with_signer(
    std::string_view chain, std::unique_ptr<const Signer> signer, std::string_view roots,
    WallTime now) {
  Result<Checked> checked = check(chain, roots, now);
  if (!checked) return fail(checked.error());
  checked->parts.signer = std::move(signer);
  return finish(std::move(checked->parts));
}

}  // namespace meshnode::tls
