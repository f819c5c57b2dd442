// TLS sessions. The first octet says against whom: 1, a client against any bytes; 2, client and
// server with each other, at the input's pace; 3, the same with what is between them altered; 4 and
// 5, a server and a client against a peer straight on BoringSSL that may lack or overdo anything;
// else a server against any bytes. What arrives is what was sent, from whom the handshake proved,
// or the session ends with a reason.

#include <openssl/err.h>

#include <map>

#include "fuzz/input.h"
#include "tls/raw_peer.h"

using namespace meshnode;
using namespace meshnode::tls;
using namespace meshnode::tls::test;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::size_t kMaxSent = 96 * 1024;  // of one end before the handshake is over

/// Answers now, later, wrong or never.
class SlowSigner final : public Signer {
 public:
  struct Waiting {
    std::uint8_t how = 0;
    std::function<void()> answer;
  };
  SlowSigner(bssl::UniquePtr<EVP_PKEY> key, Waiting& waiting)
      : key_(std::move(key)), waiting_(waiting) {}

  std::unique_ptr<SignRequest> sign(std::uint16_t algorithm, Bytes input,
                                    std::function<void(Result<Signature>)> done) const override {
    class Request final : public SignRequest {
     public:
      explicit Request(Waiting& waiting) : waiting_(waiting) {}
      ~Request() override { waiting_.answer = nullptr; }

     private:
      Waiting& waiting_;
    };
    Result<Signature> signature = real(algorithm, input);
    if (waiting_.how == 2) signature = fail(ErrorCode::kUnavailable, "the token is gone");
    if (waiting_.how == 3) signature = Signature(5000);
    if (waiting_.how == 0) {
      done(std::move(signature));
      return nullptr;
    }
    waiting_.answer = [done = std::move(done), signature] { done(signature); };
    return std::make_unique<Request>(waiting_);
  }

 private:
  Result<Signature> real(std::uint16_t algorithm, Bytes input) const {
    bssl::ScopedEVP_MD_CTX context;
    Signature out(static_cast<std::size_t>(EVP_PKEY_size(key_.get())));
    std::size_t size = out.size();
    must(EVP_DigestSignInit(context.get(), nullptr, SSL_get_signature_algorithm_digest(algorithm),
                            nullptr, key_.get()) &&
         EVP_DigestSign(context.get(), out.data(), &size, input.data(), input.size()));
    out.resize(size);
    return out;
  }

  bssl::UniquePtr<EVP_PKEY> key_;
  Waiting& waiting_;
};

