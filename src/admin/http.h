#pragma once
/// A small HTTP/1.1 server's words and its parser (RFC 9112), strict: GET and POST only, no
/// Transfer-Encoding, no obs-fold, origin-form targets, exactly one Host. Thread: values.

#include <meshnode/bytes.h>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace meshnode::admin {

struct Header {
  std::string name;  ///< lower case
  std::string value;
};

struct Request {
  std::string method;  ///< "GET" or "POST"
  std::string path;    ///< as sent, percent signs included; starts with '/'
  std::string query;   ///< what follows '?', without it
  std::vector<Header> headers;
  std::string body;

  /// The first header of that lower-case name; null when there is none.
  const std::string* header(std::string_view name) const;
};

struct Response {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

/// Answers one request; runs on the server's loop and must not block.
using Handler = std::function<Response(const Request&)>;

inline constexpr std::size_t kMaxHead = 16 * 1024;    ///< request line and headers, octets
inline constexpr std::size_t kMaxHeaders = 100;       ///< header fields
inline constexpr std::size_t kMaxBody = 1024 * 1024;  ///< octets

/// One request out of bytes as they come; sans-IO.
class RequestParser {
 public:
  enum class Progress {
    kMore,      ///< hand in more
    kContinue,  ///< as kMore, and the client waits for "100 Continue"
    kDone,      ///< request() is whole; further bytes are ignored
    kRefused,   ///< refusal() says why; further bytes are ignored
  };

  RequestParser();
  ~RequestParser();
  Progress feed(Bytes data);
  const Request& request() const { return request_; }
  /// The answer to a request that is malformed or over a limit.
  const Response& refusal() const { return refusal_; }

 private:
  class Parser;
  Progress feed_head(Bytes data);
  Progress feed_body(Bytes data);
  Progress check_head();
  Progress refuse(int status, std::string reason);

  std::unique_ptr<Parser> parser_;
  std::string head_;
  bool head_done_ = false;
  bool over_ = false;
  Progress last_ = Progress::kMore;
  Request request_;
  Response refusal_;
};

/// The answer up to its body, which follows as it is; it says that the connection ends after it.
std::string head_of(const Response& response);

}  // namespace meshnode::admin
