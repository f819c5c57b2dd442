#pragma once
/// Snapshots that are no longer in force, kept until no proxy loop holds them: the last to let go
/// would free ten thousand endpoints between two packets, which takes milliseconds. Thread: the
/// control loop's.

#include <memory>
#include <vector>

#include "snapshot/snapshot.h"

namespace meshnode::agent {

class Superseded {
 public:
  void keep(std::shared_ptr<const snapshot::Snapshot> snapshot) {
    if (snapshot) {
      kept_.push_back(std::move(snapshot));
    }
  }
  /// Frees what nobody else holds. Nobody can take it up again: those in force are not here.
  void release() {
    std::erase_if(kept_, [](const auto& each) { return each.use_count() == 1; });
  }

 private:
  std::vector<std::shared_ptr<const snapshot::Snapshot>> kept_;
};

}  // namespace meshnode::agent
