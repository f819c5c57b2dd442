#include "base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>
#include <vector>

#include "base/line_writer.h"
#include "base/log_writer.h"

namespace meshnode {
namespace {

// The log is process-wide: every test puts it back.
struct Captured {
  std::vector<std::string> lines;
  Captured() {
    log::set_sink([this](std::string_view line) { lines.emplace_back(line); });
  }
  ~Captured() {
    log::set_sink({});
    log::set_format(log::Format::kText);
    (void)log::set_level("info");
  }
  // The last line without its time.
  std::string last() const { return lines.empty() ? "" : lines.back().substr(24); }
};

TEST_CASE("a log line is time, level, scope, message and fields") {
  Captured captured;
  log::info("capture", "rules applied", {{"family", "4"}, {"rules", 12}, {"ok", true}, {"n", -3}});
  CHECK(captured.last() == "\tinfo\tcapture\trules applied family=\"4\" rules=12 ok=true n=-3");
  CHECK(captured.lines[0][10] == 'T');
  CHECK(captured.lines[0][23] == 'Z');
  std::string owned = "value";
  log::error("a", "m", {{"text", owned}, {"big", ~std::uint64_t{0}}});
  CHECK(captured.last() == "\terror\ta\tm text=\"value\" big=18446744073709551615");
}

TEST_CASE("no value can forge a log line or a field") {
  Captured captured;
  log::warn("a", "m\n2026-01-01T00:00:00.000Z\tinfo", {{"v", "x\" y=\"1\n\x1b[2J"}});
  REQUIRE(captured.lines.size() == 1);
  CHECK(captured.lines[0].find('\n') == std::string::npos);
  CHECK(captured.last() ==
        "\twarn\ta\tm\\n2026-01-01T00:00:00.000Z\\tinfo v=\"x\\\" y=\\\"1\\n\\x1b[2J\"");
}

TEST_CASE("JSON lines are one object") {
  Captured captured;
  log::set_format(log::Format::kJson);
  log::info("a", "m", {{"k", "v\"\n"}, {"n", 1}, {"addr", log::Value::bare("1.2.3.4:5")}});
  CHECK(captured.lines.back().starts_with("{\"time\":\"20"));
  CHECK(captured.lines.back().substr(32) ==
        "Z\",\"level\":\"info\",\"scope\":\"a\",\"message\":\"m\",\"k\":\"v\\\"\\n\","
        "\"n\":1,\"addr\":\"1.2.3.4:5\"}");
}

TEST_CASE("levels are set for all scopes or for one") {
  Captured captured;
  log::debug("proxy", "hidden");
  CHECK(captured.lines.empty());
  REQUIRE(log::set_level("proxy:debug"));
  log::debug("proxy", "seen");
  log::debug("tls", "hidden");
  CHECK(captured.lines.size() == 1);
  CHECK(log::enabled(log::Level::kDebug, "proxy"));
  CHECK_FALSE(log::enabled(log::Level::kDebug, "tls"));
  REQUIRE(log::set_level("error"));
  log::warn("proxy", "hidden: a setting for all ends those of scopes");
  CHECK(captured.lines.size() == 1);
  for (const char* bad : {"", "loud", "proxy:", ":debug", "Proxy:debug", "a b:debug", "INFO",
                          "proxy:loud", "a:b:info", "a123456789a123456789a123456789abc:info"}) {
    CAPTURE(bad);
    auto refused = log::set_level(bad);
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code == ErrorCode::kInvalid);
  }
}

TEST_CASE("at most 64 scopes have a level of their own") {
  Captured captured;
  for (int i = 0; i < 64; ++i) REQUIRE(log::set_level("s" + std::to_string(i) + ":debug"));
  auto refused = log::set_level("s64:debug");
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::kLimit);
  CHECK(log::set_level("s0:trace").has_value());
}

TEST_CASE("threads may log at once") {
  Captured captured;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 500; ++i) log::info("a", "m", {{"i", i}});
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(captured.lines.size() == 2000);
}

