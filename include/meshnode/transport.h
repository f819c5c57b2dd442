#pragma once
/// Seam: the network, as byte streams. The product's is on libuv (io/network.h), tests and the
/// simulator bring their own. Thread: everything belongs to the loop it came from.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <meshnode/address.h>
#include <meshnode/bytes.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <optional>

namespace meshnode {

/// Bytes before Stream data that the receiver may overwrite: room for an HTTP/2 frame header
/// (RFC 9113 §4.1: 9 octets) so that a payload can be framed where it lies.
inline constexpr std::size_t kReadHeadroom = 16;

/// A writer that paused may go on once no more than this is queued: enough that the kernel never
/// runs dry meanwhile.
inline constexpr std::size_t kResumeBelow = std::size_t{256} * 1024;

/// What happens to one Stream. Handlers may destroy the stream only through Executor::retire() of
/// its owner. After on_error() nothing more is called.
class StreamEvents {
 public:
  virtual ~StreamEvents() = default;
  /// `data` is borrowed until the handler returns; it may be modified, also in the kReadHeadroom
  /// bytes before it.
  virtual void on_data(MutableBytes data) = 0;
  /// The peer will send no more (TCP FIN). The other direction stays open.
  virtual void on_end() = 0;
  /// ErrorCode::kReset for a TCP RST; the stream is dead in both directions.
  virtual void on_error(const Error& error) = 0;
  /// Some of what was queued has gone, and queued() is at most kResumeBelow; always once it is 0.
  virtual void on_drained() = 0;
};

/// A connected byte stream. Destroying it closes it: gracefully if shutdown() was called and
/// everything was sent, else as the kernel does.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void set_events(StreamEvents* events) = 0;
  /// Reading is off until the first call.
  virtual void start_reading() = 0;
  /// No on_data() or on_end() until start_reading() is called again; a reset is told all the same,
  /// soon, unless bytes came before it.
  virtual void stop_reading() = 0;
  /// Gives the kernel what it takes now and queues a copy of the rest; the caller bounds the
  /// queue by looking at queued().
  virtual void write(std::span<const Bytes> pieces) = 0;
  /// Like write(), for data as handed to on_data(): it may be overwritten, headroom included.
  virtual void forward(MutableBytes data) {
    const Bytes piece = data;
    write({&piece, 1});
  }
  virtual std::size_t queued() const = 0;
  /// Received already, and kept here while nobody reads.
  virtual std::size_t unread() const { return 0; }
  /// FIN after everything queued.
  virtual void shutdown() = 0;
  /// RST now; queued bytes are dropped.
  virtual void reset() = 0;
  virtual SocketAddress local_address() const = 0;
  virtual SocketAddress peer_address() const = 0;
  /// Where the connection was headed before a NAT rule steered it here (SO_ORIGINAL_DST);
  /// nothing when the kernel knows of no translation.
  virtual std::optional<SocketAddress> original_destination() const = 0;
};

class AcceptEvents {
 public:
  virtual ~AcceptEvents() = default;
  virtual void on_accept(std::unique_ptr<Stream> stream) = 0;
};

/// Accepts until destroyed. Never closes the descriptor it was given: the supervisor owns it.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void pause() = 0;
  virtual void resume() = 0;
};

struct DialOptions {
  SocketAddress to;
  /// In whose network namespace: the slot of a workload enrolled by one, 0 for the agent's own.
  std::uint16_t space = 0;
  /// Bind here first. An address that is not the host's needs `transparent`.
  std::optional<IpAddress> source;
  /// IP_TRANSPARENT, with a source port of our own choosing (design §6, source preservation).
  bool transparent = false;
  /// `to` is an address of the namespace itself. One that is not, or not any more, is an error and
  /// no way out, as the source is then `to`'s address, which it would be anyhow; not so with
  /// `transparent`, where the source is the caller's and the kernel is not asked whose `to` is.
  bool stays = false;
  Duration timeout = std::chrono::seconds(10);
};

class DialEvents {
 public:
  virtual ~DialEvents() = default;
  virtual void on_connected(std::unique_ptr<Stream> stream) = 0;
  virtual void on_dial_failed(const Error& error) = 0;
};

/// A connect in progress; destroying it cancels and nothing is called. Either event ends it.
class Dial {
 public:
  virtual ~Dial() = default;
};

class Network {
 public:
  virtual ~Network() = default;
  /// Every dialled socket carries our packet mark. The events never come before dial() returns.
  virtual std::unique_ptr<Dial> dial(const DialOptions& options, DialEvents* events) = 0;
  /// `descriptor` is a bound, listening, non-blocking socket that outlives the Listener.
  virtual Result<std::unique_ptr<Listener>> listen(int descriptor, AcceptEvents* events) = 0;
  /// No room for further connections: refuse what can be refused politely.
  virtual bool full() const { return false; }
};

}  // namespace meshnode
