#pragma once
/// The few socket and clock calls the load tool needs. A call that fails for a reason of ours ends
/// the program with a message; what the other end did is returned.

#include <netinet/in.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace meshnode::bench {

[[noreturn]] void die(const char* what, int error);

std::int64_t now_ns();  ///< CLOCK_MONOTONIC

/// A descriptor that closes itself. Value: move only.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { reset(); }
  int get() const { return fd_; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

sockaddr_in parse_address(const std::string& text);  ///< "10.0.0.1:80"
Fd listen_on(std::uint16_t port);
Fd start_connect(const sockaddr_in& to);  ///< non-blocking, TCP_NODELAY
int socket_error(int fd);                 ///< SO_ERROR, taken
void abort_on_close(int fd);              ///< close() will send RST: nothing lingers in a queue

/// Bytes moved, 0 for "would block", -errno for a failure. A read's end of stream is -EPIPE.
std::int64_t send_some(int fd, std::span<const std::byte> data);
std::int64_t receive_some(int fd, std::span<std::byte> into);
std::int64_t discard_some(int fd);  ///< as receive_some, without copying the bytes out

class Poller {
 public:
  Poller();
  void add(int fd, std::uint64_t tag, std::uint32_t events) const;
  void change(int fd, std::uint64_t tag, std::uint32_t events) const;
  /// Calls `on_event(tag, events)` for what is ready within `timeout_ns`; below 0 waits for ever.
  template <typename OnEvent>
  void wait(std::int64_t timeout_ns, OnEvent&& on_event) {
    const int count = wait_raw(timeout_ns);
    for (int i = 0; i < count; ++i) on_event(tag_at(i), events_at(i));
  }

 private:
  int wait_raw(std::int64_t timeout_ns);
  std::uint64_t tag_at(int i) const;
  std::uint32_t events_at(int i) const;
  Fd epoll_;
};

}  // namespace meshnode::bench
