#pragma once
/// One end of the channel between supervisor and worker on a loop: framed messages over a
/// connected AF_UNIX stream socket, descriptors along with a message by SCM_RIGHTS.

#include <meshnode/result.h>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/watch.h"
#include "supervisor/descriptor.h"
#include "supervisor/frame.h"

namespace meshnode::io {
class Loop;
}

namespace meshnode::supervisor {

/// Two connected ends, non-blocking and close-on-exec.
Result<std::pair<Descriptor, Descriptor>> make_channel();

class Channel {
 public:
  /// Octets waiting for a reader that does not read; more, and the channel counts as broken.
  static constexpr std::size_t kMaxQueued = 2 * (kMaxFrame + kFrameHeader);

  /// Descriptors waiting likewise; one that does not fit is an error, and the channel lives on.
  static constexpr std::size_t kMaxQueuedDescriptors = 64;

  enum class Descriptors { kRefuse, kAccept };

  struct Callbacks {
    /// The descriptors that came with the message; empty under kRefuse, where the kernel drops
    /// them before they exist in this process.
    std::function<void(std::string body, std::vector<Descriptor> descriptors)> on_message;
    /// The other end is gone or broke the protocol, or the queue is full. Nothing comes after it.
    std::function<void(Error why)> on_closed;
  };

  /// Callbacks come on the loop; they may destroy anything but the channel.
  Channel(io::Loop& loop, Descriptor socket, Descriptors descriptors, Callbacks callbacks);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  /// Queues and sends. The descriptors stay the caller's: copies travel. A body beyond kMaxFrame,
  /// everything on a closed channel, and what no descriptor is left for, is dropped with an error.
  Status send(std::string_view body, std::span<const int> descriptors = {});

 private:
  struct Outgoing {
    std::string bytes;
    std::size_t sent = 0;
    std::vector<Descriptor> descriptors;  // they go with the first octet
  };

  void read();
  void deliver();
  void flush();
  void wait_until_writable();
  void close(Error why);

  io::Loop& loop_;
  Descriptor socket_;
  Descriptors accepts_;
  Callbacks callbacks_;
  FrameDecoder decoder_;
  std::deque<Descriptor> received_;  // of messages that are not whole yet
  std::deque<Outgoing> queue_;
  std::size_t queued_ = 0;
  std::size_t queued_descriptors_ = 0;
  bool closed_ = false;
  Error broken_;  // why send() gave up; reported by the reading side, which sees the hang-up
  Descriptor writable_epoll_;
  std::unique_ptr<io::FdWatch> writable_;
  std::unique_ptr<io::FdWatch> readable_;
};

}  // namespace meshnode::supervisor
