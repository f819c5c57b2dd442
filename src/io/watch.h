#pragma once
/// Descriptors and signals as loop events. Destroying a watch ends it; the callback may do so.

#include <functional>
#include <memory>
#include <string>

namespace meshnode::io {

class Loop;

/// Calls back while `fd` is readable (level-triggered; hang-up and error count as readable). Does
/// not own the descriptor, which must stay open as long as the watch.
class FdWatch {
 public:
  FdWatch(Loop& loop, int fd, std::function<void()> on_readable);
  ~FdWatch();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class SignalWatch {
 public:
  SignalWatch(Loop& loop, int signum, std::function<void()> on_signal);
  ~SignalWatch();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// inotify over a directory tree: calls back, once per burst, when a file below `directory` was
/// closed after writing, moved, created or deleted. New subdirectories are followed. At most
/// 10,000 directories; more, or a missing directory, is not an error: poll as well.
class TreeWatch {
 public:
  TreeWatch(Loop& loop, std::string directory, std::function<void()> on_change);
  ~TreeWatch();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace meshnode::io
