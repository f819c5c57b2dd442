#pragma once
/// HBONE's HTTP/2 layer over memory (RFC 9113, CONNECT of §8.5): plaintext in, plaintext out, one
/// HboneStream a tunnelled connection. No socket, TLS, clock or thread of its own.
///
/// Windows: 4 MiB a stream, 16 MiB a connection; credit returns only for bytes the other side has
/// taken, so a slow receiver holds at most that much. Frames of up to 1 MiB are accepted.

#include <meshnode/result.h>
#include <meshnode/transport.h>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "proxy/frame_scan.h"
#include "telemetry/agent_metrics.h"

struct nghttp2_session;

namespace meshnode::proxy {

enum class Role { kClient, kServer };

inline constexpr std::uint32_t kStreamWindow = 4U << 20U;
inline constexpr std::int32_t kConnectionWindow = 16 << 20;
/// The connection's window is given back in pieces of this size: nghttp2 by itself waits for half
/// of it, and three streams that nobody reads would keep that from ever coming.
inline constexpr std::size_t kConnectionCredit = std::size_t{1} << 20U;
inline constexpr std::uint32_t kMaxFrame = 1U << 20U;
inline constexpr std::uint32_t kMaxStreamsIn = 200;
inline constexpr std::uint32_t kMaxStreamsOut = 100;
inline constexpr std::uint32_t kMaxHeaderList = 16U << 10U;
/// CONTINUATION frames of one header list.
inline constexpr std::size_t kMaxContinuations = 8;
/// DATA payloads are cut so that header (9 octets) and payload fill whole TLS records.
inline constexpr std::size_t kMaxPayload = std::size_t{16} * 16'384 - 9;

/// The header fields of a CONNECT that HBONE gives a meaning to; the rest is ignored.
struct ConnectRequest {
  std::string authority;
  std::string forwarded;
  std::string baggage;
  std::string traceparent;
};

class HboneSession;

/// Hears whether a CONNECT was accepted. Either event comes once, then no other.
class ConnectEvents {
 public:
  virtual ~ConnectEvents() = default;
  /// 200: the stream carries bytes from here on.
  virtual void on_connect_accepted() = 0;
  /// Any other status (`status` set), a reset, or a lost tunnel (0). `unprocessed`: the peer has
  /// certainly done nothing with it, so it may be tried again elsewhere (RFC 9113 §8.7).
  virtual void on_connect_refused(int status, bool unprocessed, const Error& error) = 0;
};

/// One tunnelled connection as a byte stream. shutdown() sends END_STREAM and queued() counts it
/// until it has left; reset() sends RST_STREAM(CONNECT_ERROR). Outlives the session safely.
/// start_reading() may deliver at once what arrived meanwhile.
class HboneStream final : public Stream {
 public:
  ~HboneStream() override;
  HboneStream(const HboneStream&) = delete;
  HboneStream& operator=(const HboneStream&) = delete;

  void set_events(StreamEvents* events) override { events_ = events; }
  void start_reading() override;
  void stop_reading() override { reading_ = false; }
  void write(std::span<const Bytes> pieces) override;
  void forward(MutableBytes data) override;
  std::size_t queued() const override;
  std::size_t unread() const override { return inbox_bytes_; }
  void shutdown() override;
  void reset() override;
  SocketAddress local_address() const override { return {}; }
  SocketAddress peer_address() const override { return {}; }
  std::optional<SocketAddress> original_destination() const override { return std::nullopt; }

  /// Memory of what waits to be sent: at most twice queued(), and a little.
  std::size_t send_buffer() const { return waiting_.capacity(); }
  /// Server only: 200 opens the stream for bytes, anything else ends it.
  void respond(int status);

 private:
  friend class HboneSession;
  explicit HboneStream(HboneSession* session) : session_(session) {}

  Bytes sendable() const;
  void kick();
  void receive(MutableBytes data);
  void receive_end();
  void deliver();
  void keep(Bytes data);
  void return_credit();
  void end_with(const Error& error, bool unprocessed);

  HboneSession* session_;
  std::int32_t id_ = -1;
  StreamEvents* events_ = nullptr;
  ConnectEvents* connect_events_ = nullptr;
  MutableBytes view_;                  // borrowed from forward()'s caller, during the call only
  std::vector<std::uint8_t> waiting_;  // kReadHeadroom bytes, then what could not be sent yet
  std::size_t waiting_at_ = 0;         // start of the unsent part
  // Arrived while reading was off; bounded by the window. Chunks, each with its headroom: one
  // growing buffer would take twice the memory.
  std::deque<std::vector<std::uint8_t>> inbox_;
  std::size_t inbox_bytes_ = 0;
  std::size_t owed_ = 0;       // window credit held back
  std::optional<Error> lost_;  // what ended it before anybody listened
  bool reading_ = false;
  bool delivering_ = false;
  bool shut_ = false;
  bool end_sent_ = false;
  bool end_received_ = false;
  bool end_delivered_ = false;
  bool was_queued_ = false;
  bool offended_ = false;  // nghttp2 reset it: the peer broke the rules on it
  bool closed_ = false;    // by nghttp2; nothing can be sent or reset any more
  // A request's headers while they arrive (server), the response's status (client).
  ConnectRequest request_;
  std::string method_;
  std::size_t header_bytes_ = 0;  // each field's name and value, and 32 (RFC 9113 §6.5.2)
  int status_ = 0;
};

/// What a session asks of the tunnel around it.
class HboneEvents {
 public:
  virtual ~HboneEvents() = default;
  /// Whether more output is welcome now; if not, call pump() when it is again.
  virtual bool writable() const = 0;
  /// Plaintext for the peer: one or more whole frames. Borrowed; may be overwritten.
  virtual void on_output(MutableBytes frames) = 0;
  /// Something is ready to go: call pump() soon, once for all that comes up meanwhile.
  virtual void on_output_waiting() = 0;
  /// The end of a burst of on_output().
  virtual void on_output_done() = 0;
  /// Server only: a well-formed CONNECT.
  virtual void on_connect(std::unique_ptr<HboneStream> stream, ConnectRequest request) = 0;
  /// Server only: something that is no CONNECT; it has been answered.
  virtual void on_malformed(const std::string& reason) = 0;
  /// The peer went beyond a limit: its request has been answered 503, its stream reset, or the
  /// session is ending for it.
  virtual void on_excess(telemetry::Limit limit, const std::string& reason) = 0;
  /// A limit that is an offence against HTTP/2 to exceed: to be counted, the offence is told apart.
  virtual void on_limit_hit(telemetry::Limit limit) = 0;
  virtual void on_ping_answered() = 0;
  /// A RST_STREAM was sent or received.
  virtual void on_reset_counted() = 0;
  /// The peer sent a frame that carries nothing, more than the traffic before it accounts for.
  virtual void on_idle_frame() = 0;
  /// The number of open streams, or the peer's willingness to take more, has changed.
  virtual void on_streams_changed() = 0;
};

class HboneSession {
 public:
  HboneSession(Role role, HboneEvents* events);
  ~HboneSession();
  HboneSession(const HboneSession&) = delete;
  HboneSession& operator=(const HboneSession&) = delete;

