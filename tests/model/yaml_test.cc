#include "model/yaml.h"

#include <rapidcheck.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <string>

using meshnode::model::Document;
using meshnode::model::parse_yaml;
using meshnode::model::Position;
using meshnode::model::Value;

namespace {

std::string repeat(std::string_view piece, std::size_t times) {
  std::string out;
  for (std::size_t i = 0; i < times; ++i) out += piece;
  return out;
}

Value root(std::string_view text) {
  const auto documents = parse_yaml(text);
  REQUIRE(documents);
  REQUIRE(documents->size() == 1);
  return documents->front().root;
}

Value::Kind kind_of(std::string_view scalar) {
  return root("x: " + std::string(scalar) + "\n").find("x")->kind;
}

}  // namespace

TEST_CASE("only plain true, false, null and decimal digits are anything but strings") {
  using Kind = Value::Kind;
  for (const char* text : {"true", "false"}) CHECK(kind_of(text) == Kind::kBool);
  for (const char* text : {"null", "~", ""}) CHECK(kind_of(text) == Kind::kNull);
  for (const char* text : {"0", "80", "-1", "9223372036854775807"}) {
    CHECK(kind_of(text) == Kind::kInteger);
  }
  for (const char* text : {"010", "0x10", "0o7", "0b1", "1.5", "1e3", "+1", "1_000", ".inf", "-.5",
                           "9223372036854775808", ".NaN", "1E+3", "00"}) {
    CAPTURE(text);
    CHECK(kind_of(text) == Kind::kNumber);
  }
  for (const char* text :
       {"yes",       "no",     "on",          "off",  "True",      "TRUE",        "Null",
        "10.77.0.1", "\"80\"", "'true'",      "\"\"", "v1",        "1a",          "e3",
        "-",         "1-2",    "2001:db8::1", "0xzz", "|\n  80\n", ">-\n  true\n"}) {
    CAPTURE(text);
    if (std::string_view(text) != "-") CHECK(kind_of(text) == Kind::kString);
  }
}

TEST_CASE("values and keys know their line and column, in characters") {
  const Value map = root("# é\n\"ü\": {a: 1, b:\n   [x, y]}\n");
  CHECK(map.keys[0].at == Position{2, 1});
  CHECK(map.items[0].at == Position{2, 6});
  CHECK(map.items[0].keys[1].at == Position{2, 13});
  CHECK(map.items[0].items[1].items[1].at == Position{3, 8});
}

TEST_CASE("documents are separate, empty ones are left out, and each knows its text") {
  const std::string text =
      "\xEF\xBB\xBF# head\na: 1\n---\n---\n# only a comment\n---\n  b: 2\n  c: é\n...\n---\nd: 3";
  const auto documents = parse_yaml(text);
  REQUIRE(documents);
  REQUIRE(documents->size() == 3);
  const auto slice = [&](std::size_t i) {
    const Document& d = (*documents)[i];
    return text.substr(d.begin, d.end - d.begin);
  };
  CHECK(slice(0) == "a: 1\n");
  CHECK(slice(1) == "---\n  b: 2\n  c: é\n...\n");
  CHECK(slice(2) == "---\nd: 3");
  CHECK((*documents)[1].first_line == 6);
}

TEST_CASE("what is refused is named with its place") {
  struct Case {
    std::string text;
    Position at;
    std::string reason;
  };
  const Case cases[] = {
      {"a: 1\nb: 2\na: 3\n", {3, 1}, "duplicate key 'a'"},
      {"a: {x: 1,\n  x: 2}\n", {2, 3}, "duplicate key 'x'"},
      {"a: &x 1\n", {1, 4}, "anchors"},
      {"a: &x {b: 1}\n", {1, 4}, "anchors"},
      {"- a\n- *x\n", {2, 3}, "aliases"},
      {"a: !!str 1\n", {1, 4}, "tags"},
      {"a: ! 1\n", {1, 4}, "tags"},
      {"a: !mine [1]\n", {1, 4}, "tags"},
      {"%YAML 1.2\n---\na: 1\n", {1, 1}, "directives"},
      {"a: 1\n...\n%TAG ! x:\n---\nb: 2\n", {3, 1}, "directives"},
      {"a: 1\n...\xE2\x80\xA8%TAG ! x:\n", {3, 1}, "directives"},
      {"a: {b: 1}\nc:\n  <<: {d: 1}\n", {3, 3}, "merge keys"},
      {"a: 1\n80: 2\n", {2, 1}, "key '80' is an integer"},
      {"true: 2\n", {1, 1}, "key 'true' is a boolean"},
      {"{[a]: 2}\n", {1, 2}, "a key must be a string"},
      {std::string("a: 1\nb: x\0y\n", 11), {2, 5}, "U+0000"},
      {"a: \x07\n", {1, 4}, "U+0007"},
      {"a: \xC2\x9F\n", {1, 4}, "U+009F"},
      {"a: é\xFF\n", {1, 5}, "byte 0xFF is not UTF-8"},
      {"a: \xC0\xAF\n", {1, 4}, "byte 0xC0"},
      {"a: \xED\xA0\x80\n", {1, 4}, "byte 0xED"},
      {"a: \xF4\x90\x80\x80\n", {1, 4}, "byte 0xF4"},
      {"a: \xE2\x82", {1, 4}, "byte 0xE2"},
      {std::string("\xFF\xFE"
                   "a\0",
                   4),
       {1, 1},
       "byte 0xFF"},
      {"a: \xEF\xBB\xBF\n", {1, 4}, "U+FEFF"},
      {"a: {b: 1\n", {2, 1}, "not valid YAML"},
      {"a: b: c\n", {1, 5}, "not valid YAML"},
      {"a: 1\n\tb: 2\n", {2, 1}, "not valid YAML"},
      {"a: \"half", {1, 9}, "not valid YAML"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.text);
    const auto documents = parse_yaml(c.text);
    REQUIRE_FALSE(documents);
    CHECK(documents.error().at == c.at);
    CHECK_THAT(documents.error().reason, Catch::Contains(c.reason));
  }
}

