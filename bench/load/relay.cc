#include "relay.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "sockets.h"

namespace meshnode::bench {
namespace {

constexpr std::size_t kPiece = 256U << 10U;
constexpr int kAcceptsAtOnce = 64;

class Relay {
 public:
  Relay(std::uint16_t port, const sockaddr_in& to)
      : to_(to), listener_(listen_on(port)), scratch_(kPiece) {
    poller_.add(listener_.get(), 0, EPOLLIN);
  }

  void run() {
    for (;;) {
      poller_.wait(-1, [this](std::uint64_t tag, std::uint32_t events) {
        if (tag == 0) {
          accept_some();
          return;
        }
        auto& end = *reinterpret_cast<End*>(tag);
        // An event for the other end of a pair that went in this very turn.
        if (!ended_.contains(end.pair) && !serve(end, events)) ended_.insert(end.pair);
      });
      for (Pair* pair : ended_) pairs_.erase(pair);
      ended_.clear();
    }
  }

 private:
  struct Pair;
  struct End {
    Fd fd;
    Pair* pair = nullptr;
    std::vector<std::byte> unsent;  ///< to this end, what its socket did not take
    std::size_t sent = 0;
    bool closed = false;  ///< it sends no more
    std::uint32_t interest = 0;
  };
  struct Pair {
    std::array<End, 2> ends;
  };

  static End& other(End& end) {
    auto& ends = end.pair->ends;
    return &end == &ends[0] ? ends[1] : ends[0];
  }

  void accept_some() {
    for (int i = 0; i < kAcceptsAtOnce; ++i) {
      Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (fd.get() < 0) return;
      auto pair = std::make_unique<Pair>();
      pair->ends[0].fd = std::move(fd);
      pair->ends[1].fd = start_connect(to_);
      for (End& end : pair->ends) {
        end.pair = pair.get();
        end.interest = EPOLLIN;
        poller_.add(end.fd.get(), reinterpret_cast<std::uint64_t>(&end), EPOLLIN);
      }
      pairs_.emplace(pair.get(), std::move(pair));
    }
  }

  /// False when the pair is over.
  bool serve(End& end, std::uint32_t events) {
    if ((events & EPOLLOUT) != 0 && !flush(end)) return false;
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return true;
    End& to = other(end);
    if (!to.unsent.empty() || end.closed) return (events & EPOLLERR) == 0;
    const auto got = receive_some(end.fd.get(), scratch_);
    if (got < 0) {
      end.closed = true;
      want(end, 0);
      if (got != -EPIPE || to.closed) return false;
      ::shutdown(to.fd.get(), SHUT_WR);
      return true;
    }
    const std::span<const std::byte> data(scratch_.data(), static_cast<std::size_t>(got));
    const auto sent = data.empty() ? 0 : send_some(to.fd.get(), data);
    if (sent < 0) return false;
    if (static_cast<std::size_t>(sent) < data.size()) {
      to.unsent.assign(data.begin() + sent, data.end());
      to.sent = 0;
      want(to, to.closed ? EPOLLOUT : EPOLLIN | EPOLLOUT);
      want(end, 0);
    }
    return true;
  }

  bool flush(End& end) {
    const auto left = std::span<const std::byte>(end.unsent).subspan(end.sent);
    const auto sent = left.empty() ? 0 : send_some(end.fd.get(), left);
    if (sent < 0) return false;
    end.sent += static_cast<std::size_t>(sent);
    if (end.sent < end.unsent.size()) return true;
    end.unsent.clear();
    want(end, end.closed ? 0U : static_cast<std::uint32_t>(EPOLLIN));
    if (!other(end).closed) want(other(end), EPOLLIN);
    return true;
  }

  void want(End& end, std::uint32_t events) {
    if (end.interest == events) return;
    end.interest = events;
    poller_.change(end.fd.get(), reinterpret_cast<std::uint64_t>(&end), events);
  }

  sockaddr_in to_;
  Poller poller_;
  Fd listener_;
  std::vector<std::byte> scratch_;
  std::unordered_map<Pair*, std::unique_ptr<Pair>> pairs_;
  std::unordered_set<Pair*> ended_;  // in this turn
};

}  // namespace

void relay(std::uint16_t port, const sockaddr_in& to) { std::make_unique<Relay>(port, to)->run(); }

}  // namespace meshnode::bench
