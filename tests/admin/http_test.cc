#include "admin/http.h"

#include <rapidcheck.h>

#include <catch2/catch.hpp>

namespace meshnode::admin {
namespace {

using Progress = RequestParser::Progress;

int status_of(const std::string& text) {
  RequestParser parser;
  Progress progress = parser.feed(as_bytes(text));
  if (progress == Progress::kDone) return 200;
  return progress == Progress::kRefused ? parser.refusal().status : 0;
}

TEST_CASE("a request is read whole") {
  RequestParser parser;
  REQUIRE(parser.feed(as_bytes("POST /log?level=debug HTTP/1.1\r\nHost: a\r\nX-Thing:  two words "
                               "\r\nContent-Length: 5\r\n\r\nhello")) == Progress::kDone);
  const Request& request = parser.request();
  CHECK(request.method == "POST");
  CHECK(request.path == "/log");
  CHECK(request.query == "level=debug");
  CHECK(request.body == "hello");
  REQUIRE(request.header("x-thing") != nullptr);
  CHECK(*request.header("x-thing") == "two words");
  CHECK(request.header("nothing") == nullptr);
}

TEST_CASE("requests cut anywhere are read alike") {
  const std::string text =
      "POST /status?x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789ignored";
  REQUIRE(rc::check("any cuts", [&] {
    RequestParser parser;
    std::string_view rest = text;
    Progress progress = Progress::kMore;
    while (!rest.empty()) {
      auto size = *rc::gen::inRange<std::size_t>(1, 12);
      progress = parser.feed(as_bytes(rest.substr(0, size)));
      rest.remove_prefix(std::min(size, rest.size()));
    }
    RC_ASSERT(progress == Progress::kDone);
    RC_ASSERT(parser.request().body == "0123456789");
    RC_ASSERT(parser.request().query == "x");
  }));
}

TEST_CASE("what is not strict HTTP is refused") {
  struct Row {
    int status;
    const char* text;
  };
  for (Row row : {
           Row{200, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
           Row{200, "GET / HTTP/1.0\r\n\r\n"},
           Row{400, "GET / HTTP/1.1\r\n\r\n"},
           Row{400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"},
           Row{400, "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"},
           Row{400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"},
           Row{400, "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"},
           Row{400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"},
           Row{400, "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n"},
           Row{400, "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n"},
           Row{400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"},
           Row{400, "GET / HTTP/1.1\r\n: a\r\n\r\n"},
           Row{400, "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"},
           Row{400, "\r\n\r\n"},
           Row{400, "\x16\x03\x01\x02\x01\r\n\r\n"},
           Row{400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"},
           Row{400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n"},
           Row{400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"},
           Row{400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"},
           Row{400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n"},
           Row{405, "PUT / HTTP/1.1\r\nHost: a\r\n\r\n"},
           Row{405, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"},
           Row{405, "get / HTTP/1.1\r\nHost: a\r\n\r\n"},
           Row{405, "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"},
           Row{501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"},
           Row{501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"},
           Row{501, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"},
           Row{505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
           Row{413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n"},
           Row{413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n"},
           Row{400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n"},
       }) {
    CAPTURE(row.text);
    CHECK(status_of(row.text) == row.status);
  }
}

TEST_CASE("Content-Length beside Transfer-Encoding is refused whatever the order") {
  for (const char* fields : {"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
                             "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"}) {
    int status = status_of("POST / HTTP/1.1\r\nHost: a\r\n" + std::string(fields) + "\r\nabc");
    CHECK((status == 400 || status == 501));
  }
}

std::string request_head(std::size_t size) {
  std::string start = "GET / HTTP/1.1\r\nHost: a\r\n";
  // Several fields: one of 16 KiB would not say where the bound lies.
  while (start.size() + 1'000 < size) start += "X: " + std::string(500, 'x') + "\r\n";
  return start + "X: " + std::string(size - start.size() - 7, 'x') + "\r\n\r\n";
}

TEST_CASE("the head is bounded at 16 KiB, fields at 100, the body at 1 MiB") {
  REQUIRE(request_head(kMaxHead).size() == kMaxHead);
  CHECK(status_of(request_head(kMaxHead)) == 200);
  CHECK(status_of(request_head(kMaxHead + 1)) == 431);
  CHECK(status_of(std::string(kMaxHead, 'G')) == 431);
  CHECK(status_of(std::string(kMaxHead - 1, 'G')) == 0);

  std::string fields = "GET / HTTP/1.1\r\nHost: a\r\n";
  for (std::size_t i = 1; i < kMaxHeaders; ++i) fields += "X: 1\r\n";
  CHECK(status_of(fields + "\r\n") == 200);
  CHECK(status_of(fields + "X: 1\r\n\r\n") == 431);

  std::string post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ";
  std::string body(kMaxBody, 'b');
  CHECK(status_of(post + std::to_string(kMaxBody) + "\r\n\r\n" + body) == 200);
  CHECK(status_of(post + std::to_string(kMaxBody + 1) + "\r\n\r\n") == 413);
}

TEST_CASE("a client that waits for 100 Continue is told once") {
  RequestParser parser;
  CHECK(parser.feed(as_bytes("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                             "Content-Length: 2\r\n\r\n")) == Progress::kContinue);
  CHECK(parser.feed(as_bytes("a")) == Progress::kMore);
  CHECK(parser.feed(as_bytes("b")) == Progress::kDone);
  CHECK(parser.feed(as_bytes("c")) == Progress::kDone);
  CHECK(parser.request().body == "ab");
}

TEST_CASE("an answer names its length and that the connection ends") {
  Response response;
  response.body = "ready\n";
  CHECK(head_of(response) ==
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 6\r\n"
        "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n");
  response.status = 405;
  CHECK(head_of(response).find("\r\nAllow: GET, POST\r\n") != std::string::npos);
}

}  // namespace
}  // namespace meshnode::admin
