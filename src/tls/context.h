#pragma once
/// The SSL_CTX of each side and what an SSL's failure means. Private to tls/.
///
/// One context a side serves the whole process: what differs between credentials (chain, signer,
/// roots) hangs on each SSL for the handshake only, so that an idle session holds none of it.

#include <openssl/ssl.h>

#include <string>
#include <string_view>

namespace meshnode::tls {

/// What the contexts call back; the session behind an SSL is its BIO's data.
struct ContextCallbacks {
  ssl_verify_result_t (*verify)(SSL* ssl, std::uint8_t* alert);
  ssl_select_cert_result_t (*client_hello)(const SSL_CLIENT_HELLO* hello);
  int (*server_name)(SSL* ssl, int* alert, void* argument);
  int (*ticket)(SSL* ssl, SSL_SESSION* session);
};

/// The largest handshake message a peer may send: its certificates.
inline constexpr std::size_t kMaxHandshakeMessage = 64 * 1024;

/// Session tickets a server may send on one session. None is kept, but each costs us a key
/// derivation; servers send two to four. Counted after each read, so that one read's more may come.
inline constexpr unsigned kMaxTickets = 32;

/// Said in two places each: who notices first depends on what the peer sends.
inline constexpr std::string_view kNoCertificate =
    "the peer presented no certificate; is it an agent of this mesh?";
inline constexpr std::string_view kNoH2 =
    "the peer does not offer ALPN h2; a port scan or a browser, or no HBONE agent?";

/// Never freed; null when BoringSSL has no memory for it.
SSL_CTX* make_context(bool server, const ContextCallbacks& callbacks);

/// The first queued error in words; empties this thread's queue.
std::string failure_reason();

}  // namespace meshnode::tls
