#include "peer.h"

#include <poll.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace meshnode::bench {
namespace {

constexpr std::int64_t kPatience = 10'000'000'000;

/// 0 when `fd` became ready for `events`, else an errno.
int await(int fd, short events, std::int64_t deadline) {
  pollfd poll_fd{.fd = fd, .events = events, .revents = 0};
  for (;;) {
    const auto left = (deadline - now_ns()) / 1'000'000;
    if (left <= 0) return ETIMEDOUT;
    const int ready = ::poll(&poll_fd, 1, static_cast<int>(left));
    if (ready > 0) return 0;
    if (ready < 0 && errno != EINTR) return errno;
  }
}

int send_all(int fd, std::span<const std::byte> bytes, std::int64_t deadline) {
  while (!bytes.empty()) {
    if (const int error = await(fd, POLLOUT, deadline); error != 0) return error;
    if (const int error = socket_error(fd); error != 0) return error;
    const auto n = send_some(fd, bytes);
    if (n < 0) return static_cast<int>(-n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return 0;
}

}  // namespace

int exchange(int fd, std::span<const std::byte> bytes, std::uint64_t want,
             std::int64_t timeout_ns) {
  const auto deadline = now_ns() + timeout_ns;
  if (const int error = send_all(fd, bytes, deadline); error != 0) return error;
  while (want > 0) {
    if (const int error = await(fd, POLLIN, deadline); error != 0) return error;
    const auto n = discard_some(fd);
    if (n < 0) return static_cast<int>(-n);
    want -= static_cast<std::uint64_t>(n);
  }
  return 0;
}

std::vector<std::byte> first_bytes(const Options& options, Mode mode) {
  Hello hello;
  hello.mode = mode;
  hello.request = options.request;
  hello.response = options.response;
  const bool asks = mode == Mode::kAnswer || mode == Mode::kAnswerClose;
  std::vector<std::byte> bytes(sizeof hello + (asks ? options.request : 0));
  std::memcpy(bytes.data(), &hello, sizeof hello);
  return bytes;
}

Fd open_with_hello(const Options& options, Mode mode) {
  Fd fd = start_connect(options.to);
  const int error = send_all(fd.get(), first_bytes(options, mode), now_ns() + kPatience);
  if (error != 0) die("opening a stream", error);
  return fd;
}

std::vector<Fd> open_answered(const Options& options) {
  const auto first = first_bytes(options, Mode::kAnswer);
  std::vector<Fd> opened;
  for (int i = 0; i < options.connections; ++i) {
    opened.push_back(start_connect(options.to));
    const int error = exchange(opened.back().get(), first, options.response, kPatience);
    if (error != 0) die("the first request of a connection", error);
  }
  return opened;
}

}  // namespace meshnode::bench
