#include "identity/files.h"

#include <catch2/catch.hpp>

#include "support/fake_storage.h"
#include "tls/authority.h"

namespace meshnode::identity {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using test::FakeStorage;
using tls::PemPair;

constexpr WallTime kNow{std::chrono::seconds(1767225600)};  // 2026-01-01T00:00:00Z
const std::string kDirectory = "/etc/meshnode/certs";

SpiffeId id_of(const char* service_account, const char* trust_domain = "example.internal") {
  return SpiffeId::make(trust_domain, "bookinfo", service_account).value();
}
const SpiffeId kReviews = id_of("reviews");
const Paths kPaths = paths_of(kDirectory, kReviews);

const PemPair& root() {
  static const PemPair pem = tls::make_root("example.internal", kNow - 24h, 24h * 365).value();
  return pem;
}

PemPair leaf_for(const SpiffeId& id, WallTime now = kNow, Duration lifetime = 24h) {
  return tls::issue_leaf(root(), id, now, lifetime).value();
}

void put_pair(FakeStorage& storage, const SpiffeId& id, const PemPair& leaf) {
  Paths paths = paths_of(kDirectory, id);
  storage.put(paths.chain, leaf.certificate);
  storage.put(paths.key, leaf.key, 0600);
}

FakeStorage good_storage(const SpiffeId& id = kReviews) {
  FakeStorage storage;
  storage.put(kPaths.roots, root().certificate);
  put_pair(storage, id, leaf_for(id));
  return storage;
}

std::string refused(const FakeStorage& storage, WallTime now = kNow) {
  auto result = load(storage, kDirectory, kReviews, now);
  REQUIRE_FALSE(result);
  return result.error().message;
}

TEST_CASE("a directory laid out as meshnode ca issue writes it gives the identity") {
  FakeStorage storage = good_storage();
  auto loaded = load(storage, kDirectory, kReviews, kNow);
  REQUIRE(loaded);
  CHECK(loaded->credential->identity() == kReviews);
  CHECK(kPaths.chain == "/etc/meshnode/certs/bookinfo/reviews/tls.crt");
}

TEST_CASE("each missing file is named with the next step") {
  for (const std::string& path : {kPaths.roots, kPaths.chain, kPaths.key}) {
    FakeStorage storage = good_storage();
    REQUIRE(storage.remove(path));
    CHECK_THAT(refused(storage),
               Contains(path + ": no such file; ") && Contains("meshnode ca issue"));
  }
}

TEST_CASE("a key that group or others may touch is refused, whatever the bit") {
  for (std::uint32_t bit = 1; bit <= 040; bit <<= 1) {
    FakeStorage storage = good_storage();
    storage.chmod(kPaths.key, 0600 | bit);
    CHECK_THAT(refused(storage), Contains(kPaths.key) && Contains("chmod 600"));
    CHECK(storage.reads() == 0);
  }
  FakeStorage storage = good_storage();
  storage.chmod(kPaths.key, 0400);
  CHECK(load(storage, kDirectory, kReviews, kNow));
}

TEST_CASE("what is no regular file is refused unread") {
  for (const std::string& path : {kPaths.roots, kPaths.chain, kPaths.key}) {
    for (std::uint32_t type : {0010000u, 0040000u, 0140000u, 0020000u}) {
      FakeStorage storage = good_storage();
      storage.put_special(path, type);
      CHECK_THAT(refused(storage), Contains(path + ": not a regular file"));
      CHECK(storage.reads() == 0);
    }
  }
}

TEST_CASE("a file of 1 MiB is read, a larger one is not") {
  FakeStorage storage = good_storage();
  std::string chain = storage.read(kPaths.chain, kMaxFile).value();
  std::string padding(kMaxFile - chain.size(), '\n');
  storage.put(kPaths.chain, padding + chain);
  CHECK(load(storage, kDirectory, kReviews, kNow));
  storage.put(kPaths.chain, padding + "\n" + chain);
  CHECK_THAT(refused(storage), Contains(kPaths.chain) && Contains("larger than 1048576 bytes"));
}

TEST_CASE("an unreadable file is refused with the storage's words") {
  FakeStorage storage = good_storage();
  storage.fail_reads(kPaths.key, Error{ErrorCode::kPermission, "tls.key: permission denied"});
  CHECK(refused(storage) == "tls.key: permission denied");
}

TEST_CASE("expired and not yet valid certificates are refused with their dates") {
  FakeStorage storage = good_storage();
  CHECK_THAT(refused(storage, kNow + 24h), Contains("expired at 2026-01-02T00:00:00Z"));
  CHECK_THAT(refused(storage, kNow - 1h), Contains("not yet valid, only from"));
}

TEST_CASE("a pair that does not match is refused") {
  FakeStorage storage = good_storage();
  storage.put(kPaths.key, leaf_for(kReviews).key, 0600);
  CHECK_THAT(refused(storage), Contains("not the certificate's"));
}

TEST_CASE("a certificate of another identity or trust domain is refused") {
  FakeStorage storage = good_storage();
  put_pair(storage, kReviews, leaf_for(id_of("ratings")));
  CHECK_THAT(refused(storage), Contains("it is for spiffe://example.internal/ns/bookinfo/sa/"
                                        "ratings; issue one for " +
                                        kReviews.uri()));

  SpiffeId elsewhere = id_of("reviews", "other.internal");
  PemPair other_root = tls::make_root("other.internal", kNow - 1h, 48h).value();
  storage.put(kPaths.roots, other_root.certificate);
  put_pair(storage, kReviews, tls::issue_leaf(other_root, elsewhere, kNow, 1h).value());
  CHECK_THAT(refused(storage),
             Contains("its trust domain is other.internal") && Contains("spec.trustDomain"));
}

TEST_CASE("a certificate that the roots did not sign is refused") {
  FakeStorage storage = good_storage();
  storage.put(kPaths.roots, tls::make_root("example.internal", kNow - 1h, 48h)->certificate);
  CHECK_THAT(refused(storage), Contains("unknown issuer"));
  storage.put(kPaths.roots, "not PEM");
  CHECK_THAT(refused(storage), Contains("trusted roots"));
}

State only(FileIdentities& identities, WallTime now) {
  return identities.refresh({kReviews}, now).identities.at(kReviews);
}

TEST_CASE("unchanged files are not read again") {
  FakeStorage storage = good_storage();
  FileIdentities identities(&storage, kDirectory);
  State first = only(identities, kNow);
  REQUIRE(first.credential);
  CHECK(first.problems.empty());
  int reads = storage.reads();
  CHECK(only(identities, kNow + 1min).credential == first.credential);
  CHECK(storage.reads() == reads);
}

TEST_CASE("a renewed pair replaces the credential, also when written in place") {
  FakeStorage storage = good_storage();
  FileIdentities identities(&storage, kDirectory);
  State first = only(identities, kNow);

  put_pair(storage, kReviews, leaf_for(kReviews, kNow + 1h));
  State second = only(identities, kNow + 1h);
  CHECK(second.credential != first.credential);
  CHECK(second.problems.empty());

  PemPair third = leaf_for(kReviews, kNow + 2h);
  storage.rewrite(kPaths.chain, third.certificate);
  storage.rewrite(kPaths.key, third.key);
  CHECK(only(identities, kNow + 2h).credential->not_after() == kNow + 26h);
}

TEST_CASE("a half-written pair keeps the old credential until the other half comes") {
  FakeStorage storage = good_storage();
  FileIdentities identities(&storage, kDirectory);
  State first = only(identities, kNow);
  PemPair renewed = leaf_for(kReviews, kNow + 1h);

  storage.put(kPaths.chain, renewed.certificate);
  FileIdentities::View half = identities.refresh({kReviews}, kNow + 1h);
  State between = half.identities.at(kReviews);
  CHECK(between.credential == first.credential);
  REQUIRE(between.problems.size() == 1);
  CHECK(between.problems[0].code == "certificate-rejected");
  CHECK_THAT(between.problems[0].message, Contains("not the certificate's"));
  CHECK_THAT(between.problems[0].hint, Contains("serves until 2026-01-02T00:00:00Z"));
  CHECK(half.next == kNow + 1h + kRetry);

  storage.put(kPaths.key, renewed.key, 0600);
  State done = only(identities, kNow + 1h);
  CHECK(done.credential->not_after() == kNow + 25h);
  CHECK(done.problems.empty());
}

TEST_CASE("refused new files leave the old credential until it expires, not longer") {
  FakeStorage storage = good_storage();
  FileIdentities identities(&storage, kDirectory);
  State first = only(identities, kNow);
  for (int way = 0; way < 4; ++way) {
    FakeStorage broken = storage;
    if (way == 0) storage.chmod(kPaths.key, 0644);
    if (way == 1) storage.put(kPaths.chain, "");
    if (way == 2) REQUIRE(storage.remove(kPaths.key));
    if (way == 3) storage.put(kPaths.roots, "nothing");
    State kept = only(identities, kNow + 1h);
    CHECK(kept.credential == first.credential);
    REQUIRE(kept.problems.size() == 1);
    CHECK(kept.problems[0].code == "certificate-rejected");
    State gone = only(identities, kNow + 24h);
    CHECK_FALSE(gone.credential);
    REQUIRE(gone.problems.size() == 1);
    CHECK_THAT(gone.problems[0].hint, Contains("no identity until"));
    storage = broken;
    CHECK(only(identities, kNow).problems.empty());
  }
}

TEST_CASE("an expired certificate is dropped though its files have not changed") {
  FakeStorage storage = good_storage();
  FileIdentities identities(&storage, kDirectory);
  REQUIRE(only(identities, kNow).credential);
  State last = only(identities, kNow + 24h - 1s);
  CHECK(last.credential);
  State gone = only(identities, kNow + 24h);
  CHECK_FALSE(gone.credential);
  REQUIRE(gone.problems.size() == 1);
  CHECK_THAT(gone.problems[0].message, Contains("to 2026-01-02T00:00:00Z, not now"));
  CHECK(only(identities, kNow + 25h).problems == gone.problems);
}

TEST_CASE("the last third of the lifetime is announced from its first moment") {
  FakeStorage storage = good_storage();
  FileIdentities identities(&storage, kDirectory);
  // notBefore is a minute early.
  WallTime third = kNow + 24h - Duration(24h + 1min) / 3;
  CHECK(only(identities, third - 1ns).problems.empty());
  State late = only(identities, third);
  CHECK(late.credential);
  REQUIRE(late.problems.size() == 1);
  CHECK(late.problems[0].code == "certificate-expiring");
  CHECK_THAT(late.problems[0].message, Contains("expires at 2026-01-02T00:00:00Z"));
}

TEST_CASE("a certificate that becomes valid later is taken up without a change of its files") {
  FakeStorage storage;
  storage.put(kPaths.roots, root().certificate);
  put_pair(storage, kReviews, leaf_for(kReviews, kNow + 1h));
  FileIdentities identities(&storage, kDirectory);
  State early = only(identities, kNow);
  CHECK_FALSE(early.credential);
  CHECK_THAT(early.problems.at(0).message, Contains("not yet valid"));
  // The same words from look to look: others mean that something has changed.
  CHECK(only(identities, kNow + 1s).problems == early.problems);
  CHECK(only(identities, kNow + 1h).credential);
}

TEST_CASE(
    "the next look is at the poll, the retry, the last third or the end, whichever is first") {
  FakeStorage storage = good_storage();
  FileIdentities identities(&storage, kDirectory);
  CHECK(identities.refresh({kReviews}, kNow).next == kNow + kPoll);
  WallTime third = kNow + 24h - Duration(24h + 1min) / 3;
  CHECK(identities.refresh({kReviews}, third - 10s).next == third);
  CHECK(identities.refresh({kReviews}, kNow + 24h - 10s).next == kNow + 24h);
  CHECK(identities.refresh({kReviews, id_of("ratings")}, kNow).next == kNow + kRetry);
  CHECK(identities.refresh({}, kNow).next == kNow + kPoll);
}

TEST_CASE("one identity's trouble is not another's, and what is not wanted is forgotten") {
  FakeStorage storage = good_storage();
  FileIdentities identities(&storage, kDirectory);
  SpiffeId ratings = id_of("ratings");
  FileIdentities::View view = identities.refresh({kReviews, ratings}, kNow);
  CHECK(view.identities.size() == 2);
  CHECK(view.identities.at(kReviews).credential);
  CHECK(view.identities.at(kReviews).problems.empty());
  CHECK_FALSE(view.identities.at(ratings).credential);
  CHECK_THAT(view.identities.at(ratings).problems.at(0).message, Contains("ratings/tls.crt"));

  CHECK(identities.refresh({ratings}, kNow).identities.size() == 1);
  REQUIRE(storage.remove(kPaths.key));
  CHECK_FALSE(only(identities, kNow).credential);
}

TEST_CASE("a new root in ca.crt reaches every identity") {
  FakeStorage storage = good_storage();
  FileIdentities identities(&storage, kDirectory);
  State first = only(identities, kNow);
  PemPair next = tls::make_root("example.internal", kNow, 48h).value();
  storage.put(kPaths.roots, root().certificate + next.certificate);
  State second = only(identities, kNow);
  CHECK(second.credential != first.credential);
  CHECK(second.problems.empty());
}

}  // namespace
}  // namespace meshnode::identity
