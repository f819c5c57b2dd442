#include "tls/session.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "base/escape.h"
#include "tls/context.h"
#include "tls/credential_parts.h"

namespace meshnode::tls {
namespace {

constexpr std::size_t kRecord = 16384;
constexpr std::size_t kMaxServerName = 253;
// Sent by the peer while we wait for a signature: no honest peer has more to say by then than a
// first flight of HTTP/2 settings.
constexpr std::size_t kMaxHeld = 64 * 1024;

int bounded(std::size_t size) {
  return static_cast<int>(std::min<std::size_t>(size, std::numeric_limits<int>::max()));
}

class OpenSession final : public Session {
 public:
  static Result<std::unique_ptr<OpenSession>> make(bool server, std::function<WallTime()> now,
                                                   SessionEvents* events);

  Status start_client(std::shared_ptr<const Credential> credential, const SpiffeId& expected);
  void start_server(CredentialSelector select);

  void feed(Bytes ciphertext) override;
  Result<Progress> handshake() override;
  Result<Plaintext> read(MutableBytes buffer) override;
  Status write(Bytes plaintext) override;
  void close() override;
  const Peer& peer() const override { return peer_; }
  const std::shared_ptr<const Credential>& presented() const override { return presented_; }

 private:
  // What only the handshake needs; gone after it.
  struct Handshake {
    std::function<WallTime()> now;
    CredentialSelector select;
    std::optional<SpiffeId> expected;
    bool alpn_offered = false;
    std::string refusal;
    bool signing = false;
    std::unique_ptr<SignRequest> request;
    std::optional<Result<Signature>> signature;
    bool waiting = false;  ///< for a signature; input is held meanwhile
    std::vector<std::uint8_t> held;
  };

  OpenSession(bssl::UniquePtr<SSL> ssl, std::function<WallTime()> now, SessionEvents* events)
      : ssl_(std::move(ssl)), events_(events), handshake_(std::make_unique<Handshake>()) {
    handshake_->now = std::move(now);
  }

  static OpenSession* of(const SSL* ssl) {
    return static_cast<OpenSession*>(BIO_get_data(SSL_get_rbio(ssl)));
  }
  static const BIO_METHOD* bio_method();
  static SSL_CTX* context(bool server);
  static int bio_read(BIO* bio, char* out, int size);
  static int bio_write(BIO* bio, const char* data, int size);
  static long bio_control(BIO* bio, int command, long, void*);
  static ssl_verify_result_t on_verify(SSL* ssl, std::uint8_t* alert);
  static ssl_select_cert_result_t on_client_hello(const SSL_CLIENT_HELLO* hello);
  static int on_server_name(SSL* ssl, int* alert, void*);
  static int on_ticket(SSL* ssl, SSL_SESSION*);
  static ssl_private_key_result_t on_sign(SSL* ssl, std::uint8_t* out, std::size_t* out_size,
                                          std::size_t max_out, std::uint16_t algorithm,
                                          const std::uint8_t* in, std::size_t in_size);
  static ssl_private_key_result_t on_sign_complete(SSL* ssl, std::uint8_t* out,
                                                   std::size_t* out_size, std::size_t max_out);

  bool present(std::shared_ptr<const Credential> credential);
  std::optional<Refusal> choose();
  std::optional<Refusal> verify();
  ssl_private_key_result_t take_signature(std::uint8_t* out, std::size_t* out_size,
                                          std::size_t max_out);
  void hold(Bytes ciphertext);
  tl::unexpected<Error> break_off(ErrorCode code, std::string reason);
  Result<Plaintext> broken_off(const Plaintext& before, std::string reason);

  bssl::UniquePtr<SSL> ssl_;
  SessionEvents* events_;
  Bytes input_;
  std::unique_ptr<Handshake> handshake_;
  unsigned tickets_ = 0;
  std::shared_ptr<const Credential> presented_;
  Peer peer_{};
  std::unique_ptr<Error> error_;
};

const BIO_METHOD* OpenSession::bio_method() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(0, "session");
    BIO_meth_set_read(made, bio_read);
    BIO_meth_set_write(made, bio_write);
    BIO_meth_set_ctrl(made, bio_control);
    return made;
  }();
  return method;
}

