#pragma once
/// The configuration in force: files go in, accepted resources and named rejections come out, with
/// last-good semantics (contract, "Own kinds"):
///  - text that is no YAML keeps the whole file's last good version in force;
///  - a document that is refused keeps the last good version of its (kind, namespace, name), and
///    the other documents of the file are applied;
///  - the same (kind, namespace, name) from two files: the first path wins, the second is
///    rejected, unless both say the same;
///  - a removed file takes its resources with it.
/// Pure: no files, no clock. Thread: one.

#include <meshnode/result.h>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>
#include "model/resources.h"
#include "model/yaml.h"

namespace meshnode::model {

using Resources = std::vector<std::shared_ptr<const Resource>>;

/// One reason why something in a file is not in force as written.
struct Rejection {
  Origin origin;  ///< line 0: the file as a whole
  std::string kind;
  std::string ns;
  std::string name;
  std::string message;
  std::string text() const;  ///< "file:line:column: message"
};

class ConfigSet {
 public:
  static constexpr std::size_t kMaxResources = 100'000;
  static constexpr std::size_t kMaxRejectionsPerFile = 100;

  /// The file's present content.
  void update(const std::string& path, std::string_view text);
  /// The file is there but could not be read, or is too large: its last good version stays.
  void update_failed(const std::string& path, const std::string& reason);
  void remove(const std::string& path);

  /// Sorted by kind, namespace, name. At most one Node. Valid until the next non-const call.
  const Resources& accepted();
  /// Sorted by file, then place. Valid until the next non-const call.
  const std::vector<Rejection>& rejected();

  /// Everything last good, as text for restore() after a restart.
  std::string save() const;
  /// Takes what save() gave, before the first update(): a file's saved version comes into force
  /// only once that file is seen by update() or update_failed(). Resources that no longer decode
  /// are left out. kInvalid, and nothing is taken, when the text is not of save()'s form.
  Status restore(std::string_view saved);
  /// For when the present files cannot be told: every saved version not taken yet comes into force
  /// as if its file had been seen. The files it did that for, sorted; none on a second call.
  std::vector<std::string> adopt_saved();
  /// Call once every present file was seen: saved versions of other files are forgotten.
  void end_restore() { saved_.clear(); }

 private:
  struct Good {
    std::shared_ptr<const Resource> resource;
    std::string text;  ///< the document, as in the file
  };
  using GoodByKey = std::map<ResourceKey, Good>;
  struct File {
    GoodByKey good;
    std::vector<Rejection> rejected;
  };

  File& file(const std::string& path);
  void reject(File& file, Rejection rejection);
  void resolve();
  void admit(const std::string& path, const ResourceKey& key, const Good& good,
             std::map<ResourceKey, std::shared_ptr<const Resource>>& in_force);

  std::map<std::string, File> files_;
  std::map<std::string, GoodByKey> saved_;
  bool dirty_ = false;
  Resources accepted_;
  std::vector<Rejection> rejected_;
};

/// Every mistake in a text, as `meshnode validate` prints them: file:line:column: reason. Mistakes
/// across files (duplicates, a second Node) are ConfigSet's.
std::vector<Rejection> validate(const std::string& path, std::string_view text);

}  // namespace meshnode::model
