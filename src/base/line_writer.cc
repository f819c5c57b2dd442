#include "base/line_writer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace meshnode {
namespace {

// A pipe with room for this much takes it whole without blocking (pipe(7)), whoever else writes.
constexpr std::size_t kAtomicWrite = 4096;
constexpr auto kLastWords = std::chrono::seconds(1);
// How often a blocked thread looks whether it is to stop.
constexpr auto kLookUp = std::chrono::milliseconds(100);

mode_t type_of(int descriptor) {
  struct stat facts {};
  return fstat(descriptor, &facts) == 0 ? facts.st_mode & S_IFMT : 0;
}

// Between a poll that finds room and the write, another process may fill a shared pipe, and the
// write would wait for ever.
int open_anew(int descriptor) {
  if (type_of(descriptor) != S_IFIFO) return -1;
  const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  return open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
}

}  // namespace

LineWriter::LineWriter(int descriptor, std::function<std::string(std::uint64_t)> dropped_line,
                       std::size_t max_bytes)
    : descriptor_(descriptor),
      socket_(type_of(descriptor) == S_IFSOCK),
      own_(open_anew(descriptor)),
      dropped_line_(std::move(dropped_line)),
      max_bytes_(max_bytes),
      thread_([this] { run(); }) {}

LineWriter::~LineWriter() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  if (own_ >= 0) close(own_);
}

void LineWriter::line(std::string_view line) {
  {
    std::lock_guard lock(mutex_);
    if (buffer_.size() + line.size() + 1 > max_bytes_) {
      ++dropped_;
      return;
    }
    bool was_empty = buffer_.empty();
    buffer_ += line;
    buffer_ += '\n';
    if (!was_empty) return;
  }
  wake_.notify_one();
}

std::uint64_t LineWriter::dropped() const {
  std::lock_guard lock(mutex_);
  return dropped_;
}

void LineWriter::run() {
  // Signals are for the threads that wait for them, and a closed pipe is an error, not a SIGPIPE.
  sigset_t every;
  sigfillset(&every);
  pthread_sigmask(SIG_BLOCK, &every, nullptr);
  std::string batch;
  for (;;) {
    std::uint64_t newly_dropped = 0;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !buffer_.empty(); });
      if (buffer_.empty()) return;
      batch.clear();
      std::swap(batch, buffer_);
      newly_dropped = dropped_ - told_;
      told_ = dropped_;
    }
    if (!write_out(batch)) return;
    if (newly_dropped > 0 && !write_out(dropped_line_(newly_dropped) + "\n")) return;
    // A burst must not pin its buffer for good.
    if (batch.capacity() > kAtomicWrite * 16) std::string().swap(batch);
  }
}

// Whole lines at a time, so that other writers of the same pipe cannot come between. False when
// the descriptor is unusable or the last second has passed.
bool LineWriter::write_out(std::string_view text) {
  while (!text.empty()) {
    std::size_t size = std::min(text.size(), kAtomicWrite);
    std::size_t end = text.rfind('\n', size - 1);
    std::string_view piece = text.substr(0, end == text.npos ? size : end + 1);
    text.remove_prefix(piece.size());
    while (!piece.empty()) {
      if (!write_some(piece)) return false;
    }
  }
  return true;
}

bool LineWriter::write_some(std::string_view& text) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) {
      auto now = std::chrono::steady_clock::now();
      if (!deadline_) deadline_ = now + kLastWords;
      if (now >= *deadline_) return false;
    }
  }
  const int to = own_ >= 0 ? own_ : descriptor_;
  pollfd wanted{to, POLLOUT, 0};
  int ready = poll(&wanted, 1, static_cast<int>(kLookUp.count()));
  if (ready < 0) return errno == EINTR;
  if (ready == 0) return true;
  const ssize_t count = socket_ ? send(to, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                                : write(to, text.data(), text.size());
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  text.remove_prefix(static_cast<std::size_t>(count));
  return true;
}

}  // namespace meshnode