SSL_CTX* OpenSession::context(bool server) {
  static constexpr ContextCallbacks kCallbacks{on_verify, on_client_hello, on_server_name,
                                               on_ticket};
  static SSL_CTX* const of_server = make_context(true, kCallbacks);
  static SSL_CTX* const of_client = make_context(false, kCallbacks);
  return server ? of_server : of_client;
}

Result<std::unique_ptr<OpenSession>> OpenSession::make(bool server, std::function<WallTime()> now,
                                                       SessionEvents* events) {
  SSL_CTX* shared = context(server);
  bssl::UniquePtr<SSL> ssl(shared ? SSL_new(shared) : nullptr);
  bssl::UniquePtr<BIO> bio(BIO_new(bio_method()));
  if (!ssl || !bio) return fail(ErrorCode::kInternal, "no TLS session: " + take_library_error());
  SSL_set_shed_handshake_config(ssl.get(), 1);
  BIO* raw = bio.release();
  BIO_set_init(raw, 1);
  SSL_set_bio(ssl.get(), raw, raw);
  std::unique_ptr<OpenSession> session(new OpenSession(std::move(ssl), std::move(now), events));
  BIO_set_data(raw, session.get());
  return session;
}

Status OpenSession::start_client(std::shared_ptr<const Credential> credential,
                                 const SpiffeId& expected) {
  if (!credential) return fail(ErrorCode::kUnavailable, "no certificate to present");
  SSL_set_connect_state(ssl_.get());
  if (!SSL_set_tlsext_host_name(ssl_.get(), expected.server_name().c_str()) ||
      !present(std::move(credential))) {
    return fail(ErrorCode::kInternal, "no TLS session: " + take_library_error());
  }
  handshake_->expected = expected;
  return {};
}

void OpenSession::start_server(CredentialSelector select) {
  SSL_set_accept_state(ssl_.get());
  handshake_->select = std::move(select);
}

int OpenSession::bio_read(BIO* bio, char* out, int size) {
  BIO_clear_retry_flags(bio);
  Bytes& input = static_cast<OpenSession*>(BIO_get_data(bio))->input_;
  if (input.empty()) {
    BIO_set_retry_read(bio);
    return -1;
  }
  std::size_t count = std::min(input.size(), static_cast<std::size_t>(std::max(size, 0)));
  std::memcpy(out, input.data(), count);
  input = input.subspan(count);
  return static_cast<int>(count);
}

int OpenSession::bio_write(BIO* bio, const char* data, int size) {
  BIO_clear_retry_flags(bio);
  auto* session = static_cast<OpenSession*>(BIO_get_data(bio));
  session->events_->on_ciphertext(
      {reinterpret_cast<const std::uint8_t*>(data), static_cast<std::size_t>(std::max(size, 0))});
  return size;
}

long OpenSession::bio_control(BIO*, int command, long, void*) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

bool OpenSession::present(std::shared_ptr<const Credential> credential) {
  static constexpr SSL_PRIVATE_KEY_METHOD kSigning{on_sign, nullptr, on_sign_complete};
  const auto& chain = stored(*credential).chain();
  std::array<CRYPTO_BUFFER*, kMaxChain> raw{};
  std::transform(chain.begin(), chain.end(), raw.begin(),
                 [](const auto& certificate) { return certificate.get(); });
  presented_ = std::move(credential);
  return SSL_set_chain_and_key(ssl_.get(), raw.data(), chain.size(), nullptr, &kSigning) == 1;
}

ssl_select_cert_result_t OpenSession::on_client_hello(const SSL_CLIENT_HELLO* hello) {
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;
  of(hello->ssl)->handshake_->alpn_offered =
      SSL_early_callback_ctx_extension_get(
          hello, TLSEXT_TYPE_application_layer_protocol_negotiation, &data, &size) == 1;
  return ssl_select_cert_success;
}

