#include "sockets.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>

namespace meshnode::bench {
namespace {

constexpr std::size_t kDiscardAtOnce = 1U << 20U;
constexpr int kEvents = 256;
thread_local std::array<epoll_event, kEvents> ready;

std::int64_t moved(ssize_t result, bool reading) {
  if (result > 0) return result;
  if (result == 0) return reading ? -EPIPE : 0;
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return 0;
  return -errno;
}

void set_nodelay(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

void die(const char* what, int error) {
  std::fprintf(stderr, "load: %s: %s\n", what, std::strerror(error));
  std::exit(1);
}

std::int64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int Fd::release() { return std::exchange(fd_, -1); }

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

sockaddr_in parse_address(const std::string& text) {
  const auto colon = text.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (colon == std::string::npos ||
      inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr) != 1) {
    std::fprintf(stderr, "load: %s: not an IPv4 address and port\n", text.c_str());
    std::exit(2);
  }
  address.sin_port =
      htons(static_cast<std::uint16_t>(std::strtoul(text.c_str() + colon + 1, nullptr, 10)));
  return address;
}

Fd listen_on(std::uint16_t port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) die("socket", errno);
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  set_nodelay(fd.get());  // accepted sockets inherit it
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    die("bind", errno);
  }
  if (::listen(fd.get(), 4096) != 0) die("listen", errno);
  return fd;
}

Fd start_connect(const sockaddr_in& to) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) die("socket", errno);
  set_nodelay(fd.get());
  const auto* address = reinterpret_cast<const sockaddr*>(&to);
  if (::connect(fd.get(), address, sizeof to) != 0 && errno != EINPROGRESS) die("connect", errno);
  return fd;
}

int socket_error(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

void abort_on_close(int fd) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

std::int64_t send_some(int fd, std::span<const std::byte> data) {
  return moved(::send(fd, data.data(), data.size(), MSG_NOSIGNAL), false);
}

std::int64_t receive_some(int fd, std::span<std::byte> into) {
  return moved(::recv(fd, into.data(), into.size(), 0), true);
}

std::int64_t discard_some(int fd) {
  return moved(::recv(fd, nullptr, kDiscardAtOnce, MSG_TRUNC), true);
}

Poller::Poller() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (epoll_.get() < 0) die("epoll_create1", errno);
}

void Poller::add(int fd, std::uint64_t tag, std::uint32_t events) const {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) die("epoll_ctl add", errno);
}

void Poller::change(int fd, std::uint64_t tag, std::uint32_t events) const {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) die("epoll_ctl mod", errno);
}

int Poller::wait_raw(std::int64_t timeout_ns) {
  // epoll_pwait2: a millisecond is too coarse a clock for a constant rate.
  timespec limit{};
  limit.tv_sec = timeout_ns / 1'000'000'000;
  limit.tv_nsec = timeout_ns % 1'000'000'000;
  const int count = ::epoll_pwait2(epoll_.get(), ready.data(), kEvents,
                                   timeout_ns < 0 ? nullptr : &limit, nullptr);
  if (count < 0 && errno != EINTR) die("epoll_pwait2", errno);
  return count < 0 ? 0 : count;
}

std::uint64_t Poller::tag_at(int i) const { return ready[static_cast<std::size_t>(i)].data.u64; }

std::uint32_t Poller::events_at(int i) const { return ready[static_cast<std::size_t>(i)].events; }

}  // namespace meshnode::bench
