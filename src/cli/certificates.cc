#include "cli/certificates.h"

#include <meshnode/ids.h>
#include <optional>

#include "tls/authority.h"
#include "tls/credential.h"

namespace meshnode::cli {
namespace {

constexpr std::uint32_t kPublic = 0644;
constexpr std::uint32_t kSecret = 0600;
constexpr std::uint32_t kDirectory = 0700;
constexpr std::uint64_t kMaxPem = std::uint64_t{1} << 20;

bool absent(const Storage& storage, const std::string& path) {
  const auto info = storage.info(path);
  return !info && info.error().code == ErrorCode::kNotFound;
}

/// Reads both halves of the root; nothing in the error says what is in them.
Result<tls::PemPair> read_root(const Storage& storage, const std::string& directory) {
  auto certificate = storage.read(directory + "/ca.crt", kMaxPem);
  if (!certificate) return fail(certificate.error());
  auto key = storage.read(directory + "/ca.key", kMaxPem);
  if (!key) return fail(key.error());
  return tls::PemPair{std::move(*certificate), std::move(*key)};
}

/// Writes `root` to `path` unless it is in there. A file with other roots only is left alone:
/// replacing it would cut off everything they vouch for.
std::optional<Outcome> install_root(Storage& storage, const std::string& path,
                                    const std::string& root) {
  if (!absent(storage, path)) {
    const auto held = storage.read(path, kMaxPem);
    if (!held) return complaint("ca issue", held.error(), "check the file");
    if (held->find(root) != std::string::npos) return std::nullopt;
    return complaint("ca issue", {ErrorCode::kInvalid, path + ": holds another root"},
                     "append this root's ca.crt to it to trust both, or remove it");
  }
  if (auto ok = storage.write_atomic(path, root, kPublic); !ok) {
    return complaint("ca issue", ok.error(), "name an --out that you may write to");
  }
  return std::nullopt;
}

Outcome install(const Invocation& asked, Storage& storage, const tls::PemPair& root,
                const tls::PemPair& leaf) {
  const std::string directory = asked.out + "/" + asked.ns + "/" + asked.service_account;
  const std::string trusted = asked.out + "/ca.crt";
  const std::string key = directory + "/tls.key";
  const std::string certificate = directory + "/tls.crt";
  const char* const step = "name an --out that you may write to";
  if (auto ok = storage.make_directory(directory, kDirectory); !ok) {
    return complaint("ca issue", ok.error(), step);
  }
  if (auto refused = install_root(storage, trusted, root.certificate)) return *refused;
  if (auto ok = storage.write_atomic(key, leaf.key, kSecret); !ok) {
    return complaint("ca issue", ok.error(), step);
  }
  if (auto ok = storage.write_atomic(certificate, leaf.certificate, kPublic); !ok) {
    return complaint("ca issue", ok.error(), step);
  }
  return {kDone, trusted + "\n" + certificate + "\n" + key + "\n", ""};
}

}  // namespace

Outcome ca_init(const Invocation& asked, Storage& storage, WallTime now) {
  const std::string certificate = asked.ca_dir + "/ca.crt";
  const std::string key = asked.ca_dir + "/ca.key";
  for (const auto& path : {certificate, key}) {
    if (absent(storage, path)) continue;
    return complaint("ca init", {ErrorCode::kInvalid, path + ": there is something already"},
                     "name an empty directory; a root is never overwritten");
  }
  if (!is_dns_name(asked.trust_domain)) {
    return complaint("ca init", {ErrorCode::kInvalid, "--trust-domain: not a lower-case DNS name"},
                     "name one such as example.internal");
  }
  const auto root = tls::make_root(asked.trust_domain, now, asked.lifetime);
  if (!root) return complaint("ca init", root.error(), "see `meshnode ca init --help`");
  if (auto ok = storage.make_directory(asked.ca_dir, kDirectory); !ok) {
    return complaint("ca init", ok.error(), "name a directory that you may write to");
  }
  // The key first: a certificate whose key was never stored would be worthless.
  if (auto ok = storage.write_atomic(key, root->key, kSecret); !ok) {
    return complaint("ca init", ok.error(), "name a directory that you may write to");
  }
  if (auto ok = storage.write_atomic(certificate, root->certificate, kPublic); !ok) {
    return complaint("ca init", ok.error(), "remove ca.key and start again");
  }
  return {kDone,
          "root of " + asked.trust_domain + ", good until " + rfc3339(now + asked.lifetime) + "\n" +
              certificate + "\n" + key + "  (keep it secret)\n",
          ""};
}

Outcome ca_issue(const Invocation& asked, Storage& storage, WallTime now) {
  const auto root = read_root(storage, asked.ca_dir);
  if (!root) {
    return complaint("ca issue", root.error(), "make a root with `meshnode ca init` first");
  }
  const auto trust_domain = tls::root_trust_domain(root->certificate);
  if (!trust_domain) {
    return complaint("ca issue", trust_domain.error(), "name a directory of `meshnode ca init`");
  }
  const auto id = SpiffeId::make(*trust_domain, asked.ns, asked.service_account);
  if (!id) {
    return complaint("ca issue", id.error(), "namespace and service account are DNS labels");
  }
  const auto leaf = tls::issue_leaf(*root, *id, now, asked.lifetime);
  if (!leaf) return complaint("ca issue", leaf.error(), "see `meshnode ca issue --help`");

  const auto credential =
      tls::Credential::from_pem(leaf->certificate, leaf->key, root->certificate, now);
  if (!credential) {
    return complaint("ca issue", credential.error(), "make a new root with `meshnode ca init`");
  }
  auto outcome = install(asked, storage, *root, *leaf);
  if (outcome.exit_code == kDone) {
    outcome.out =
        id->uri() + ", good until " + rfc3339((*credential)->not_after()) + "\n" + outcome.out;
  }
  return outcome;
}

}  // namespace meshnode::cli
