#pragma once
/// The signing seam: private keys may live elsewhere (another process, a token). A handshake that
/// needs a signature asks here and goes on when the answer comes.

#include <meshnode/bytes.h>
#include <meshnode/result.h>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace meshnode::tls {

using Signature = std::vector<std::uint8_t>;

/// Destroying it cancels: `done` is not called any more.
class SignRequest {
 public:
  virtual ~SignRequest() = default;
};

class Signer {
 public:
  virtual ~Signer() = default;
  /// Signs `input` with the TLS SignatureScheme `algorithm` (RFC 8446 §4.2.3). `done` runs on the
  /// calling thread's loop, possibly before sign() returns, at most once, and may destroy the
  /// request that it answers. A signer that has called `done` already may return null. Thread-safe.
  virtual std::unique_ptr<SignRequest> sign(std::uint16_t algorithm, Bytes input,
                                            std::function<void(Result<Signature>)> done) const = 0;
};

}  // namespace meshnode::tls
