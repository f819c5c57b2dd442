#include "admin/client.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/beast/http/basic_parser.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/escape.h"

namespace meshnode::admin {
namespace {

namespace http = boost::beast::http;
using BeastError = boost::beast::error_code;
using BeastText = boost::beast::string_view;
using SteadyTime = std::chrono::steady_clock::time_point;

constexpr std::size_t kReadSize = 64 * 1024;
constexpr std::uint32_t kMaxAnswerHead = 16 * 1024;

class AnswerParser final : public http::basic_parser<false> {
 public:
  explicit AnswerParser(std::size_t max_body) {
    header_limit(kMaxAnswerHead);
    body_limit(max_body);
    eager(true);
  }
  Answer answer;

 private:
  void on_response_impl(int code, BeastText, int, BeastError&) override { answer.status = code; }
  std::size_t on_body_impl(BeastText body, BeastError&) override {
    answer.body.append(body.data(), body.size());
    return body.size();
  }
  void on_request_impl(http::verb, BeastText, BeastText, int, BeastError&) override {}
  void on_field_impl(http::field, BeastText, BeastText, BeastError&) override {}
  void on_chunk_header_impl(std::uint64_t, BeastText, BeastError& error) override {
    error = http::error::bad_transfer_encoding;
  }
  std::size_t on_chunk_body_impl(std::uint64_t, BeastText, BeastError& error) override {
    error = http::error::bad_transfer_encoding;
    return 0;
  }
  void on_header_impl(BeastError&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, BeastError&) override {}
  void on_finish_impl(BeastError&) override {}
};

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  int get() const { return value_; }

 private:
  int value_;
};

tl::unexpected<Error> system_failure(const std::string& path, int number) {
  std::string where = "the agent's socket " + quoted(path);
  if (number == EACCES || number == EPERM) {
    return fail(ErrorCode::kPermission,
                "may not use " + where + "; run this as root or as a member of its group");
  }
  if (number == ENOENT || number == ECONNREFUSED) {
    return fail(ErrorCode::kUnavailable,
                "no agent is running at " + where +
                    "; start it with systemctl start meshnode, or say where it is by --run-dir");
  }
  return fail(ErrorCode::kUnavailable,
              where + " does not answer: " + std::strerror(number) + "; try again");
}

// Waits for `events`; an error when the deadline comes first.
Status wait_for(int descriptor, short events, SteadyTime deadline, const std::string& path) {
  for (;;) {
    auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      return fail(ErrorCode::kTimeout,
                  "the agent at " + quoted(path) + " did not answer in time; look at its log");
    }
    pollfd wanted{descriptor, events, 0};
    int ready = poll(&wanted, 1, static_cast<int>(left.count()));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return system_failure(path, errno);
  }
}

Status connect_to(int descriptor, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path || path.find('\0') != std::string::npos) {
    return fail(ErrorCode::kInvalid,
                "the path " + quoted(path) + " is too long for a socket; use a shorter --run-dir");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return system_failure(path, errno);
  }
  return {};
}

Status send_all(int descriptor, std::string_view text, SteadyTime deadline,
                const std::string& path) {
  while (!text.empty()) {
    ssize_t count = send(descriptor, text.data(), text.size(), MSG_NOSIGNAL);
    if (count >= 0) {
      text.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno == EAGAIN) {
      if (auto ready = wait_for(descriptor, POLLOUT, deadline, path); !ready) return ready;
    } else if (errno == EPIPE) {
      return {};  // It refused early: the answer says why.
    } else if (errno != EINTR) {
      return system_failure(path, errno);
    }
  }
  return {};
}

Result<std::string> receive_all(int descriptor, std::size_t limit, SteadyTime deadline,
                                const std::string& path) {
  std::string all;
  std::array<char, kReadSize> buffer;
  for (;;) {
    if (auto ready = wait_for(descriptor, POLLIN, deadline, path); !ready) {
      return fail(ready.error());
    }
    ssize_t count = recv(descriptor, buffer.data(), buffer.size(), 0);
    if (count == 0) return all;
    if (count < 0 && errno == ECONNRESET && !all.empty()) return all;
    if (count < 0 && errno != EAGAIN && errno != EINTR) return system_failure(path, errno);
    if (count < 0) continue;
    all.append(buffer.data(), static_cast<std::size_t>(count));
    if (all.size() > limit) {
      return fail(ErrorCode::kLimit, "the agent's answer is larger than " + std::to_string(limit) +
                                         " bytes; ask for less");
    }
  }
}

Result<Answer> parse_answer(const std::string& text, std::size_t limit, const std::string& path) {
  AnswerParser parser(limit);
  BeastError error;
  std::string_view rest = text;
  while (!rest.empty() && !parser.is_done() && !error) {
    rest.remove_prefix(parser.put(boost::asio::buffer(rest.data(), rest.size()), error));
  }
  if (!error && parser.is_header_done() && !parser.is_done()) parser.put_eof(error);
  if (error || !parser.is_done()) {
    return fail(ErrorCode::kInvalid, "the answer of " + quoted(path) +
                                         " is cut short or not HTTP; is that the agent's socket?");
  }
  return std::move(parser.answer);
}

Result<Answer> exchange(const std::string& path, std::string_view target,
                        const std::string& request, const ClientOptions& options) {
  SteadyTime deadline = std::chrono::steady_clock::now() + options.timeout;
  bool printable =
      std::all_of(target.begin(), target.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (!target.starts_with('/') || !printable) {
    return fail(ErrorCode::kInvalid, "the target " + quoted(target) + " is not a path");
  }
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.get() < 0) return system_failure(path, errno);
  if (auto done = connect_to(socket.get(), path); !done) return fail(done.error());
  if (auto done = send_all(socket.get(), request, deadline, path); !done) {
    return fail(done.error());
  }
  auto text = receive_all(socket.get(), options.max_answer, deadline, path);
  if (!text) return fail(text.error());
  return parse_answer(*text, options.max_answer, path);
}

}  // namespace

Result<Answer> get(const std::string& socket_path, std::string_view target,
                   const ClientOptions& options) {
  return exchange(
      socket_path, target,
      fmt::format("GET {} HTTP/1.1\r\nHost: meshnode\r\nConnection: close\r\n\r\n", target),
      options);
}

Result<Answer> post(const std::string& socket_path, std::string_view target, std::string_view body,
                    const ClientOptions& options) {
  return exchange(socket_path, target,
                  fmt::format("POST {} HTTP/1.1\r\nHost: meshnode\r\nConnection: close\r\n"
                              "Content-Length: {}\r\n\r\n{}",
                              target, body.size(), body),
                  options);
}

}  // namespace meshnode::admin
