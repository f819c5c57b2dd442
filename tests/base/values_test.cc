#include <meshnode/time.h>
#include <rapidcheck.h>

#include <catch2/catch.hpp>
#include <limits>

#include "base/duration.h"
#include "base/escape.h"
#include "base/passwd.h"
#include "base/random.h"

namespace meshnode {
namespace {

using namespace std::chrono_literals;

TEST_CASE("times print as RFC 3339 in UTC") {
  CHECK(rfc3339(WallTime{}) == "1970-01-01T00:00:00Z");
  WallTime leap_day{1'709'210'096'789ms};
  CHECK(rfc3339(leap_day) == "2024-02-29T12:34:56Z");
  CHECK(rfc3339_millis(leap_day) == "2024-02-29T12:34:56.789Z");
  CHECK(rfc3339_millis(WallTime{-1ns}) == "1969-12-31T23:59:59.999Z");
  CHECK(rfc3339_millis(WallTime{999'999ns}) == "1970-01-01T00:00:00.000Z");
}

TEST_CASE("a duration survives its text form") {
  REQUIRE(rc::check("parse(text(d)) == d", [] {
    auto nanos = *rc::gen::inRange<std::int64_t>(0, 400'000'000'000'000'000);
    Duration duration(nanos);
    auto back = parse_duration(duration_text(duration), 0ns, Duration::max());
    RC_ASSERT(back.has_value());
    RC_ASSERT(*back == duration);
  }));
}

TEST_CASE("durations are read in Go's and protobuf's forms") {
  auto parse = [](const char* text) { return *parse_duration(text, 0ns, Duration::max()); };
  CHECK(parse("24h") == 24h);
  CHECK(parse("10m") == 10min);
  CHECK(parse("90s") == 90s);
  CHECK(parse("1.5s") == 1500ms);
  CHECK(parse("100ms") == 100ms);
  CHECK(parse("1h30m") == 90min);
  CHECK(parse("0") == 0ns);
  CHECK(parse("0.25h") == 15min);
  CHECK(parse("1.000000001s") == 1'000'000'001ns);
  CHECK(parse("7us") == 7us);
  CHECK(parse("1.500000000000s") == 1500ms);
}

TEST_CASE("what is no duration, or out of bounds, is refused") {
  for (const char* text : {"",
                           "1",
                           "s",
                           "-1s",
                           "+1s",
                           "1 s",
                           " 1s",
                           "1s ",
                           "1.s",
                           ".5s",
                           "1d",
                           "1S",
                           "1,5s",
                           "1e3s",
                           "0x1s",
                           "1.5.5s",
                           "00",
                           "9223372036854775808ns",
                           "9999999h",
                           "2562048h",
                           "1.0000000001s",
                           "0.5ns",
                           "1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s"}) {
    CAPTURE(text);
    auto refused = parse_duration(text, 0ns, Duration::max());
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code == ErrorCode::kInvalid);
  }
  CHECK(parse_duration("1s", 1s, 10s).has_value());
  CHECK(parse_duration("10s", 1s, 10s).has_value());
  auto above = parse_duration("10001ms", 1s, 10s);
  REQUIRE_FALSE(above.has_value());
  CHECK(above.error().message == "duration \"10001ms\" is not between 1s and 10s");
  CHECK_FALSE(parse_duration("999ms", 1s, 10s).has_value());
}

TEST_CASE("durations print in whole units") {
  CHECK(duration_text(0ns) == "0s");
  CHECK(duration_text(90min) == "1h30m");
  CHECK(duration_text(1500ms) == "1s500ms");
  CHECK(duration_text(-90s) == "-1m30s");
  CHECK(duration_text(Duration::min()) == "-2562047h47m16s854ms775us808ns");
}

constexpr std::string_view kPasswd =
    "root:x:0:0:root:/root:/bin/bash\n"
    "short:x:5\n"
    "+nis::::::\n"
    "www-data:x:33:33::/var/www:/usr/sbin/nologin\n"
    "bad:x:-1:1::/:/bin/sh\n"
    "none:x:4294967295:1::/:/bin/sh\n"
    "bad:x:44:1::/:/bin/sh\n"
    "www-data:x:99:99::/:/bin/sh\n"
    "last:x:4294967294:1::/:/bin/sh";

TEST_CASE("users are found in passwd text, first line first") {
  CHECK(*user_id(kPasswd, "root") == 0);
  CHECK(*user_id(kPasswd, "www-data") == 33);
  CHECK(*user_id(kPasswd, "last") == 4294967294U);
  CHECK(*user_id(kPasswd, "bad") == 44);
  CHECK(*user_id("", "1000") == 1000);
  CHECK(*user_id(kPasswd, "0") == 0);
}

TEST_CASE("users that are not there or cannot be are told apart") {
  for (const char* name : {"nobody", "short", "none", "x", "roo", "root "}) {
    CAPTURE(name);
    auto missing = user_id(kPasswd, name);
    REQUIRE_FALSE(missing.has_value());
    CHECK(missing.error().code == ErrorCode::kNotFound);
  }
  for (const char* name :
       {"", "root:x", "a\nb", "4294967295", "4294967296", "007", "99999999999"}) {
    CAPTURE(name);
    auto refused = user_id(kPasswd, name);
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code == ErrorCode::kInvalid);
  }
  CHECK(user_id(kPasswd, std::string(257, 'a')).error().code == ErrorCode::kInvalid);
}

TEST_CASE("random numbers: a seed repeats, the kernel does not, bounds hold") {
  SeededRandom a(7), b(7), c(8);
  CHECK(a.next() == b.next());
  CHECK(a.next() != c.next());
  SystemRandom system;
  CHECK(system.next() != system.next());
  for (std::uint64_t bound : {1ULL, 2ULL, 3ULL, 10ULL, 1ULL << 63U, ~0ULL}) {
    for (int i = 0; i < 100; ++i) CHECK(uniform(a, bound) < bound);
  }
  CHECK(uniform(a, 0) == 0);
}

bool is_one_line(std::string_view text) {
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) return false;
  }
  return true;
}

TEST_CASE("escaped text is one line whatever went in") {
  REQUIRE(rc::check("no control characters, quotes escaped", [] {
    std::string in = *rc::gen::arbitrary<std::string>();
    std::string out = quoted(in);
    RC_ASSERT(is_one_line(out));
    std::size_t bare = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (out[i] == '\\') {
        ++i;
      } else if (out[i] == '"') {
        ++bare;
      }
    }
    RC_ASSERT(bare == 2U);
  }));
}

TEST_CASE("text that could deceive is escaped and the rest left alone") {
  auto escaped = [](std::string_view text) {
    std::string out;
    append_escaped(out, text);
    return out;
  };
  CHECK(escaped("plain \xc3\xa4\xe2\x82\xac\xf0\x9f\x8e\x89") ==
        "plain \xc3\xa4\xe2\x82\xac\xf0\x9f\x8e\x89");
  CHECK(escaped("a\"b\\c\nd\re\tf") == "a\\\"b\\\\c\\nd\\re\\tf");
  CHECK(escaped(std::string_view("\0\x1b[2J\x7f", 6)) == "\\x00\\x1b[2J\\x7f");
  CHECK(escaped("\xc2\x85") == "\\xc2\\x85");                    // next line
  CHECK(escaped("\xe2\x80\xa8") == "\\xe2\\x80\\xa8");           // line separator
  CHECK(escaped("\xe2\x80\xae") == "\\xe2\\x80\\xae");           // right-to-left override
  CHECK(escaped("\xff\xc0\xaf") == "\\xff\\xc0\\xaf");           // not UTF-8, overlong
  CHECK(escaped("\xed\xa0\x80") == "\\xed\\xa0\\x80");           // surrogate
  CHECK(escaped("\xe2\x82") == "\\xe2\\x82");                    // cut short
  CHECK(escaped("\xf4\x90\x80\x80") == "\\xf4\\x90\\x80\\x80");  // beyond U+10FFFF
  std::string json;
  append_json(json, "q\"\\\n\x01\xe2\x80\xa8\xff");
  CHECK(json == "\"q\\\"\\\\\\n\\u0001\\u2028\xef\xbf\xbd\"");
  CHECK(quoted(std::string(300, 'a')) == "\"" + std::string(256, 'a') + "...\"");
}

}  // namespace
}  // namespace meshnode
