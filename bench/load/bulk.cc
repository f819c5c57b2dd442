#include <sys/epoll.h>

#include <array>
#include <cstdio>
#include <cstdlib>

#include "client.h"
#include "hello.h"
#include "peer.h"
#include "sockets.h"
#include "window.h"

namespace meshnode::bench {
namespace {

constexpr std::size_t kChunk = 128U << 10U;
constexpr std::int64_t kTurn = 20'000'000;
constexpr std::array<std::byte, kChunk> kPayload{};

}  // namespace

void bulk(const Options& options) {
  const Mode mode = options.download ? Mode::kSource : Mode::kSink;
  std::vector<Fd> streams;
  Poller poller;
  for (int i = 0; i < options.connections; ++i) {
    streams.push_back(open_with_hello(options, mode));
    poller.add(streams.back().get(), static_cast<std::uint64_t>(i),
               options.download ? EPOLLIN : EPOLLOUT);
  }
  Window window(options.watched, options.warmup, options.seconds);
  while (window.open_at(now_ns())) {
    poller.wait(kTurn, [&](std::uint64_t tag, std::uint32_t) {
      const int fd = streams[tag].get();
      const auto n = options.download ? discard_some(fd) : send_some(fd, kPayload);
      if (n < 0) die("bulk stream", static_cast<int>(-n));
      window.count(static_cast<std::uint64_t>(n));
    });
  }
  // What is still queued must not run into the next measurement.
  for (const auto& stream : streams) abort_on_close(stream.get());
  window.print("bytes");
}

}  // namespace meshnode::bench