int OpenSession::on_ticket(SSL* ssl, SSL_SESSION*) {
  ++of(ssl)->tickets_;
  return 0;  // not kept
}

int OpenSession::on_server_name(SSL* ssl, int* alert, void*) {
  OpenSession* session = of(ssl);
  std::optional<Refusal> refusal = session->choose();
  if (!refusal) return SSL_TLSEXT_ERR_OK;
  session->handshake_->refusal = std::move(refusal->reason);
  *alert = refusal->alert;
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

// BoringSSL asks for the server name whether one was sent or not, after it has settled on TLS 1.3.
std::optional<Refusal> OpenSession::choose() {
  if (!handshake_->alpn_offered) {
    return Refusal{SSL_AD_NO_APPLICATION_PROTOCOL, std::string(kNoH2)};
  }
  std::optional<std::string_view> name;
  if (const char* sent = SSL_get_servername(ssl_.get(), TLSEXT_NAMETYPE_host_name)) name = sent;
  if (name && name->size() > kMaxServerName) {
    return Refusal{SSL_AD_UNRECOGNIZED_NAME, fmt::format("the server name {} is over {} octets",
                                                         quoted(*name), kMaxServerName)};
  }
  Result<std::shared_ptr<const Credential>> credential = handshake_->select(name);
  if (!credential) return Refusal{SSL_AD_UNRECOGNIZED_NAME, credential.error().message};
  if (!*credential) return Refusal{SSL_AD_UNRECOGNIZED_NAME, "no certificate to present"};
  if (!present(std::move(*credential))) {
    return Refusal{SSL_AD_INTERNAL_ERROR, take_library_error()};
  }
  return std::nullopt;
}

ssl_verify_result_t OpenSession::on_verify(SSL* ssl, std::uint8_t* alert) {
  OpenSession* session = of(ssl);
  std::optional<Refusal> refusal = session->verify();
  if (!refusal) return ssl_verify_ok;
  session->handshake_->refusal = std::move(refusal->reason);
  if (refusal->of_dates) {
    session->handshake_->refusal += "; the time here is " + rfc3339(session->handshake_->now());
  }
  *alert = refusal->alert;
  return ssl_verify_invalid;
}

std::optional<Refusal> OpenSession::verify() {
  const std::uint8_t* alpn = nullptr;
  unsigned alpn_size = 0;
  SSL_get0_alpn_selected(ssl_.get(), &alpn, &alpn_size);
  if (as_text({alpn, alpn_size}) != "h2") {
    return Refusal{SSL_AD_NO_APPLICATION_PROTOCOL,
                   "the peer did not choose ALPN h2; is it an HBONE agent?"};
  }
  const STACK_OF(CRYPTO_BUFFER)* sent = SSL_get0_peer_certificates(ssl_.get());
  std::size_t count = sent ? sk_CRYPTO_BUFFER_num(sent) : 0;
  if (count == 0) return Refusal{SSL_AD_CERTIFICATE_REQUIRED, std::string(kNoCertificate)};
  if (count > kMaxChain) {
    return Refusal{
        SSL_AD_UNKNOWN_CA,
        fmt::format("the peer presented {} certificates; at most {} are read", count, kMaxChain)};
  }
  std::vector<CertificatePtr> chain;
  for (std::size_t i = 0; i < count; ++i) {
    chain.emplace_back(X509_parse_from_buffer(sk_CRYPTO_BUFFER_value(sent, i)));
    if (!chain.back()) {
      ERR_clear_error();
      return Refusal{SSL_AD_BAD_CERTIFICATE, "the peer presented a malformed certificate"};
    }
  }

  WallTime now = handshake_->now();
  const StoredCredential& ours = stored(*presented_);
  X509* leaf = chain.front().get();
  bool server = SSL_is_server(ssl_.get()) == 1;
  if (auto refusal = check_leaf(leaf, server ? Role::kClient : Role::kServer, now)) return refusal;
  Result<SpiffeId> identity = identity_of(leaf);
  if (!identity) return Refusal{SSL_AD_BAD_CERTIFICATE, identity.error().message};
  if (identity->trust_domain() != ours.identity().trust_domain()) {
    return Refusal{SSL_AD_ACCESS_DENIED,
                   fmt::format("{} is of another trust domain than ours, {}; compare "
                               "spec.trustDomain of both hosts' Nodes",
                               identity->uri(), ours.identity().trust_domain())};
  }
  if (handshake_->expected && *identity != *handshake_->expected) {
    return Refusal{SSL_AD_ACCESS_DENIED, fmt::format("the peer is {}, not {}", identity->uri(),
                                                     handshake_->expected->uri())};
  }
  if (auto refusal = check_path(ours.roots(), chain, now)) return refusal;
  peer_ = Peer{std::move(*identity), validity_of(leaf).not_after};
  return std::nullopt;
}

ssl_private_key_result_t OpenSession::on_sign(SSL* ssl, std::uint8_t* out, std::size_t* out_size,
                                              std::size_t max_out, std::uint16_t algorithm,
                                              const std::uint8_t* in, std::size_t in_size) {
  OpenSession* session = of(ssl);
  session->handshake_->signing = true;
  std::unique_ptr<SignRequest> request =
      stored(*session->presented_)
          .signer()
          .sign(algorithm, {in, in_size}, [session](Result<Signature> signature) {
            Handshake& waiting = *session->handshake_;
            waiting.signature = std::move(signature);
            if (!waiting.signing) {
              session->events_->on_signed();
            }
          });
  session->handshake_->signing = false;
  session->handshake_->request = std::move(request);
  return session->take_signature(out, out_size, max_out);
}

ssl_private_key_result_t OpenSession::on_sign_complete(SSL* ssl, std::uint8_t* out,
                                                       std::size_t* out_size, std::size_t max_out) {
  return of(ssl)->take_signature(out, out_size, max_out);
}

ssl_private_key_result_t OpenSession::take_signature(std::uint8_t* out, std::size_t* out_size,
                                                     std::size_t max_out) {
  std::optional<Result<Signature>>& signature = handshake_->signature;
  if (!signature) return ssl_private_key_retry;
  if (!*signature) {
    handshake_->refusal = "our signature failed: " + (*signature).error().message;
    return ssl_private_key_failure;
  }
  const Signature& bytes = **signature;
  if (bytes.size() > max_out) {
    handshake_->refusal = "our signature failed: it is longer than the key allows";
    return ssl_private_key_failure;
  }
  std::copy(bytes.begin(), bytes.end(), out);
  *out_size = bytes.size();
  return ssl_private_key_success;
}

void OpenSession::feed(Bytes ciphertext) {
  if (error_) return;
  if (handshake_ && handshake_->waiting) {
    hold(ciphertext);
  } else if (!input_.empty()) {
    break_off(ErrorCode::kInternal, "more ciphertext was fed before the last had been used up");
  } else {
    input_ = ciphertext;
  }
}

tl::unexpected<Error> OpenSession::break_off(ErrorCode code, std::string reason) {
  error_ = std::make_unique<Error>(Error{code, std::move(reason)});
  input_ = {};
  return fail(*error_);
}

// The caller's buffer is gone by the time the signature comes.
void OpenSession::hold(Bytes ciphertext) {
  std::vector<std::uint8_t>& held = handshake_->held;
  if (ciphertext.size() > kMaxHeld - held.size()) {
    break_off(ErrorCode::kLimit, "the peer sent data before the handshake was over");
    return;
  }
  held.insert(held.end(), ciphertext.begin(), ciphertext.end());
  input_ = held;
}

Result<Session::Progress> OpenSession::handshake() {
  if (error_) return fail(*error_);
  if (!handshake_) return Progress::kDone;
  ERR_clear_error();
  int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    handshake_->waiting = false;
    // What was held stays until it has been read.
    if (input_.empty() || handshake_->held.empty()) handshake_.reset();
    return Progress::kDone;
  }
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      handshake_->waiting = false;
      handshake_->held.clear();
      return Progress::kNeedInput;
    case SSL_ERROR_WANT_PRIVATE_KEY_OPERATION:
      if (!handshake_->waiting) hold(input_);
      if (error_) return fail(*error_);
      handshake_->waiting = true;
      return Progress::kWaitingForSignature;
    default: {
      std::string reason = failure_reason();
      if (!handshake_->refusal.empty()) reason = std::move(handshake_->refusal);
      return break_off(ErrorCode::kTls, std::move(reason));
    }
  }
}

