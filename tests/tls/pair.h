#pragma once
/// Two sessions joined in memory, and the certificates they need.

#include <meshnode/time.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "tls/authority.h"
#include "tls/credential.h"
#include "tls/session.h"

namespace meshnode::tls::test {

using namespace std::chrono_literals;

/// 2026-01-01T00:00:00Z.
inline constexpr WallTime kNow{std::chrono::seconds(1767225600)};

inline SpiffeId id_of(const std::string& uri) { return SpiffeId::parse(uri).value(); }
inline const SpiffeId kReviews = id_of("spiffe://example.internal/ns/bookinfo/sa/reviews");
inline const SpiffeId kProduct = id_of("spiffe://example.internal/ns/bookinfo/sa/productpage");

inline const PemPair& root() {
  static const PemPair pem = make_root("example.internal", kNow - 24h, 24h * 3650).value();
  return pem;
}

inline std::shared_ptr<const Credential> credential_for(const SpiffeId& id,
                                                        const PemPair& issuer = root(),
                                                        WallTime now = kNow) {
  PemPair leaf = issue_leaf(issuer, id, now, 24h).value();
  return Credential::from_pem(leaf.certificate, leaf.key, issuer.certificate, now).value();
}

/// One end: keeps what the session sends and remembers what it was told.
struct End : SessionEvents {
  void on_ciphertext(Bytes record) override {
    out.insert(out.end(), record.begin(), record.end());
    pieces.push_back(record.size());
  }
  void on_signed() override { ++signatures; }

  std::vector<std::uint8_t> take() { return std::exchange(out, {}); }

  std::unique_ptr<Session> session;
  std::vector<std::uint8_t> out;
  std::vector<std::size_t> pieces;
  int signatures = 0;
  std::vector<std::uint8_t> scratch = std::vector<std::uint8_t>(64 * 1024);
  Result<Session::Plaintext> after = Session::Plaintext{};  ///< what came behind the handshake
  Result<Session::Progress> last = Session::Progress::kNeedInput;
};

inline CredentialSelector always(std::shared_ptr<const Credential> credential) {
  return [credential](std::optional<std::string_view>) { return credential; };
}

struct Pair {
  explicit Pair(std::shared_ptr<const Credential> of_client = credential_for(kProduct),
                std::shared_ptr<const Credential> of_server = credential_for(kReviews),
                const SpiffeId& expected = kReviews, WallTime now = kNow)
      : Pair(std::move(of_client), always(std::move(of_server)), expected, now) {}

  Pair(std::shared_ptr<const Credential> of_client, CredentialSelector select,
       const SpiffeId& expected = kReviews, WallTime now = kNow) {
    auto clock = [now] { return now; };
    client.session =
        std::move(Session::client(std::move(of_client), expected, clock, &client).value());
    server.session = std::move(Session::server(std::move(select), clock, &server).value());
  }

  /// Until both are done, one has failed or nothing moves any more.
  void shake(std::size_t step = SIZE_MAX) {
    client.last = client.session->handshake();
    for (;;) {
      std::vector<std::uint8_t> to_server = client.take();
      deliver(server, to_server, step);
      std::vector<std::uint8_t> to_client = server.take();
      deliver(client, to_client, step);
      if (to_server.empty() && to_client.empty()) return;
    }
  }

  static void deliver(End& to, const std::vector<std::uint8_t>& bytes, std::size_t step) {
    for (std::size_t at = 0; at < bytes.size(); at += std::min(step, bytes.size() - at)) {
      if (!to.last || *to.last == Session::Progress::kDone) {
        // What follows the handshake is an alert or nothing in these tests.
        if (to.last) to.session->feed(Bytes(bytes).subspan(at));
        if (to.last) to.after = to.session->read(to.scratch);
        return;
      }
      to.session->feed(Bytes(bytes).subspan(at, std::min(step, bytes.size() - at)));
      to.last = to.session->handshake();
    }
  }

  bool done() const {
    return client.last && server.last && *client.last == Session::Progress::kDone &&
           *server.last == Session::Progress::kDone;
  }

  End client;
  End server;
};

}  // namespace meshnode::tls::test
