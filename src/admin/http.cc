#include "admin/http.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/status.hpp>

#include "base/escape.h"

namespace meshnode::admin {
namespace {

namespace http = boost::beast::http;
using BeastError = boost::beast::error_code;
using BeastText = boost::beast::string_view;

constexpr std::string_view kHeadEnd = "\r\n\r\n";

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::string_view reason_phrase(int status) {
  return http::obsolete_reason(static_cast<http::status>(status));
}

int status_of(const BeastError& error) {
  if (error == http::error::header_limit) return 431;
  if (error == http::error::body_limit) return 413;
  if (error == http::error::bad_version) return 505;
  return 400;
}

}  // namespace

const std::string* Request::header(std::string_view name) const {
  for (const Header& header : headers) {
    if (header.name == name) return &header.value;
  }
  return nullptr;
}

class RequestParser::Parser final : public http::basic_parser<true> {
 public:
  explicit Parser(Request& request) : request_(request) {
    header_limit(kMaxHead + 1);
    body_limit(kMaxBody);
    eager(true);
  }
  const std::string& target() const { return target_; }
  int version() const { return version_; }

 private:
  void on_request_impl(http::verb, BeastText method, BeastText target, int version,
                       BeastError&) override {
    request_.method.assign(method.data(), method.size());
    target_.assign(target.data(), target.size());
    version_ = version;
  }
  void on_field_impl(http::field, BeastText name, BeastText value, BeastError& error) override {
    if (request_.headers.size() >= kMaxHeaders) {
      error = http::error::header_limit;
      return;
    }
    request_.headers.push_back(
        {lower({name.data(), name.size()}), std::string(value.data(), value.size())});
  }
  std::size_t on_body_impl(BeastText body, BeastError&) override {
    request_.body.append(body.data(), body.size());
    return body.size();
  }
  void on_chunk_header_impl(std::uint64_t, BeastText, BeastError& error) override {
    error = http::error::bad_transfer_encoding;
  }
  std::size_t on_chunk_body_impl(std::uint64_t, BeastText, BeastError& error) override {
    error = http::error::bad_transfer_encoding;
    return 0;
  }
  void on_response_impl(int, BeastText, int, BeastError&) override {}
  void on_header_impl(BeastError&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, BeastError&) override {}
  void on_finish_impl(BeastError&) override {}

  Request& request_;
  std::string target_;
  int version_ = 0;
};

RequestParser::RequestParser() : parser_(std::make_unique<Parser>(request_)) {}
RequestParser::~RequestParser() = default;

RequestParser::Progress RequestParser::feed(Bytes data) {
  if (!over_) {
    last_ = head_done_ ? feed_body(data) : feed_head(data);
    over_ = last_ == Progress::kDone || last_ == Progress::kRefused;
  }
  return last_;
}

RequestParser::Progress RequestParser::refuse(int status, std::string reason) {
  refusal_.status = status;
  refusal_.body = std::move(reason) + "\n";
  return Progress::kRefused;
}

RequestParser::Progress RequestParser::feed_head(Bytes data) {
  std::size_t searched = head_.size() < kHeadEnd.size() ? 0 : head_.size() - kHeadEnd.size() + 1;
  std::size_t before = head_.size();
  std::size_t taken = std::min(data.size(), kMaxHead - head_.size());
  head_ += as_text(data.first(taken));
  std::size_t end = head_.find(kHeadEnd, searched);
  if (end == std::string::npos) {
    if (head_.size() < kMaxHead) return Progress::kMore;
    return refuse(431, "the request line and headers are more than 16 KiB");
  }
  head_.resize(end + kHeadEnd.size());
  head_done_ = true;
  // The parser would join folded lines silently; RFC 9112 §5.2 lets a server refuse them.
  if (head_.find("\n ") != std::string::npos || head_.find("\n\t") != std::string::npos) {
    return refuse(400, "a header is folded over lines");
  }
  BeastError error;
  parser_->put(boost::asio::buffer(head_), error);
  if (error && error != http::error::need_more) {
    return refuse(status_of(error), "not an HTTP request: " + error.message());
  }
  if (!parser_->is_header_done()) return refuse(400, "not an HTTP request");
  Progress progress = check_head();
  Bytes rest = data.subspan(head_.size() - before);
  if (progress == Progress::kRefused || progress == Progress::kDone || rest.empty()) {
    return progress;
  }
  return feed_body(rest);
}

RequestParser::Progress RequestParser::check_head() {
  if (request_.method != "GET" && request_.method != "POST") {
    return refuse(405, "only GET and POST are served here");
  }
  if (request_.header("transfer-encoding") != nullptr) {
    return refuse(501, "Transfer-Encoding is not served here; send Content-Length");
  }
  auto count = [&](std::string_view name) {
    return std::count_if(request_.headers.begin(), request_.headers.end(),
                         [&](const Header& header) { return header.name == name; });
  };
  const std::string* length = request_.header("content-length");
  // Equal lengths in a list or several fields may be accepted (RFC 9110 §8.6); only an attacker
  // sends them.
  if (count("content-length") > 1 || (length != nullptr && length->find(',') != length->npos)) {
    return refuse(400, "exactly one Content-Length is required");
  }
  auto hosts = count("host");
  if (hosts > 1 || (hosts == 0 && parser_->version() >= 11)) {
    return refuse(400, "exactly one Host header is required");
  }
  const std::string& target = parser_->target();
  if (!target.starts_with('/') || target.find('#') != std::string::npos) {
    return refuse(400, "the target " + quoted(target) + " is not a path");
  }
  std::size_t mark = target.find('?');
  request_.path = target.substr(0, mark);
  if (mark != std::string::npos) request_.query = target.substr(mark + 1);
  if (parser_->is_done()) return Progress::kDone;
  const std::string* expect = request_.header("expect");
  return expect != nullptr && lower(*expect) == "100-continue" ? Progress::kContinue
                                                               : Progress::kMore;
}

RequestParser::Progress RequestParser::feed_body(Bytes data) {
  while (!data.empty() && !parser_->is_done()) {
    BeastError error;
    std::size_t used = parser_->put(boost::asio::buffer(data.data(), data.size()), error);
    if (error) return refuse(status_of(error), "the body is malformed: " + error.message());
    data = data.subspan(used);
  }
  return parser_->is_done() ? Progress::kDone : Progress::kMore;
}

std::string head_of(const Response& response) {
  return fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n"
      "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{}\r\n",
      response.status, reason_phrase(response.status), response.content_type, response.body.size(),
      response.status == 405 ? "Allow: GET, POST\r\n" : "");
}

}  // namespace meshnode::admin
