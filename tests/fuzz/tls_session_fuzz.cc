/// A server session against any bytes. The first byte says how they are cut; the session must end
/// in an error or ask for more, with what it sends bounded.

#include <algorithm>
#include <cstdlib>

#include "tls/authority.h"
#include "tls/credential.h"
#include "tls/session.h"

namespace {

using namespace meshnode;

constexpr WallTime kNow{std::chrono::seconds(1767225600)};
constexpr std::size_t kMaxSent = 64 * 1024;

struct Counter : tls::SessionEvents {
  void on_ciphertext(Bytes record) override {
    sent += record.size();
    if (sent > kMaxSent) std::abort();
  }
  void on_signed() override { std::abort(); }
  std::size_t sent = 0;
};

std::shared_ptr<const tls::Credential> make_credential() {
  using std::chrono::hours;
  tls::PemPair root = tls::make_root("example.internal", kNow, hours(24)).value();
  SpiffeId id = SpiffeId::make("example.internal", "bookinfo", "reviews").value();
  tls::PemPair leaf = tls::issue_leaf(root, id, kNow, hours(1)).value();
  return tls::Credential::from_pem(leaf.certificate, leaf.key, root.certificate, kNow).value();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::shared_ptr<const tls::Credential> credential = make_credential();
  if (size == 0) return 0;
  std::size_t step = std::max<std::size_t>(data[0], 1);
  Bytes input(data + 1, size - 1);

  Counter events;
  auto select = [](std::optional<std::string_view>) { return credential; };
  auto session = std::move(tls::Session::server(
                               select, [] { return kNow; }, &events)
                               .value());
  while (!input.empty()) {
    Bytes piece = input.first(std::min(step, input.size()));
    input = input.subspan(piece.size());
    session->feed(piece);
    Result<tls::Session::Progress> progress = session->handshake();
    if (!progress) {
      if (progress.error().message.empty()) std::abort();
      return 0;
    }
    // Nobody without a certificate of this root gets here.
    if (*progress == tls::Session::Progress::kDone) std::abort();
  }
  session->close();
  return 0;
}
