#include "io/watch.h"

#include <dirent.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <map>
#include <string>
#include <utility>

#include "io/handle.h"
#include "io/loop.h"

namespace meshnode::io {

struct FdWatch::Impl {
  std::function<void()> callback;
  HandlePtr<uv_poll_t> handle;
};

FdWatch::FdWatch(Loop& loop, int fd, std::function<void()> on_readable)
    : impl_(std::make_unique<Impl>()) {
  impl_->callback = std::move(on_readable);
  impl_->handle =
      make_handle<uv_poll_t>([&](uv_poll_t* h) { uv_poll_init(loop.raw(), h, fd); }, impl_.get());
  uv_poll_start(impl_->handle.get(), UV_READABLE | UV_DISCONNECT, [](uv_poll_t* raw, int, int) {
    if (auto* impl = static_cast<Impl*>(raw->data)) {
      const auto callback = impl->callback;  // the watch may end within
      callback();
    }
  });
}

FdWatch::~FdWatch() { uv_poll_stop(impl_->handle.get()); }

struct SignalWatch::Impl {
  std::function<void()> callback;
  HandlePtr<uv_signal_t> handle;
};

SignalWatch::SignalWatch(Loop& loop, int signum, std::function<void()> on_signal)
    : impl_(std::make_unique<Impl>()) {
  impl_->callback = std::move(on_signal);
  impl_->handle =
      make_handle<uv_signal_t>([&](uv_signal_t* h) { uv_signal_init(loop.raw(), h); }, impl_.get());
  uv_signal_start(
      impl_->handle.get(),
      [](uv_signal_t* raw, int) {
        if (auto* impl = static_cast<Impl*>(raw->data)) {
          const auto callback = impl->callback;
          callback();
        }
      },
      signum);
}

SignalWatch::~SignalWatch() = default;

namespace {
constexpr std::size_t kMaxDirectories = 10'000;
constexpr std::uint32_t kEvents =
    IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ATTRIB | IN_ONLYDIR;
// A burst of events (an editor's save, a package upgrade) is one change.
constexpr Duration kSettle = std::chrono::milliseconds(100);
}  // namespace

struct TreeWatch::Impl {
  Impl(Loop& loop, std::string root, std::function<void()> on_change)
      : directory(std::move(root)),
        fd(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)),
        settle(loop.timer(std::move(on_change))) {
    if (fd >= 0) {
      add(directory);
      watch = std::make_unique<FdWatch>(loop, fd, [this] { drain(); });
    }
  }
  ~Impl() {
    watch.reset();
    if (fd >= 0) {
      close(fd);
    }
  }

  void add(const std::string& path) {
    if (by_descriptor.size() >= kMaxDirectories) {
      return;
    }
    const int descriptor = inotify_add_watch(fd, path.c_str(), kEvents);
    if (descriptor < 0) {
      return;
    }
    by_descriptor[descriptor] = path;
    DIR* dir = opendir(path.c_str());
    if (dir == nullptr) {
      return;
    }
    while (const dirent* entry = readdir(dir)) {
      std::string below = entry->d_name;
      if (entry->d_type == DT_DIR && !below.starts_with('.')) {
        add(below.insert(0, "/").insert(0, path));
      }
    }
    closedir(dir);
  }

  void drain() {
    alignas(inotify_event) std::array<char, 16 * 1024> buffer;
    ssize_t size = 0;
    while ((size = read(fd, buffer.data(), buffer.size())) > 0) {
      for (std::size_t at = 0; at < static_cast<std::size_t>(size);) {
        const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
        handle(*event);
        at += sizeof(inotify_event) + event->len;
      }
    }
    settle->start(kSettle);
  }

  void handle(const inotify_event& event) {
    const auto found = by_descriptor.find(event.wd);
    if (found == by_descriptor.end()) {
      return;
    }
    if ((event.mask & IN_IGNORED) != 0) {
      by_descriptor.erase(found);
    } else if ((event.mask & IN_ISDIR) != 0 && (event.mask & (IN_CREATE | IN_MOVED_TO)) != 0) {
      add(found->second + "/" + event.name);
    }
  }

  std::string directory;
  int fd;
  std::map<int, std::string> by_descriptor;
  std::unique_ptr<Timer> settle;
  std::unique_ptr<FdWatch> watch;
};

TreeWatch::TreeWatch(Loop& loop, std::string directory, std::function<void()> on_change)
    : impl_(std::make_unique<Impl>(loop, std::move(directory), std::move(on_change))) {}

TreeWatch::~TreeWatch() = default;

}  // namespace meshnode::io