struct Pipe {
  int ends[2] = {-1, -1};
  Pipe() { REQUIRE(pipe2(ends, O_CLOEXEC) == 0); }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  void close_end(int which) {
    if (ends[which] >= 0) close(ends[which]);
    ends[which] = -1;
  }
  std::string read_all() {
    close_end(1);
    std::string all;
    char buffer[65536];
    for (ssize_t count = 1; count > 0;) {
      count = read(ends[0], buffer, sizeof buffer);
      if (count > 0) all.append(buffer, static_cast<std::size_t>(count));
    }
    return all;
  }
};

std::string told(std::uint64_t count) { return "dropped " + std::to_string(count); }

TEST_CASE("a line writer writes what it was given, in order, before it ends") {
  Pipe pipe;
  std::string expected;
  {
    LineWriter writer(pipe.ends[1], told);
    for (int i = 0; i < 1000; ++i) {
      writer.line("line " + std::to_string(i));
      expected += "line " + std::to_string(i) + "\n";
    }
  }
  CHECK(pipe.read_all() == expected);
}

TEST_CASE("a blocked reader costs lines, never time, and is told how many") {
  Pipe pipe;
  int small = fcntl(pipe.ends[1], F_SETPIPE_SZ, 4096);
  REQUIRE(small > 0);
  LineWriter writer(pipe.ends[1], told, 10'000);
  std::string line(99, 'x');
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 10'000; ++i) writer.line(line);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(1));
  std::uint64_t dropped = writer.dropped();
  CHECK(dropped > 9'000);
  std::string all;
  char buffer[4096];
  while (all.find("dropped ") == std::string::npos || all.back() != '\n') {
    ssize_t count = read(pipe.ends[0], buffer, sizeof buffer);
    REQUIRE(count > 0);
    all.append(buffer, static_cast<std::size_t>(count));
  }
  std::uint64_t lines = 0;
  std::uint64_t reported = 0;
  for (std::size_t at = 0; at < all.size();) {
    std::size_t end = all.find('\n', at);
    std::string one = all.substr(at, end - at);
    at = end + 1;
    if (one.starts_with("dropped ")) {
      reported += std::stoull(one.substr(8));
    } else {
      CHECK(one == line);
      ++lines;
    }
  }
  CHECK(reported + lines <= 10'000);
  CHECK(lines >= 100);
}

TEST_CASE("a line writer whose reader is stuck ends within its last second") {
  Pipe pipe;
  auto start = std::chrono::steady_clock::now();
  {
    LineWriter writer(pipe.ends[1], told);
    for (int i = 0; i < 2'000; ++i) writer.line(std::string(499, 'x'));
  }
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(3));
}

TEST_CASE("a line writer whose reader is gone neither dies nor blocks") {
  Pipe pipe;
  LineWriter writer(pipe.ends[1], told, 1000);
  pipe.close_end(0);
  for (int i = 0; i < 100; ++i) writer.line(std::string(99, 'x'));
  CHECK(writer.dropped() > 0);
}

TEST_CASE("a log writer takes the log while it lives and writes all of it before it ends") {
  Pipe pipe;
  {
    log::LogWriter writer(pipe.ends[1]);
    writer.line("GET /");
    for (int i = 0; i < 100; ++i) log::info("a", "last words", {{"n", i}});
  }
  CHECK((fcntl(pipe.ends[1], F_GETFL) & O_NONBLOCK) == 0);
  const std::string all = pipe.read_all();
  CHECK(all.starts_with("GET /\n"));
  CHECK(all.ends_with("\tinfo\ta\tlast words n=99\n"));
}

TEST_CASE("whoever logs does not wait for a stuck reader, and lost lines are counted") {
  Pipe pipe;
  log::LogWriter writer(pipe.ends[1]);
  const std::string text(999, 'x');
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 4'000; ++i) log::info("a", text);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(2));
  CHECK(writer.dropped() > 1'000);
}

TEST_CASE("a line writer's last second is the last one also when others fill the pipe") {
  Pipe pipe;
  const auto start = std::chrono::steady_clock::now();
  {
    LineWriter one(pipe.ends[1], told);
    LineWriter other(pipe.ends[1], told);
    for (int i = 0; i < 4'000; ++i) {
      one.line(std::string(99, 'x'));
      other.line(std::string(99, 'y'));
    }
  }
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(4));
}

}  // namespace
}  // namespace meshnode
