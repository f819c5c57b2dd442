#include "base/log_writer.h"

#include <chrono>
#include <string>

#include "base/log.h"

namespace meshnode::log {
namespace {

std::string dropped_line(std::uint64_t lost) {
  std::string line;
  const Field fields[] = {{"lines", lost}};
  append_line(line, Format::kText, std::chrono::system_clock::now(), Level::kWarn, "log",
              "lines were dropped: stderr is slow", fields);
  return line;
}

}  // namespace

LogWriter::LogWriter(int descriptor) : writer_(descriptor, dropped_line) {
  set_sink([this](std::string_view text) { writer_.line(text); });
}

LogWriter::~LogWriter() { set_sink({}); }

}  // namespace meshnode::log
