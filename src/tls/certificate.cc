#include "tls/certificate.h"

#include "tls/x509.h"

namespace meshnode::tls {

Result<SpiffeId> certificate_identity(Bytes der) {
  CertificatePtr leaf = parse_certificate(der);
  if (!leaf) return fail(ErrorCode::kInvalid, "not an X.509 certificate");
  return identity_of(leaf.get());
}

}  // namespace meshnode::tls