// What was decrypted before it goes first; the next call reports.
Result<Session::Plaintext> OpenSession::broken_off(const Plaintext& before, std::string reason) {
  tl::unexpected<Error> error = break_off(ErrorCode::kTls, std::move(reason));
  if (before.size > 0) return before;
  return error;
}

Result<Session::Plaintext> OpenSession::read(MutableBytes buffer) {
  if (error_) return fail(*error_);
  if (SSL_in_init(ssl_.get())) return fail(ErrorCode::kInternal, "read before the handshake");
  Plaintext out;
  if (buffer.empty()) return out;
  ERR_clear_error();
  do {
    MutableBytes room = buffer.subspan(out.size);
    int count = SSL_read(ssl_.get(), room.data(), bounded(room.size()));
    if (count > 0) {
      out.size += static_cast<std::size_t>(count);
      continue;
    }
    const int outcome = SSL_get_error(ssl_.get(), count);
    if (tickets_ > kMaxTickets) {
      SSL_send_fatal_alert(ssl_.get(), SSL_AD_UNEXPECTED_MESSAGE);
      ERR_clear_error();
      return broken_off(out, "the peer sent too many session tickets");
    }
    switch (outcome) {
      case SSL_ERROR_WANT_READ:
        out.need_input = true;
        handshake_.reset();
        return out;
      case SSL_ERROR_ZERO_RETURN:
        out.closed = true;
        return out;
      default:
        return broken_off(out, failure_reason());
    }
  } while (buffer.size() - out.size >= kRecord);
  return out;
}

