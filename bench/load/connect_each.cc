#include <sys/epoll.h>

#include <cerrno>

#include "client.h"
#include "peer.h"
#include "window.h"

namespace meshnode::bench {
namespace {

constexpr std::int64_t kTurn = 20'000'000;

/// One lane at a time has one connection: connect, ask, read the answer and the end, again.
class Lanes {
 public:
  Lanes(const Options& options, Window& window)
      : options_(options),
        window_(window),
        first_(first_bytes(options, Mode::kAnswerClose)),
        lanes_(static_cast<std::size_t>(options.connections)) {
    for (std::size_t i = 0; i < lanes_.size(); ++i) begin(i);
  }

  void turn() {
    poller_.wait(kTurn, [this](std::uint64_t tag, std::uint32_t) {
      Lane& lane = lanes_[tag];
      const bool live = lane.asked ? receive(lane) : ask(lane, tag);
      if (!live) begin(tag);
    });
  }

  void stop() {
    for (auto& lane : lanes_) abort_on_close(lane.fd.get());
  }

 private:
  struct Lane {
    Fd fd;
    std::int64_t began = 0;
    std::uint64_t missing = 0;
    bool asked = false;
  };

  void begin(std::size_t i) {
    Lane& lane = lanes_[i];
    lane.began = now_ns();
    lane.missing = options_.response;
    lane.asked = false;
    lane.fd = start_connect(options_.to);
    poller_.add(lane.fd.get(), i, EPOLLOUT);
  }

  /// False when this connection is over, well or not.
  bool ask(Lane& lane, std::uint64_t tag) {
    const auto n = send_some(lane.fd.get(), first_);
    if (n != static_cast<std::int64_t>(first_.size())) {
      window_.failed();
      abort_on_close(lane.fd.get());
      return false;
    }
    lane.asked = true;
    poller_.change(lane.fd.get(), tag, EPOLLIN);
    return true;
  }

  bool receive(Lane& lane) {
    const auto n = discard_some(lane.fd.get());
    if (n >= 0) {
      lane.missing -= static_cast<std::uint64_t>(n);
      if (n > 0 && lane.missing == 0) window_.record(lane.began, now_ns());
      return true;
    }
    // The answer's latency ends with its last byte; the lane goes on when the end has arrived, so
    // that the server is always the side that closes first.
    if (n != -EPIPE || lane.missing != 0) window_.failed();
    return false;
  }

  const Options& options_;
  Window& window_;
  std::vector<std::byte> first_;
  std::vector<Lane> lanes_;
  Poller poller_;
};

}  // namespace

void connect_each(const Options& options) {
  Window window(options.watched, options.warmup, options.seconds);
  Lanes lanes(options, window);
  while (window.open_at(now_ns())) lanes.turn();
  lanes.stop();
  window.print("requests");
}

}  // namespace meshnode::bench
