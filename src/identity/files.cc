#include "identity/files.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

namespace meshnode::identity {
namespace {

constexpr std::string_view kRejected = "certificate-rejected";
constexpr std::string_view kExpiring = "certificate-expiring";
constexpr std::uint32_t kOthers = S_IRWXG | S_IRWXO;

constexpr std::string_view kMissingHint =
    "; put it there, for example with meshnode ca issue, or correct spec.identity.directory";

Result<FileStamp> stamp(const Storage& storage, const std::string& path) {
  Result<FileInfo> info = storage.info(path);
  if (!info) {
    if (info.error().code != ErrorCode::kNotFound) return fail(info.error());
    return fail(ErrorCode::kNotFound, fmt::format("{}: no such file{}", path, kMissingHint));
  }
  if (!S_ISREG(info->mode)) {
    return fail(ErrorCode::kInvalid,
                fmt::format("{}: not a regular file; replace it with one", path));
  }
  if (info->size > kMaxFile) {
    return fail(
        ErrorCode::kLimit,
        fmt::format("{}: larger than {} bytes; it should hold only certificates", path, kMaxFile));
  }
  return FileStamp{info->size, info->mode, info->modified, info->inode};
}

Result<Fingerprint> fingerprint(const Storage& storage, const Paths& paths) {
  Fingerprint out;
  const std::array<const std::string*, 3> all = {&paths.roots, &paths.chain, &paths.key};
  for (std::size_t i = 0; i < all.size(); ++i) {
    Result<FileStamp> one = stamp(storage, *all[i]);
    if (!one) return fail(one.error());
    out[i] = *one;
  }
  if (out[2].mode & kOthers) {
    return fail(ErrorCode::kPermission,
                fmt::format("{}: mode {:04o} lets others than its owner at the key; run chmod 600 "
                            "on it and consider the key known",
                            paths.key, out[2].mode & 07777u));
  }
  return out;
}

WallTime expiring_from(const tls::Credential& credential) {
  Duration lifetime = credential.not_after() - credential.not_before();
  return credential.not_after() - lifetime / kExpiringPart;
}

bool valid(const tls::Credential& credential, WallTime now) {
  return now >= credential.not_before() && now < credential.not_after();
}

}  // namespace

Paths paths_of(const std::string& directory, const SpiffeId& identity) {
  std::string own = fmt::format("{}/{}/{}", directory, identity.ns(), identity.service_account());
  return {directory + "/ca.crt", own + "/tls.crt", own + "/tls.key"};
}

Result<Loaded> load(const Storage& storage, const std::string& directory, const SpiffeId& wanted,
                    WallTime now) {
  Paths paths = paths_of(directory, wanted);
  // Taken before the files are read: what changes meanwhile is seen as changed next time.
  Result<Fingerprint> inputs = fingerprint(storage, paths);
  if (!inputs) return fail(inputs.error());
  Result<std::string> roots = storage.read(paths.roots, kMaxFile);
  if (!roots) return fail(roots.error());
  Result<std::string> chain = storage.read(paths.chain, kMaxFile);
  if (!chain) return fail(chain.error());
  Result<std::string> key = storage.read(paths.key, kMaxFile);
  if (!key) return fail(key.error());

  auto credential = tls::Credential::from_pem(*chain, *key, *roots, now);
  explicit_bzero(key->data(), key->size());
  if (!credential) {
    return fail(credential.error().code, fmt::format("{} with tls.key and {}: {}", paths.chain,
                                                     paths.roots, credential.error().message));
  }
  const SpiffeId& found = (*credential)->identity();
  if (found.trust_domain() != wanted.trust_domain()) {
    return fail(
        ErrorCode::kInvalid,
        fmt::format("{}: its trust domain is {}, this node's is {}; issue it for {} or "
                    "correct spec.trustDomain",
                    paths.chain, found.trust_domain(), wanted.trust_domain(), wanted.uri()));
  }
  if (found != wanted) {
    return fail(ErrorCode::kInvalid, fmt::format("{}: it is for {}; issue one for {}", paths.chain,
                                                 found.uri(), wanted.uri()));
  }
  return Loaded{std::move(*credential), *inputs};
}

State FileIdentities::update(const SpiffeId& identity, Kept& kept, WallTime now) {
  Result<Fingerprint> current = fingerprint(*storage_, paths_of(directory_, identity));
  bool unchanged = current && kept.good && kept.good->inputs == *current;
  kept.refusal.reset();
  if (!unchanged) {
    Result<Loaded> loaded = load(*storage_, directory_, identity, now);
    if (loaded) {
      kept.good = std::move(*loaded);
    } else {
      kept.refusal = loaded.error();
    }
  }

  State state;
  if (kept.good && valid(*kept.good->credential, now)) state.credential = kept.good->credential;
  if (kept.refusal) {
    state.problems.push_back({kRejected, kept.refusal->message,
                              state.credential
                                  ? fmt::format("the previous certificate serves until {}",
                                                rfc3339(state.credential->not_after()))
                                  : "the workload has no identity until this is put right"});
  } else if (!state.credential) {
    const tls::Credential& last = *kept.good->credential;
    state.problems.push_back(
        {kRejected,
         fmt::format("{}: valid from {} to {}, not now", paths_of(directory_, identity).chain,
                     rfc3339(last.not_before()), rfc3339(last.not_after())),
         "renew tls.crt and tls.key; compare the clocks if they should be valid"});
  }
  if (state.credential && now >= expiring_from(*state.credential)) {
    state.problems.push_back(
        {kExpiring,
         fmt::format("{} expires at {}", identity.uri(), rfc3339(state.credential->not_after())),
         fmt::format("renew {}", paths_of(directory_, identity).chain)});
  }
  return state;
}

FileIdentities::View FileIdentities::refresh(const std::set<SpiffeId>& wanted, WallTime now) {
  std::erase_if(kept_, [&](const auto& entry) { return !wanted.contains(entry.first); });
  View view;
  view.next = now + kPoll;
  for (const SpiffeId& identity : wanted) {
    Kept& kept = kept_[identity];
    State state = update(identity, kept, now);
    if (kept.refusal) view.next = std::min(view.next, now + kRetry);
    if (state.credential) {
      for (WallTime at : {expiring_from(*state.credential), state.credential->not_after()}) {
        if (at > now) view.next = std::min(view.next, at);
      }
    }
    view.identities.emplace(identity, std::move(state));
  }
  return view;
}

}  // namespace meshnode::identity
