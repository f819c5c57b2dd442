#pragma once
/// A TLS peer straight on BoringSSL, free to misbehave: the other end of a session under test.

#include <openssl/bio.h>
#include <openssl/aead.h>
#include <openssl/err.h>
#include <openssl/hkdf.h>
#include <openssl/ssl.h>

#include <array>
#include <string>
#include <vector>

#include "tls/certificates.h"
#include "tls/pair.h"

namespace meshnode::tls::test {

struct RawOptions {
  bool server = false;
  std::uint16_t max_version = TLS1_3_VERSION;
  std::string alpn = std::string("\x02h2", 3);  ///< length-prefixed; empty: none
  std::string server_name = kReviews.server_name();
  std::string groups;
  const Issued* leaf = nullptr;
  std::vector<const Issued*> intermediates;
};

inline ssl_verify_result_t accept_any(SSL*, std::uint8_t*) { return ssl_verify_ok; }

class RawPeer {
 public:
  explicit RawPeer(const RawOptions& options) : context_(SSL_CTX_new(TLS_method())) {
    SSL_CTX* context = context_.get();
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_max_proto_version(context, options.max_version);
    SSL_CTX_set_custom_verify(context, SSL_VERIFY_PEER, accept_any);
    if (!options.groups.empty()) {
      must(SSL_CTX_set1_curves_list(context, options.groups.c_str()));
    }
    if (options.leaf) {
      must(SSL_CTX_use_certificate(context, options.leaf->certificate.get()));
      must(SSL_CTX_use_PrivateKey(context, options.leaf->key.get()));
    }
    for (const Issued* intermediate : options.intermediates) {
      must(SSL_CTX_add1_chain_cert(context, intermediate->certificate.get()));
    }
    if (options.server) {
      alpn_ = options.alpn;
      SSL_CTX_set_alpn_select_cb(context, choose_alpn, this);
    }
    ssl_.reset(SSL_new(context));
    if (!options.server) {
      SSL_set_alpn_protos(ssl_.get(), reinterpret_cast<const std::uint8_t*>(options.alpn.data()),
                          static_cast<unsigned>(options.alpn.size()));
      if (!options.server_name.empty()) {
        must(SSL_set_tlsext_host_name(ssl_.get(), options.server_name.c_str()));
      }
    }
    SSL_set_bio(ssl_.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (options.server) {
      SSL_set_accept_state(ssl_.get());
    } else {
      SSL_set_connect_state(ssl_.get());
    }
  }

  /// Until the session is done, has failed or nothing moves any more.
  Result<Session::Progress> shake(End& end) {
    end.last = end.session->handshake();
    for (;;) {
      bool ready = SSL_do_handshake(ssl_.get()) == 1;
      if (!ready && error_.empty()) note_error();
      ERR_clear_error();
      std::vector<std::uint8_t> sent = take();
      if (!sent.empty() && end.last && *end.last != Session::Progress::kDone) {
        held_ = std::move(sent);
        end.session->feed(held_);
        end.last = end.session->handshake();
      }
      std::vector<std::uint8_t> answer = end.take();
      give(answer);
      if (answer.empty() && sent.empty()) return end.last;
    }
  }

  std::vector<std::uint8_t> take() {
    BIO* bio = SSL_get_wbio(ssl_.get());
    std::vector<std::uint8_t> out(BIO_pending(bio));
    if (!out.empty()) BIO_read(bio, out.data(), static_cast<int>(out.size()));
    return out;
  }
  void give(Bytes bytes) {
    if (bytes.empty()) return;
    must(BIO_write(SSL_get_rbio(ssl_.get()), bytes.data(), static_cast<int>(bytes.size())) > 0);
  }

  /// The next `count` records of `type` after the handshake, whatever is in them: what no library
  /// would send. TLS_AES_128_GCM_SHA256 only; nothing may be written through ssl() afterwards.
  std::vector<std::uint8_t> records(int count, std::uint8_t type, Bytes content) {
    bssl::Span<const std::uint8_t> ours;
    bssl::Span<const std::uint8_t> theirs;
    must(bssl::SSL_get_traffic_secrets(ssl_.get(), &theirs, &ours));
    const std::vector<std::uint8_t> key = expand(ours, "key", 16);
    const std::vector<std::uint8_t> base = expand(ours, "iv", 12);
    bssl::ScopedEVP_AEAD_CTX sealer;
    must(EVP_AEAD_CTX_init(sealer.get(), EVP_aead_aes_128_gcm(), key.data(), key.size(), 16,
                           nullptr));
    if (sent_ == 0) sent_ = SSL_get_write_sequence(ssl_.get());
    std::vector<std::uint8_t> inner(content.begin(), content.end());
    inner.push_back(type);
    const std::size_t size = inner.size() + 16;
    const std::array<std::uint8_t, 5> header{23, 3, 3, static_cast<std::uint8_t>(size >> 8U),
                                             static_cast<std::uint8_t>(size & 0xffU)};
    std::vector<std::uint8_t> out;
    for (int i = 0; i < count; ++i, ++sent_) {
      std::vector<std::uint8_t> nonce = base;
      for (unsigned k = 0; k < 8; ++k) {
        nonce[11 - k] ^= static_cast<std::uint8_t>((sent_ >> (8 * k)) & 0xffU);
      }
      out.insert(out.end(), header.begin(), header.end());
      out.resize(out.size() + size);
      std::size_t sealed = 0;
      must(EVP_AEAD_CTX_seal(sealer.get(), out.data() + out.size() - size, &sealed, size,
                             nonce.data(), nonce.size(), inner.data(), inner.size(), header.data(),
                             header.size()));
    }
    return out;
  }

  SSL* ssl() { return ssl_.get(); }
  /// The alert that the session sent, by its number; 0 when none came.
  int alert() {
    std::uint8_t scratch[16];
    if (SSL_do_handshake(ssl_.get()) == 1) SSL_read(ssl_.get(), scratch, sizeof scratch);
    note_error();
    return alert_;
  }

 private:
  /// HKDF-Expand-Label of RFC 8446 §7.1, without a context.
  static std::vector<std::uint8_t> expand(bssl::Span<const std::uint8_t> secret,
                                          const std::string& label, std::uint8_t size) {
    const std::string name = "tls13 " + label;
    std::string info{'\0', static_cast<char>(size), static_cast<char>(name.size())};
    info += name + '\0';
    std::vector<std::uint8_t> out(size);
    must(HKDF_expand(out.data(), size, EVP_sha256(), secret.data(), secret.size(),
                     reinterpret_cast<const std::uint8_t*>(info.data()), info.size()));
    return out;
  }
  void note_error() {
    while (std::uint32_t code = ERR_get_error()) {
      int reason = ERR_GET_REASON(code);
      if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason >= SSL_AD_REASON_OFFSET) {
        alert_ = reason - SSL_AD_REASON_OFFSET;
      }
    }
  }
  static int choose_alpn(SSL*, const std::uint8_t** out, std::uint8_t* size, const std::uint8_t*,
                         unsigned, void* self) {
    const std::string& alpn = static_cast<RawPeer*>(self)->alpn_;
    if (alpn.empty()) return SSL_TLSEXT_ERR_NOACK;
    *out = reinterpret_cast<const std::uint8_t*>(alpn.data()) + 1;
    *size = static_cast<std::uint8_t>(alpn.size() - 1);
    return SSL_TLSEXT_ERR_OK;
  }

  std::string alpn_;
  bssl::UniquePtr<SSL_CTX> context_;
  bssl::UniquePtr<SSL> ssl_;
  std::vector<std::uint8_t> held_;
  std::string error_;
  int alert_ = 0;
  std::uint64_t sent_ = 0;
};

/// A server session that shows the identity reviews, with no peer yet.
inline void start_server(End& end, CredentialSelector select, WallTime now = kNow) {
  end.session = std::move(Session::server(
                              std::move(select), [now] { return now; }, &end)
                              .value());
}
inline void start_client(End& end, const SpiffeId& expected = kReviews, WallTime now = kNow) {
  end.session = std::move(Session::client(
                              credential_for(kProduct), expected, [now] { return now; }, &end)
                              .value());
}

}  // namespace meshnode::tls::test