Status OpenSession::write(Bytes plaintext) {
  if (error_) return fail(*error_);
  if (SSL_in_init(ssl_.get())) return fail(ErrorCode::kInternal, "write before the handshake");
  ERR_clear_error();
  while (!plaintext.empty()) {
    int count = SSL_write(ssl_.get(), plaintext.data(), bounded(plaintext.size()));
    if (count <= 0) return break_off(ErrorCode::kTls, failure_reason());
    plaintext = plaintext.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

void OpenSession::close() {
  if (error_) return;
  SSL_shutdown(ssl_.get());
  ERR_clear_error();
}

}  // namespace

Result<std::unique_ptr<Session>> Session::client(std::shared_ptr<const Credential> credential,
                                                 const SpiffeId& expected,
                                                 std::function<WallTime()> now,
                                                 SessionEvents* events) {
  Result<std::unique_ptr<OpenSession>> session = OpenSession::make(false, std::move(now), events);
  if (!session) return fail(session.error());
  if (Status started = (*session)->start_client(std::move(credential), expected); !started) {
    return fail(started.error());
  }
  return std::unique_ptr<Session>(std::move(*session));
}

Result<std::unique_ptr<Session>> Session::server(CredentialSelector select,
                                                 std::function<WallTime()> now,
                                                 SessionEvents* events) {
  Result<std::unique_ptr<OpenSession>> session = OpenSession::make(true, std::move(now), events);
  if (!session) return fail(session.error());
  (*session)->start_server(std::move(select));
  return std::unique_ptr<Session>(std::move(*session));
}

}  // namespace meshnode::tls
