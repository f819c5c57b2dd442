#include "tls/context.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pool.h>

#include <array>
#include <string_view>

namespace meshnode::tls {
namespace {

constexpr std::array<std::uint8_t, 3> kAlpn = {2, 'h', '2'};

#ifdef SSL_GROUP_X25519_MLKEM768
constexpr const char* kGroups = "X25519:X25519MLKEM768:P-256";
#else
constexpr const char* kGroups = "X25519:P-256";
#endif

// What peers may sign handshakes with; the RSA ones for Istio's waypoints.
constexpr std::array<std::uint16_t, 5> kSignatures = {
    SSL_SIGN_ECDSA_SECP256R1_SHA256, SSL_SIGN_ECDSA_SECP384R1_SHA384, SSL_SIGN_ED25519,
    SSL_SIGN_RSA_PSS_RSAE_SHA256, SSL_SIGN_RSA_PSS_RSAE_SHA384};

int select_alpn(SSL*, const std::uint8_t** out, std::uint8_t* out_size, const std::uint8_t* offered,
                unsigned offered_size, void*) {
  // Entries are length-prefixed; BoringSSL has checked that they fill `offered` exactly.
  for (unsigned at = 0; at < offered_size; at += 1u + offered[at]) {
    std::string_view name(reinterpret_cast<const char*>(offered + at + 1), offered[at]);
    if (name != "h2") continue;
    *out = offered + at + 1;
    *out_size = 2;
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

// Certificates of one peer are the same bytes on all its connections: kept once.
CRYPTO_BUFFER_POOL* certificate_pool() {
  static CRYPTO_BUFFER_POOL* const pool = CRYPTO_BUFFER_POOL_new();
  return pool;
}

std::string alert_reason(int alert) {
  switch (alert) {
    case SSL_AD_HANDSHAKE_FAILURE:
      return "handshake_failure: it shares no parameters with us";
    case SSL_AD_BAD_CERTIFICATE:
      return "bad_certificate: it refuses our certificate; is its clock behind, or is there not "
             "exactly one URI SAN?";
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
      return "unsupported_certificate: it refuses our certificate's kind or usage";
    case SSL_AD_CERTIFICATE_REVOKED:
      return "certificate_revoked: our certificate is revoked";
    case SSL_AD_CERTIFICATE_EXPIRED:
      return "certificate_expired: it finds our certificate expired; compare the clocks";
    case SSL_AD_CERTIFICATE_UNKNOWN:
      return "certificate_unknown: it refuses our certificate";
    case SSL_AD_UNKNOWN_CA:
      return "unknown_ca: it does not trust the authority of our certificate; is it of another "
             "mesh, or has the root been replaced on one side only?";
    case SSL_AD_ACCESS_DENIED:
      return "access_denied: it does not admit our identity; is it of another trust domain?";
    case SSL_AD_PROTOCOL_VERSION:
      return "protocol_version: it does not speak TLS 1.3; is it an HBONE agent?";
    case SSL_AD_UNRECOGNIZED_NAME:
      return "unrecognized_name: it has no workload of that server name; compare the Workload "
             "there with the WorkloadEntry here";
    case SSL_AD_CERTIFICATE_REQUIRED:
      return "certificate_required: it wants a client certificate";
    case SSL_AD_NO_APPLICATION_PROTOCOL:
      return "no_application_protocol: it does not speak HTTP/2; is it an HBONE agent?";
    default:
      return SSL_alert_desc_string_long(alert);
  }
}

}  // namespace

SSL_CTX* make_context(bool server, const ContextCallbacks& callbacks) {
  bssl::UniquePtr<SSL_CTX> context(SSL_CTX_new(TLS_with_buffers_method()));
  SSL_CTX* raw = context.get();
  bool ready = raw && SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) &&
               SSL_CTX_set_max_proto_version(raw, TLS1_3_VERSION) &&
               SSL_CTX_set1_curves_list(raw, kGroups) &&
               SSL_CTX_set_verify_algorithm_prefs(raw, kSignatures.data(), kSignatures.size()) &&
               SSL_CTX_set_num_tickets(raw, 0);
  if (!ready) return nullptr;
  SSL_CTX_set_options(raw, SSL_OP_NO_TICKET);
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_early_data_enabled(raw, 0);
  SSL_CTX_set_max_cert_list(raw, kMaxHandshakeMessage);
  SSL_CTX_set0_buffer_pool(raw, certificate_pool());
  SSL_CTX_set_custom_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                            callbacks.verify);
  if (server) {
    SSL_CTX_set_select_certificate_cb(raw, callbacks.client_hello);
    SSL_CTX_set_tlsext_servername_callback(raw, callbacks.server_name);
    SSL_CTX_set_alpn_select_cb(raw, select_alpn, nullptr);
  } else {
    if (SSL_CTX_set_alpn_protos(raw, kAlpn.data(), kAlpn.size()) != 0) return nullptr;
    // Only to hear of tickets, which are counted.
    SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(raw, callbacks.ticket);
  }
  return context.release();
}

std::string failure_reason() {
  // The first error of the TLS layer says what it means; one before it, of the cipher or the
  // certificate reader, only how it was noticed.
  std::uint32_t code = ERR_get_error();
  while (code != 0 && ERR_GET_LIB(code) != ERR_LIB_SSL) {
    std::uint32_t next = ERR_get_error();
    if (next == 0) break;
    code = next;
  }
  ERR_clear_error();
  int reason = ERR_GET_REASON(code);
  if (ERR_GET_LIB(code) != ERR_LIB_SSL) {
    const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
    return fmt::format("TLS failed: {}", text ? text : "the connection broke the protocol");
  }
  if (reason >= SSL_AD_REASON_OFFSET) {
    return "the peer sent the alert " + alert_reason(reason - SSL_AD_REASON_OFFSET);
  }
  switch (reason) {
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_WRONG_SSL_VERSION:
      return "the peer does not offer TLS 1.3; is it an HBONE agent, of a version that does?";
    case SSL_R_WRONG_VERSION_NUMBER:
      return "the peer does not speak TLS; a port scan, or plaintext sent to the tunnels' port?";
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
      return "the peer speaks plain HTTP, not TLS";
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return std::string(kNoCertificate);
    case SSL_R_NO_APPLICATION_PROTOCOL:
      return std::string(kNoH2);
    case SSL_R_NO_SHARED_GROUP:
    case SSL_R_WRONG_CURVE:
      return "the peer shares no key exchange group with us; ours are X25519 and P-256";
    case SSL_R_NO_SHARED_CIPHER:
      return "the peer shares no TLS 1.3 cipher suite with us";
    case SSL_R_NO_COMMON_SIGNATURE_ALGORITHMS:
      return "the peer shares no signature algorithm with us";
    case SSL_R_EXCESSIVE_MESSAGE_SIZE:
      return fmt::format("the peer's handshake message is over {} bytes", kMaxHandshakeMessage);
    case SSL_R_TOO_MANY_KEY_UPDATES:
      return "the peer sent too many key updates in a row";
    case SSL_R_TOO_MANY_EMPTY_FRAGMENTS:
      return "the peer sent too many empty records in a row";
    case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
      return "a record does not decrypt: altered on the way or under another key";
    default:
      return fmt::format("TLS failed: {}", ERR_reason_error_string(code));
  }
}

}  // namespace meshnode::tls
