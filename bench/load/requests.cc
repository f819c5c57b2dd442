#include <sys/epoll.h>
#include <unistd.h>

#include <cstdio>
#include <deque>
#include <random>

#include "client.h"
#include "peer.h"
#include "window.h"

namespace meshnode::bench {
namespace {

constexpr std::int64_t kTurn = 20'000'000;
constexpr std::int64_t kPatience = 10'000'000'000;

/// Kept connections with at most one request in flight on each.
class Kept {
 public:
  explicit Kept(const Options& options)
      : fds_(open_answered(options)),
        request_(options.request),
        response_(options.response),
        missing_(fds_.size()),
        intended_(fds_.size()) {
    for (std::size_t i = 0; i < fds_.size(); ++i) poller_.add(fds_[i].get(), i, EPOLLIN);
  }

  std::size_t size() const { return fds_.size(); }
  Poller& poller() { return poller_; }

  void ask(std::size_t i, std::int64_t intended) {
    intended_[i] = intended;
    missing_[i] = response_;
    const auto n = send_some(fds_[i].get(), request_);
    if (n < 0) die("sending a request", static_cast<int>(-n));
    // A request fits any socket's buffer when nothing else is in flight on it.
    if (static_cast<std::size_t>(n) != request_.size()) die("sending a request", EMSGSIZE);
  }

  /// True when connection `i` has its whole answer; `intended` is then when it was asked for.
  bool answered(std::size_t i, std::int64_t& intended) {
    const auto n = discard_some(fds_[i].get());
    if (n < 0) die("awaiting an answer", static_cast<int>(-n));
    missing_[i] -= static_cast<std::uint64_t>(n);
    intended = intended_[i];
    return n > 0 && missing_[i] == 0;
  }

 private:
  std::vector<Fd> fds_;
  std::vector<std::byte> request_;
  std::uint64_t response_;
  std::vector<std::uint64_t> missing_;
  std::vector<std::int64_t> intended_;
  Poller poller_;
};

/// Arrivals at a constant rate, each moved by up to half a gap: exact spacing would fall in step
/// with timers and with the other side's own rhythm.
class Schedule {
 public:
  Schedule(double rate, std::int64_t start) : gap_(1e9 / rate), slot_(static_cast<double>(start)) {
    advance();
  }
  std::int64_t next() const { return next_; }
  void advance() {
    next_ = static_cast<std::int64_t>(slot_ + jitter_(random_) * gap_);
    slot_ += gap_;
  }

 private:
  double gap_;
  double slot_;
  std::int64_t next_ = 0;
  std::minstd_rand random_{1};
  std::uniform_real_distribution<double> jitter_{0, 1};
};

}  // namespace

void saturate(const Options& options) {
  Kept kept(options);
  Window window(options.watched, options.warmup, options.seconds);
  for (std::size_t i = 0; i < kept.size(); ++i) kept.ask(i, now_ns());
  while (window.open_at(now_ns())) {
    kept.poller().wait(kTurn, [&](std::uint64_t i, std::uint32_t) {
      std::int64_t intended = 0;
      if (!kept.answered(i, intended)) return;
      const auto now = now_ns();
      window.record(intended, now);
      kept.ask(i, now);
    });
  }
  window.print("requests");
}

void constant_rate(const Options& options) {
  Kept kept(options);
  std::deque<std::size_t> idle;
  for (std::size_t i = 0; i < kept.size(); ++i) idle.push_back(i);
  std::deque<std::int64_t> late;  // due, but every connection is busy
  Window window(options.watched, options.warmup, options.seconds);
  Schedule schedule(options.rate, now_ns());
  auto now = now_ns();
  while (window.open_at(now)) {
    for (; schedule.next() <= now; schedule.advance()) late.push_back(schedule.next());
    for (; !late.empty() && !idle.empty(); late.pop_front(), idle.pop_front()) {
      kept.ask(idle.front(), late.front());
    }
    now = now_ns();
    const auto until = std::max<std::int64_t>(schedule.next() - now, 0);
    kept.poller().wait(std::min(until, kTurn), [&](std::uint64_t i, std::uint32_t) {
      std::int64_t intended = 0;
      if (!kept.answered(i, intended)) return;
      window.record(intended, now_ns());
      idle.push_back(i);
    });
    now = now_ns();
  }
  window.print("requests");
}

void hold(const Options& options) {
  const auto held = open_answered(options);
  std::printf("{\"held\":%zu}\n", held.size());
  std::fflush(stdout);
  char ignored = 0;
  while (::read(STDIN_FILENO, &ignored, 1) > 0) continue;
  const std::vector<std::byte> request(options.request);
  for (const auto& fd : held) {
    const int error = exchange(fd.get(), request, options.response, kPatience);
    if (error != 0) die("a held connection no longer answers", error);
  }
  std::printf("{\"answered\":%zu}\n", held.size());
}

void probe(const Options& options) {
  const auto first = first_bytes(options, Mode::kAnswer);
  const auto deadline = now_ns() + static_cast<std::int64_t>(options.seconds * 1e9);
  int error = ETIMEDOUT;
  while (now_ns() < deadline) {
    const Fd fd = start_connect(options.to);
    error = exchange(fd.get(), first, options.response, deadline - now_ns());
    if (error == 0) return;
    ::usleep(20'000);
  }
  die("no answer to a first request", error);
}

}  // namespace meshnode::bench