bssl::UniquePtr<EVP_PKEY> key_of(const PemPair& pem) {
  bssl::UniquePtr<BIO> bio(BIO_new_mem_buf(pem.key.data(), static_cast<int>(pem.key.size())));
  return bssl::UniquePtr<EVP_PKEY>(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
}

/// One end of a pair, and the program above it.
struct Side : SessionEvents {
  SlowSigner::Waiting signer;  // outlives the session's request
  std::unique_ptr<Session> session;
  Side* other = nullptr;
  std::vector<std::uint8_t> out;
  std::vector<std::uint8_t> fed;  // borrowed by the session
  std::string sent;
  std::size_t received = 0;
  std::size_t put = 0;
  bool done = false;
  bool failed = false;
  bool closed = false;  // by the other end
  bool ending = false;  // by this one
  bool signed_now = false;
  std::size_t room = 64 * 1024;  // of the buffer read into

  void on_ciphertext(Bytes record) override {
    out.insert(out.end(), record.begin(), record.end());
    put += record.size();
    require(done || put < kMaxSent);
  }
  void on_signed() override { signed_now = true; }

  std::shared_ptr<const Credential> credential(const SpiffeId& id) {
    static std::map<std::string, PemPair> issued;
    auto found = issued.find(id.uri());
    if (found == issued.end()) {
      found = issued.emplace(id.uri(), issue_leaf(root(), id, kNow, 24h).value()).first;
    }
    return Credential::with_signer(found->second.certificate,
                                   std::make_unique<SlowSigner>(key_of(found->second), signer),
                                   root().certificate, kNow)
        .value();
  }
  void fail_with(const Error& error) {
    require(!error.message.empty());
    failed = true;
  }
  void answer() {
    if (const auto told = std::exchange(signer.answer, nullptr)) {
      told();
      if (std::exchange(signed_now, false)) drive();
    }
  }
  void feed(std::vector<std::uint8_t> bytes) {
    if (failed || closed || bytes.empty()) return;
    fed = std::move(bytes);
    session->feed(fed);
    drive();
  }
  void drive() {
    if (failed) return;
    if (!done) {
      const auto progress = session->handshake();
      if (!progress) return fail_with(progress.error());
      if (*progress != Session::Progress::kDone) return;
      done = true;
      require(session->presented() != nullptr);
    }
    read();
  }
  void read() {
    std::vector<std::uint8_t> scratch(room);
    while (!failed && !closed) {
      const auto plain = session->read(scratch);
      if (!plain) return fail_with(plain.error());
      const std::string_view text = as_text(Bytes(scratch).first(plain->size));
      require(other == nullptr || other->sent.substr(received, text.size()) == text);
      received += text.size();
      closed = plain->closed;
      if (plain->need_input) return;
    }
  }
  void write(std::size_t size) {
    if (!done || failed || ending || sent.size() > (1U << 20U)) return;
    std::string text(size, static_cast<char>('a' + size % 26));
    sent += text;
    if (const Status wrote = session->write(as_bytes(text)); !wrote) fail_with(wrote.error());
  }
};

void carry(Side& from, Side& to, Input& in, bool altered) {
  std::vector<std::uint8_t> bytes = std::exchange(from.out, {});
  if (altered && !bytes.empty() && in.flag()) {
    const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(in.up_to(bytes.size() - 1));
    switch (in.up_to(2)) {
      case 0:
        *at = static_cast<std::uint8_t>(*at ^ (1 + in.octet() % 255));
        break;
      case 1:
        bytes.erase(at);
        break;
      default:
        bytes.insert(at, in.octet());
    }
  }
  const std::size_t step = in.one_of<std::size_t>({bytes.size(), 1 + bytes.size() / 7, 1000});
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t size = std::min(std::max<std::size_t>(step, 1), bytes.size() - at);
    const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    to.feed({first, first + static_cast<std::ptrdiff_t>(size)});
    at += size;
  }
}

