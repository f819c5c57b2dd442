#pragma once
/// One TLS 1.3 connection over memory: bytes in, bytes out, no socket. Mutual authentication with
/// SPIFFE identities, ALPN h2 required both ways, no resumption, no 0-RTT, no tickets.
/// TLS_AES_128_GCM_SHA256 and X25519 first. Thread: one loop.

#include <meshnode/bytes.h>
#include <meshnode/ids.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include "tls/credential.h"

namespace meshnode::tls {

/// Receives what the session does of itself.
class SessionEvents {
 public:
  virtual ~SessionEvents() = default;
  /// Ciphertext for the peer, one TLS record or flight at a time, in order; borrowed during the
  /// call. Called from within handshake(), write(), read() and close().
  virtual void on_ciphertext(Bytes record) = 0;
  /// A signature that handshake() was waiting for has come: call handshake() again. Never called
  /// from within handshake().
  virtual void on_signed() = 0;
};

/// What the handshake proved about the other end.
struct Peer {
  SpiffeId identity;
  WallTime not_after;
};

/// Chooses the credential for a ClientHello; the server name is absent when no SNI was sent. An
/// error refuses the handshake with unrecognized_name and is reported by handshake().
using CredentialSelector = std::function<Result<std::shared_ptr<const Credential>>(
    std::optional<std::string_view> server_name)>;

class Session {
 public:
  virtual ~Session() = default;

  /// Sends SNI expected.server_name() and refuses any peer but `expected`.
  static Result<std::unique_ptr<Session>> client(std::shared_ptr<const Credential> credential,
                                                 const SpiffeId& expected,
                                                 std::function<WallTime()> now,
                                                 SessionEvents* events);
  /// Asks for and requires a client certificate of the presented credential's trust domain.
  static Result<std::unique_ptr<Session>> server(CredentialSelector select,
                                                 std::function<WallTime()> now,
                                                 SessionEvents* events);

  /// Hands in ciphertext from the network: borrowed until the next handshake() or read() has
  /// returned having asked for more. One span at a time; each is fully used up. When handshake()
  /// returns kWaitingForSignature the rest of the span has been copied, and so is what is fed
  /// before on_signed(), up to 64 KiB in all. When it returns kDone the rest waits for read().
  virtual void feed(Bytes ciphertext) = 0;

  enum class Progress { kNeedInput, kWaitingForSignature, kDone };
  /// Drives the handshake with what was fed. The error's message is the reason for people, naming
  /// the failed check or the peer's alert; the alert for the peer has gone to on_ciphertext().
  virtual Result<Progress> handshake() = 0;

  struct Plaintext {
    std::size_t size = 0;     ///< bytes written to the front of the buffer
    bool closed = false;      ///< the peer's close_notify was reached
    bool need_input = false;  ///< everything fed is used up; false: call again with a new buffer
  };
  /// After the handshake: decrypts as many whole records as fit, one after another.
  virtual Result<Plaintext> read(MutableBytes buffer) = 0;
  /// After the handshake: encrypts all of `plaintext` in records of at most 16,384 bytes.
  virtual Status write(Bytes plaintext) = 0;
  /// Sends close_notify.
  virtual void close() = 0;

  /// After the handshake.
  virtual const Peer& peer() const = 0;
  /// The credential presented to the peer; after the handshake.
  virtual const std::shared_ptr<const Credential>& presented() const = 0;
};

}  // namespace meshnode::tls
