#pragma once
/// Identities from files that somebody else issues and renews (Node spec.identity.source: files):
///   DIRECTORY/ca.crt                             trusted roots
///   DIRECTORY/<namespace>/<service account>/tls.crt  chain, leaf first
///   DIRECTORY/<namespace>/<service account>/tls.key  private key, PKCS#8 or SEC1
///
/// Reads through the Storage seam, so it blocks: never on a proxy loop. Thread: one.

#include <meshnode/ids.h>
#include <meshnode/result.h>
#include <meshnode/storage.h>
#include <meshnode/time.h>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>
#include "tls/credential.h"

namespace meshnode::identity {

/// A larger file is refused unread.
inline constexpr std::uint64_t kMaxFile = 1024 * 1024;
/// Files are looked at again after this long at the latest, in case no change was announced (a
/// network file system), and after this long while one of them is refused.
inline constexpr Duration kPoll = std::chrono::seconds(60);
inline constexpr Duration kRetry = std::chrono::seconds(5);
/// `certificate-expiring` once less than this part of a certificate's lifetime remains. Renewal at
/// half the lifetime is customary, so it has failed for a while by then.
inline constexpr int kExpiringPart = 3;

struct Paths {
  std::string roots;
  std::string chain;
  std::string key;
};
Paths paths_of(const std::string& directory, const SpiffeId& identity);

/// What tells a file's versions apart without reading it; equal means unchanged.
struct FileStamp {
  std::uint64_t size = 0;
  std::uint32_t mode = 0;
  WallTime modified{};
  std::uint64_t inode = 0;
  bool operator==(const FileStamp&) const = default;
};
/// Of the roots, the chain and the key.
using Fingerprint = std::array<FileStamp, 3>;

struct Loaded {
  std::shared_ptr<const tls::Credential> credential;
  Fingerprint inputs;
};

/// Reads and checks one identity's files. Refuses, naming the file, the reason and the next step: a
/// missing file, one that is not regular or over kMaxFile, a key that group or others may
/// read, whatever Credential::from_pem() refuses, and a certificate of another identity.
Result<Loaded> load(const Storage& storage, const std::string& directory, const SpiffeId& wanted,
                    WallTime now);

/// Equal from look to look while nothing changes: no message has the time of the look in it.
struct Problem {
  std::string_view code;  ///< certificate-rejected or certificate-expiring
  std::string message;
  std::string hint;
  bool operator==(const Problem&) const = default;
};

/// One identity as of the last refresh.
struct State {
  std::shared_ptr<const tls::Credential> credential;  ///< null: none is usable
  std::vector<Problem> problems;
};

/// Keeps the credentials of the wanted identities up to date. New files that are refused, be it
/// because only half of a pair has been written yet, leave the old credential in force for as long
/// as it is valid.
class FileIdentities {
 public:
  /// `storage` outlives this.
  FileIdentities(const Storage* storage, std::string directory)
      : storage_(storage), directory_(std::move(directory)) {}

  struct View {
    std::map<SpiffeId, State> identities;  ///< exactly the wanted ones
    WallTime next{};                       ///< when to refresh again if nothing is announced
  };
  /// Reads only what has changed since the last call. Forgets identities no longer wanted.
  View refresh(const std::set<SpiffeId>& wanted, WallTime now);

 private:
  struct Kept {
    std::optional<Loaded> good;
    std::optional<Error> refusal;  ///< of the files as they are now
  };

  State update(const SpiffeId& identity, Kept& kept, WallTime now);

  const Storage* storage_;
  std::string directory_;
  std::map<SpiffeId, Kept> kept_;
};

}  // namespace meshnode::identity
