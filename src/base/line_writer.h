#pragma once
/// Lines to a descriptor without ever making the caller wait for it: a bounded buffer and a thread
/// of its own. When whoever reads the other end (journald, a pipe) is slow, lines beyond the bound
/// are dropped and counted, and a line says so once there is room again. Thread: line() and
/// dropped() from any; construct and destroy from one.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

namespace meshnode {

class LineWriter {
 public:
  static constexpr std::size_t kDefaultBytes = 1024 * 1024;

  /// `descriptor` is borrowed and outlives this. `dropped_line` makes the line that tells of
  /// dropped ones, without line feed; it is called on the writer's thread.
  LineWriter(int descriptor, std::function<std::string(std::uint64_t)> dropped_line,
             std::size_t max_bytes = kDefaultBytes);
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;
  /// Waits about a second at most for what is buffered to be written.
  ~LineWriter();

  /// `line` without its line feed. Never blocks on the descriptor.
  void line(std::string_view line);
  /// Lines dropped since construction.
  std::uint64_t dropped() const;

 private:
  void run();
  bool write_out(std::string_view text);
  bool write_some(std::string_view& text);

  const int descriptor_;
  const bool socket_;
  /// A pipe's writing end opened anew, so that it does not block though `descriptor_` does, which
  /// others share; -1 where that is not possible.
  const int own_;
  const std::function<std::string(std::uint64_t)> dropped_line_;
  const std::size_t max_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::string buffer_;
  std::uint64_t dropped_ = 0;
  std::uint64_t told_ = 0;
  bool stopping_ = false;
  std::optional<std::chrono::steady_clock::time_point> deadline_;  ///< of the last words
  std::thread thread_;
};

}  // namespace meshnode
