#pragma once
/// Running code on a loop: from other threads, or after the current callback has returned.

#include <functional>
#include <memory>
#include <utility>

namespace meshnode {

/// An object handed to Executor::retire() dies with its concrete type's destructor.
struct Retirable {
  virtual ~Retirable() = default;
};

class Executor {
 public:
  virtual ~Executor() = default;
  /// Thread-safe, the only such call: runs `task` on the loop's thread, in order of posting.
  virtual void post(std::function<void()> task) = 0;
  /// Loop thread only: runs `task` after the events at hand, before the loop waits for more. The
  /// way to do once what many events ask for.
  virtual void defer(std::function<void()> task) { post(std::move(task)); }
  /// Loop thread only: destroys `object` once no callback is on the stack. The way for an object
  /// to end itself from within one of its own event handlers.
  virtual void retire(std::unique_ptr<Retirable> object) = 0;
};

}  // namespace meshnode
