#pragma once
/// The access log: one line a connection with ztunnel's fields, names and order
/// (reference: ztunnel's access log). Thread: pure functions; a sink says for itself.

#include <meshnode/time.h>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/log.h"
#include "telemetry/connection.h"

namespace meshnode::telemetry {

enum class AccessFormat : std::uint8_t { kOff, kText, kJson };

/// Where access lines go. Called from every proxy loop: thread-safe, and never blocks.
class AccessSink {
 public:
  virtual ~AccessSink() = default;
  /// `line` has no line feed and is borrowed.
  virtual void line(std::string_view line) = 0;
  /// Lines lost so far.
  virtual std::uint64_t dropped() const = 0;
};

/// What one line says.
struct AccessEntry {
  WallTime at{};
  std::string_view message;  ///< "connection complete" or "connection failed"
  log::Level level = log::Level::kInfo;
  const Labels* labels = nullptr;
  const Addresses* addresses = nullptr;
  std::uint64_t to_callee = 0;  ///< bytes
  std::uint64_t to_caller = 0;
  Duration duration{};
  std::string_view error;  ///< empty: none
};

/// Appends the line without its line feed; nothing when `format` is kOff. bytes_sent is what the
/// reporter's own end sent: the caller's bytes at the source, the callee's at the destination.
void append_access_line(std::string& out, AccessFormat format, const AccessEntry& entry);

}  // namespace meshnode::telemetry
