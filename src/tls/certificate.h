#pragma once
/// What a certificate says, from its DER form alone; nothing is verified. Thread: pure functions.

#include <meshnode/bytes.h>
#include <meshnode/ids.h>
#include <meshnode/result.h>

namespace meshnode::tls {

/// The identity in the certificate's one URI SAN; refuses none, several, and trailing bytes.
Result<SpiffeId> certificate_identity(Bytes der);

}  // namespace meshnode::tls