void act(Input& in, Side& side) {
  switch (in.up_to(6)) {
    case 0:
      return side.write(in.octet());
    case 1:
      return side.write(std::size_t{300} * in.octet());
    case 2:
      side.room = in.one_of<std::size_t>({65'536, 1, 100, 16'384, 16'385});
      return;
    case 3:
      if (side.done && !side.failed) {
        side.ending = true;
        side.session->close();
      }
      return;
    default:
      return side.answer();
  }
}

void against_itself(Input& in, bool altered) {
  const std::uint8_t how = in.octet();
  const bool strange = how % 4 == 3;
  Side client;
  Side server;
  client.other = &server;
  server.other = &client;
  client.signer.how = how / 4 % 4;
  server.signer.how = how / 16 % 4;
  const auto presented = server.credential(kReviews);
  const auto select =
      [&](std::optional<std::string_view> name) -> Result<std::shared_ptr<const Credential>> {
    require(name == kReviews.server_name() || altered);
    if (strange && (how & 0x80U) != 0) return fail(ErrorCode::kNotFound, "no such workload");
    if (strange && (how & 0x40U) != 0) return std::shared_ptr<const Credential>();
    return presented;
  };
  const auto now = [] { return kNow; };
  client.session =
      std::move(Session::client(client.credential(kProduct), kReviews, now, &client).value());
  server.session = std::move(Session::server(select, now, &server).value());
  client.drive();
  for (std::size_t step = 0; step < 200 && !in.empty(); ++step) {
    act(in, client);
    if (in.flag()) carry(client, server, in, altered);
    act(in, server);
    if (in.flag()) carry(server, client, in, altered);
  }
  Input none(nullptr, 0);
  while (!client.out.empty() || !server.out.empty() || client.signer.answer ||
         server.signer.answer) {
    client.answer();
    carry(client, server, none, false);
    server.answer();
    carry(server, client, none, false);
  }
  if (client.done) require(client.session->peer().identity == kReviews);
  if (server.done) require(server.session->peer().identity == kProduct);
  if (altered || strange || client.signer.how > 1 || server.signer.how > 1) return;
  require(client.done && server.done && !client.failed && !server.failed);
  require(server.closed || server.received == client.sent.size());
  require(client.closed || client.received == server.sent.size());
}

void against_bytes(Input& in, bool client) {
  static Side of_credential;
  static const auto credential = of_credential.credential(kReviews);
  Side side;
  const auto now = [] { return kNow; };
  const auto select = [](std::optional<std::string_view>) { return credential; };
  side.session = client ? std::move(Session::client(credential, kProduct, now, &side).value())
                        : std::move(Session::server(select, now, &side).value());
  const std::size_t step = std::max<std::size_t>(in.octet(), 1);
  side.drive();
  while (!in.empty() && !side.failed) {
    const Bytes piece = in.take(step);
    side.feed({piece.begin(), piece.end()});
    require(!side.done);  // nobody without a certificate of this root gets here
  }
  side.session->close();
}

constexpr std::size_t kOfReviews = 10;

const Issued& leaf_of(std::size_t which) {
  static const std::vector<Issued> all = [] {
    std::vector<Issued> made;
    made.reserve(16);
    Shape good;
    good.issuer = &root_objects();
    const auto add = [&](auto change) {
      Shape shape = good;
      change(shape);
      made.push_back(issue(shape));
    };
    add([](Shape&) {});
    add([](Shape& s) { s.not_after = kNow - 1h; });
    add([](Shape& s) { s.uris.clear(); });
    add([](Shape& s) { s.uris = {"spiffe://other.internal/ns/a/sa/b"}; });
    add([](Shape& s) { s.issuer = nullptr; });
    add([](Shape& s) { s.extended = "codeSigning"; });
    add([](Shape& s) { s.key = Key::kRsa1024; });
    add([](Shape& s) { s.key = Key::kRsa2048; });
    add([](Shape& s) { s.key = Key::kP384; });
    add([](Shape& s) { s.key = Key::kP521; });
    add([](Shape& s) { s.uris = {kReviews.uri()}; });
    add([](Shape& s) { s.constraints = "critical,CA:TRUE"; });
    return made;
  }();
  return all[which % all.size()];
}

void against_peer(Input& in, bool client) {
  RawOptions options;
  options.server = client;
  options.max_version = in.flag() ? TLS1_2_VERSION : TLS1_3_VERSION;
  options.alpn = in.one_of<std::string>({options.alpn, "", "\x08http/1.1", "\x01x\x02h2"});
  options.server_name = in.one_of<std::string>({options.server_name, "", std::string(255, 'a')});
  options.groups = in.one_of<std::string>({"", "P-256", "P-384", "X25519"});
  const std::uint8_t leaf = in.octet();
  if (leaf != 255) options.leaf = &leaf_of(leaf);
  for (std::size_t i = in.one_of<std::size_t>({0, 1, 4, 6}); i > 0; --i) {
    options.intermediates.push_back(&leaf_of(i));
  }
  static Side of_credential;
  static const auto credential = of_credential.credential(kReviews);
  End end;
  client ? start_client(end) : start_server(end, always(credential));
  RawPeer peer(options);
  const auto shaken = peer.shake(end);
  require(shaken || !shaken.error().message.empty());
  if (!shaken || *shaken != Session::Progress::kDone) return;
  require(end.session->peer().identity == (leaf % 12 == kOfReviews ? kReviews : kProduct));
  for (std::size_t step = 0; step < 100 && !in.empty(); ++step) {
    const std::string text = in.text();
    switch (in.up_to(3)) {
      case 0:
        SSL_write(peer.ssl(), text.data(), static_cast<int>(text.size()));
        break;
      case 1:
        for (std::size_t i = text.size(); i > 0; --i) {
          SSL_key_update(peer.ssl(), SSL_KEY_UPDATE_NOT_REQUESTED);
          if (i % 2 == 1) SSL_write(peer.ssl(), "k", 1);
        }
        break;
      case 2:
        SSL_shutdown(peer.ssl());
        break;
      default:
        SSL_send_fatal_alert(peer.ssl(),
                             text.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(text[0]));
    }
    ERR_clear_error();
    const std::vector<std::uint8_t> bytes = peer.take();
    if (bytes.empty()) continue;
    end.session->feed(bytes);
    for (;;) {
      const auto plain = end.session->read(end.scratch);
      require(plain || !plain.error().message.empty());
      if (!plain || plain->closed) return;
      if (plain->need_input) break;
    }
  }
  end.session->close();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  switch (const std::uint8_t against = in.octet()) {
    case 2:
    case 3:
      against_itself(in, against == 3);
      break;
    case 4:
    case 5:
      against_peer(in, against == 5);
      break;
    default:
      against_bytes(in, against == 1);
  }
  return 0;
}
