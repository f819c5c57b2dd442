#include "server.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>
#include <unordered_map>
#include <vector>

#include "hello.h"
#include "sockets.h"

namespace meshnode::bench {
namespace {

constexpr std::size_t kChunk = 128U << 10U;
constexpr int kAcceptsAtOnce = 64;

class Server {
 public:
  explicit Server(std::uint16_t port) : listener_(listen_on(port)), scratch_(kChunk) {
    poller_.add(listener_.get(), 0, EPOLLIN);
  }

  void run() {
    for (;;) {
      poller_.wait(-1, [this](std::uint64_t tag, std::uint32_t events) {
        if (tag == 0) {
          accept_some();
        } else if (!serve(*reinterpret_cast<Connection*>(tag), events)) {
          connections_.erase(reinterpret_cast<Connection*>(tag));
        }
      });
    }
  }

 private:
  struct Connection {
    Fd fd;
    Hello hello;
    std::size_t hello_bytes = 0;
    std::uint64_t asked = 0;  ///< request bytes not yet answered
    std::uint64_t owed = 0;   ///< response bytes not yet sent
    bool waits_to_write = false;
    bool closed_ours = false;
  };

  void accept_some() {
    for (int i = 0; i < kAcceptsAtOnce; ++i) {
      Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (fd.get() < 0) return;
      auto connection = std::make_unique<Connection>();
      connection->fd = std::move(fd);
      auto* key = connection.get();
      poller_.add(key->fd.get(), reinterpret_cast<std::uint64_t>(key), EPOLLIN);
      connections_.emplace(key, std::move(connection));
    }
  }

  /// False when the connection is over.
  bool serve(Connection& c, std::uint32_t events) {
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !read(c)) return false;
    if ((events & EPOLLOUT) != 0 || c.owed > 0) return write(c);
    return true;
  }

  bool read(Connection& c) {
    if (c.hello_bytes == sizeof(Hello) && c.hello.mode == Mode::kSink) {
      return discard_some(c.fd.get()) >= 0;
    }
    const auto got = receive_some(c.fd.get(), scratch_);
    if (got <= 0) return got == 0;
    std::span<const std::byte> data(scratch_.data(), static_cast<std::size_t>(got));
    if (c.hello_bytes < sizeof(Hello)) {
      const auto take = std::min(data.size(), sizeof(Hello) - c.hello_bytes);
      std::memcpy(reinterpret_cast<std::byte*>(&c.hello) + c.hello_bytes, data.data(), take);
      c.hello_bytes += take;
      data = data.subspan(take);
      if (c.hello_bytes < sizeof(Hello)) return true;
      if (!valid(c.hello)) return false;
      if (c.hello.mode == Mode::kSource) c.owed = ~std::uint64_t{0};
    }
    if (c.hello.mode == Mode::kSink || c.hello.mode == Mode::kSource) return true;
    c.asked += data.size();
    while (c.asked >= c.hello.request) {
      c.asked -= c.hello.request;
      c.owed += c.hello.response;
    }
    return true;
  }

  bool write(Connection& c) {
    // One chunk a turn, so that bulk streams share the loop evenly.
    const auto chunk = std::min<std::uint64_t>(c.owed, kChunk);
    const auto sent = chunk == 0 ? 0 : send_some(c.fd.get(), std::span(payload_).first(chunk));
    if (sent < 0) return false;
    if (c.hello.mode != Mode::kSource) c.owed -= static_cast<std::uint64_t>(sent);
    if (c.owed == 0 && c.hello.mode == Mode::kAnswerClose && !c.closed_ours) {
      c.closed_ours = true;
      ::shutdown(c.fd.get(), SHUT_WR);
    }
    const bool wait = c.owed > 0;
    if (wait != c.waits_to_write) {
      c.waits_to_write = wait;
      poller_.change(c.fd.get(), reinterpret_cast<std::uint64_t>(&c),
                     wait ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
    return true;
  }

  Poller poller_;
  Fd listener_;
  std::vector<std::byte> scratch_;
  std::array<std::byte, kChunk> payload_{};
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
};

}  // namespace

void serve(std::uint16_t port) { std::make_unique<Server>(port)->run(); }

}  // namespace meshnode::bench