TEST_CASE("every line break of YAML 1.1 counts as a line") {
  const auto documents = parse_yaml(
      "a: 1\rb: 2\r\nc: 3\xC2\x85"
      "d: *x\n");
  REQUIRE_FALSE(documents);
  CHECK(documents.error().at == Position{4, 4});
}

TEST_CASE("depth 32 is read, 33 is refused") {
  CHECK(parse_yaml(repeat("[", 32) + repeat("]", 32)));
  const auto flow = parse_yaml(repeat("[", 33) + repeat("]", 33));
  REQUIRE_FALSE(flow);
  CHECK_THAT(flow.error().reason, Catch::Contains("deeper than 32"));
  CHECK(flow.error().at == Position{1, 33});
  CHECK_FALSE(parse_yaml(repeat("- ", 33) + "x"));
  CHECK(parse_yaml(repeat("- ", 32) + "x"));
}

TEST_CASE("1 MiB is read, one byte more is refused") {
  std::string text = "a: 1\n#";
  text.resize(meshnode::model::kMaxYamlBytes, 'x');
  CHECK(parse_yaml(text));
  text += 'x';
  const auto documents = parse_yaml(text);
  REQUIRE_FALSE(documents);
  CHECK_THAT(documents.error().reason, Catch::Contains("1048577 bytes"));
}

TEST_CASE("10,000 documents are read, one more is refused") {
  CHECK(parse_yaml(repeat("--- {a: 1}\n", 10'000))->size() == 10'000);
  const auto documents = parse_yaml(repeat("--- {a: 1}\n", 10'001));
  REQUIRE_FALSE(documents);
  CHECK(documents.error().at.line == 10'001);
}

TEST_CASE("250,000 values are read, one more is refused") {
  CHECK(parse_yaml("[" + repeat("x,", 249'999) + "]"));
  CHECK_FALSE(parse_yaml("[" + repeat("x,", 250'000) + "]"));
}

TEST_CASE("hostile files end quickly") {
  const std::size_t size = meshnode::model::kMaxYamlBytes;
  std::string lots_of_keys;
  while (lots_of_keys.size() + 16 < size) {
    lots_of_keys += "k" + std::to_string(lots_of_keys.size()) + ":\n";
  }
  const std::string files[] = {
      repeat("%TAG !a! tag:x\n", 40'000),
      repeat("[", size),
      repeat("[\n", size / 2),
      repeat("{", size),
      repeat("- ", size / 2),
      repeat("? ", size / 2),
      repeat("a: ", size / 3),
      repeat("\"", size),
      repeat("'", size),
      repeat(" ", size),
      repeat("\n", size),
      repeat("a:\n", size / 3),
      "a: |\n" + repeat("  x\n", size / 4 - 4),
      "[" + repeat("{},", size / 3 - 4),
      "{" + repeat("x ", size / 2 - 4),
      repeat("---\n", size / 4),
      repeat("&a ", size / 3),
      lots_of_keys,
  };
  for (const std::string& file : files) {
    CAPTURE(file.substr(0, 20));
    const auto start = std::chrono::steady_clock::now();
    (void)parse_yaml(file);
    const auto took = std::chrono::steady_clock::now() - start;
    CHECK(took < std::chrono::seconds(5));
  }
}

TEST_CASE("any bytes give documents or an error with a place inside the text") {
  REQUIRE(rc::check([](const std::string& text) {
    const auto documents = parse_yaml(text);
    if (documents) return;
    RC_ASSERT(documents.error().at.line >= 1U);
    RC_ASSERT(documents.error().at.line <= text.size() + 1);
    RC_ASSERT(!documents.error().reason.empty());
  }));
}
