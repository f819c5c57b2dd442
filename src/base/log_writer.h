#pragma once
/// The process's log through a LineWriter for as long as this lives: whoever logs never waits for
/// a slow reader of stderr. Before and after it the log goes to stderr directly. One a process.
/// Thread: line() and dropped() from any; construct and destroy from one.

#include <unistd.h>
#include <cstdint>
#include <string_view>

#include "base/line_writer.h"

namespace meshnode::log {

class LogWriter {
 public:
  /// `descriptor` is borrowed and outlives this.
  explicit LogWriter(int descriptor = STDERR_FILENO);
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;
  /// Waits about a second at most for the last lines to be written.
  ~LogWriter();

  /// A line that is no log line, whole among those that are.
  void line(std::string_view text) { writer_.line(text); }
  /// Lines dropped since construction, of both kinds.
  std::uint64_t dropped() const { return writer_.dropped(); }

 private:
  LineWriter writer_;
};

}  // namespace meshnode::log