  /// Plaintext from the peer, kReadHeadroom writable bytes before it. An error ends the session;
  /// an offence that is answered with GOAWAY shows in over() after the next pump().
  Status receive(MutableBytes data);
  /// A connection error or a completed GOAWAY has ended the session; after pump().
  bool over() const;
  /// Whether a stream has more to send or to receive; one that has neither may still be delivering.
  bool has_live_streams() const;
  /// What the peer did that ended the session: why it is over(), or receive() failed.
  const std::string& offence() const { return offence_; }
  /// It was a limit that the peer went beyond.
  bool overdone() const { return overdone_; }
  /// The peer's GOAWAY named an error: which one, and its words.
  const std::string& complaint() const { return complaint_; }
  /// Header fields have begun to arrive and are not complete: which ones, from 1; else 0.
  std::uint64_t open_headers() const { return scan_.open_headers(); }
  /// Something waits for pump(), but for what flow control holds back.
  bool wants_write() const;
  /// Puts out what is ready, as long as the tunnel is writable.
  void pump();
  /// Client only. The events outlive the stream or are told first.
  std::unique_ptr<HboneStream> connect(const ConnectRequest& request, ConnectEvents* events);
  bool can_connect() const;
  /// The peer's SETTINGS have come: it speaks HTTP/2 and has said how many streams it takes.
  bool settled() const { return settled_; }
  /// They said 0.
  bool takes_none() const;
  std::size_t open_streams() const { return streams_.size(); }
  void ping();
  /// Announces the end: no new streams; those open live on (RFC 9113 §6.8, both steps).
  void announce_end();
  void refuse_new();
  /// GOAWAY ENHANCE_YOUR_CALM: the peer overdoes it; over() once that has left.
  void calm();
  bool calmed() const { return calmed_; }
  /// The peer has said GOAWAY ENHANCE_YOUR_CALM: a limit of its own is reached.
  bool told_to_calm() const { return told_to_calm_; }
  bool draining() const { return draining_; }
  /// Whether the peer has announced an orderly end since the last call.
  bool take_goodbye() { return std::exchange(goodbye_, false); }
  /// The tunnel is gone: every stream hears `error`.
  void abandon(const Error& error);

 private:
  friend class HboneStream;
  struct Callbacks;

  void count(Bytes data);
  void count_following();
  void credit(std::uint64_t frames);
  Status broken(int code);
  void note_offence(std::uint32_t code, std::string_view words);
  void note_complaint(std::uint32_t code, std::string_view words);
  void gather();
  void put_data(const HboneStream& stream, const std::uint8_t* frame_header, std::size_t size);
  void hold(std::size_t size) { held_ += size; }
  void release(std::size_t size);
  void stage(Bytes frame);
  void flush_stage();
  void notify_drained();
  int too_long(const HboneStream& stream);
  void request_complete(HboneStream& stream);
  void response_complete(HboneStream& stream);
  void closed(std::int32_t id, std::uint32_t code);
  void detach(HboneStream& stream);
  void submit_response(HboneStream& stream, int status);
  HboneStream* find(std::int32_t id) const;

  Role role_;
  HboneEvents* events_;
  nghttp2_session* session_ = nullptr;
  std::unordered_map<std::int32_t, HboneStream*> streams_;
  std::unordered_map<std::int32_t, std::unique_ptr<HboneStream>> arriving_;
  std::size_t incoming_ = 0;  // as nghttp2 counts them: refused ones too, until the peer ends them
  std::string last_error_;    // nghttp2's words on the last thing the peer did wrong
  std::string offence_;
  std::string complaint_;
  FrameScan scan_;
  std::uint64_t idle_credit_ = 0;  // frames without content that traffic has paid for
  std::vector<std::uint8_t> stage_;
  std::vector<std::int32_t> drained_;
  std::size_t held_ = 0;  // received, not yet taken: the sum of all owed_
  int gathered_ = 0;      // small writes since the last pump()
  bool receiving_ = false;
  bool pumping_ = false;
  bool pump_again_ = false;
  bool draining_ = false;
  bool goodbye_ = false;
  bool calmed_ = false;
  bool told_to_calm_ = false;
  bool overdone_ = false;
  bool settled_ = false;  // the peer's SETTINGS have come
};

}  // namespace meshnode::proxy
