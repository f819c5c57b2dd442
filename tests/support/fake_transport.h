#pragma once
/// A network in memory for tests: streams with bounded socket buffers, FIN, RST and refusals, all
/// delivered by a FakeLoop. It keeps the rules of <meshnode/transport.h> strictly and aborts where
/// code under test breaks them.
///
///   FakeLoop loop;
///   FakeNetwork network(loop);
///   int descriptor = network.bind({any, 15008});        // for Network::listen()
///   auto client = network.connect(descriptor, {from, to});
///   client->send("hello");
///   loop.run();
///   CHECK(client->received == "...");

#include <meshnode/transport.h>
#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "support/fake_clock.h"

namespace meshnode::test {

/// How much a socket takes and gives; applies to connections made afterwards.
struct SocketShape {
  std::size_t capacity = 256 * 1024;  ///< what the two socket buffers of a direction hold
  std::size_t max_read = 64 * 1024;   ///< the most one on_data() brings; 1: byte by byte
};

struct Ends {
  SocketAddress from;                     ///< the connecting end
  SocketAddress to;                       ///< the accepting end's local address
  std::optional<SocketAddress> original;  ///< what original_destination() says there
};

class FakeStream;

/// Both ends of one connection, shared by its streams and the tasks under way.
struct FakeConnection {
  struct End {
    FakeStream* stream = nullptr;
    SocketAddress local;
    SocketAddress peer;
    std::optional<SocketAddress> original;
    std::string inbox;   // in the socket buffers towards this end
    std::string outbox;  // queued by this end in user space
    bool finishing = false;
    bool end_seen = false;
    bool reading = false;
    bool closed = false;         // the stream was destroyed
    bool noticed = false;        // tell of `error` even when not reading
    bool watched = false;        // the same behind the last byte: stop_reading() was called
    bool dead = false;           // on_error() was called or reset() done
    std::optional<Error> error;  // not told yet
  };
  FakeLoop& loop;
  SocketShape shape;
  std::shared_ptr<std::size_t> open_streams;
  std::array<End, 2> ends;
};

class FakeStream final : public Stream {
 public:
  FakeStream(std::shared_ptr<FakeConnection> connection, std::size_t side)
      : connection_(std::move(connection)), side_(side) {
    own().stream = this;
    ++*connection_->open_streams;
  }
  FakeStream(const FakeStream&) = delete;
  FakeStream& operator=(const FakeStream&) = delete;

  ~FakeStream() override {
    if (in_callback_) broken_rule("a stream was destroyed in its own event without retire()");
    --*connection_->open_streams;
    own().stream = nullptr;
    own().closed = true;
    if (own().dead) return;
    // close(2): unread bytes make it a RST; bytes still in user space are lost; else a FIN.
    bool abortive = !own().inbox.empty() || !own().outbox.empty();
    own().outbox.clear();
    if (abortive) tell_reset();
    own().finishing = true;
    schedule(1 - side_);
  }

  void set_events(StreamEvents* events) override {
    events_ = events;
    schedule(side_);
  }
  void start_reading() override {
    own().reading = true;
    schedule(side_);
  }
  void stop_reading() override {
    own().reading = false;
    own().watched = true;
    schedule(side_);
  }

  void write(std::span<const Bytes> pieces) override {
    if (own().finishing) broken_rule("write() after shutdown()");
    if (own().dead) return;
    for (Bytes piece : pieces) own().outbox += as_text(piece);
    if (other().closed) {
      own().error = Error{ErrorCode::kReset, "connection reset by peer"};
      own().noticed = true;
      own().outbox.clear();
      schedule(side_);
      return;
    }
    if (fill(side_)) return;
    was_queued_ = true;
  }
  std::size_t queued() const override { return connection_->ends[side_].outbox.size(); }

  void shutdown() override {
    own().finishing = true;
    schedule(1 - side_);
  }
  void reset() override {
    own().dead = true;
    own().outbox.clear();
    own().inbox.clear();
    tell_reset();
  }

  SocketAddress local_address() const override { return connection_->ends[side_].local; }
  SocketAddress peer_address() const override { return connection_->ends[side_].peer; }
  std::optional<SocketAddress> original_destination() const override {
    return connection_->ends[side_].original;
  }

 private:
  FakeConnection::End& own() { return connection_->ends[side_]; }
  FakeConnection::End& other() { return connection_->ends[1 - side_]; }

  void tell_reset() {
    // Both FINs are through: there is no connection left to reset.
    bool over = own().finishing && own().outbox.empty() && other().finishing;
    if (over && other().outbox.empty()) return;
    other().error = Error{ErrorCode::kReset, "connection reset by peer"};
    other().outbox.clear();
    schedule(1 - side_);
  }

  void schedule(std::size_t side) {
    connection_->loop.post([connection = connection_, side] {
      if (FakeStream* stream = connection->ends[side].stream) stream->deliver();
    });
  }

  // Moves what fits from `side`'s queue into the socket buffers; true when the queue is empty.
  bool fill(std::size_t side) {
    auto& from = connection_->ends[side];
    auto& to = connection_->ends[1 - side];
    std::size_t room =
        connection_->shape.capacity - std::min(connection_->shape.capacity, to.inbox.size());
    std::size_t count = std::min(room, from.outbox.size());
    to.inbox.append(from.outbox, 0, count);
    from.outbox.erase(0, count);
    if (count > 0) schedule(1 - side);
    return from.outbox.empty();
  }

  template <class Call>
  void call(Call make) {
    in_callback_ = true;
    make();
    in_callback_ = false;
  }

  void deliver() {
    if (events_ == nullptr || own().dead) return;
    if (was_queued_ && own().outbox.empty() && !own().error) {
      was_queued_ = false;
      call([&] { events_->on_drained(); });
      schedule(side_);
      return;
    }
    if (own().reading && !own().inbox.empty()) return deliver_data();
    const bool watched = own().watched && own().inbox.empty();
    if (own().error && (own().reading || own().noticed || watched)) {
      own().dead = true;
      Error error = *std::exchange(own().error, std::nullopt);
      call([&] { events_->on_error(error); });
      return;
    }
    if (own().reading && !own().end_seen && other().finishing && other().outbox.empty()) {
      own().end_seen = true;
      call([&] { events_->on_end(); });
    }
  }

  void deliver_data() {
    std::size_t count = std::min(own().inbox.size(), connection_->shape.max_read);
    std::vector<std::uint8_t> scratch(kReadHeadroom + count);
    std::copy_n(own().inbox.begin(), count, scratch.begin() + kReadHeadroom);
    own().inbox.erase(0, count);
    if (fill(1 - side_)) schedule(1 - side_);
    schedule(side_);
    call([&] { events_->on_data(MutableBytes(scratch).subspan(kReadHeadroom)); });
  }

  std::shared_ptr<FakeConnection> connection_;
  std::size_t side_;
  StreamEvents* events_ = nullptr;
  bool was_queued_ = false;
  bool in_callback_ = false;
};

/// The test's end of a connection: remembers all that happens, reads at once unless paused.
class FakePeer final : public StreamEvents {
 public:
  explicit FakePeer(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {
    stream_->set_events(this);
    stream_->start_reading();
  }

  std::string received;
  bool ended = false;          ///< the other end sent FIN
  std::optional<Error> error;  ///< kReset: the other end sent RST
  int drained = 0;

  void send(std::string_view text) {
    Bytes bytes = as_bytes(text);
    stream_->write(std::span(&bytes, 1));
  }
  void finish() { stream_->shutdown(); }
  void reset() { stream_->reset(); }
  void pause() { stream_->stop_reading(); }
  void resume() { stream_->start_reading(); }
  void close() { stream_.reset(); }
  Stream& stream() { return *stream_; }
  /// What was received since the last take().
  std::string take() { return std::exchange(received, {}); }

  void on_data(MutableBytes data) override { received += as_text(data); }
  void on_end() override { ended = true; }
  void on_error(const Error& what) override { error = what; }
  void on_drained() override { ++drained; }

 private:
  std::unique_ptr<Stream> stream_;
};

/// A test's server: every accepted connection as a FakePeer, in order.
class FakeServer final : public AcceptEvents {
 public:
  std::vector<std::unique_ptr<FakePeer>> peers;
  FakePeer& peer(std::size_t index = 0) { return *peers.at(index); }
  void on_accept(std::unique_ptr<Stream> stream) override {
    peers.push_back(std::make_unique<FakePeer>(std::move(stream)));
  }
  std::unique_ptr<Listener> listener;
};

class FakeNetwork final : public Network {
 public:
  explicit FakeNetwork(FakeLoop& loop) : loop_(loop) {}

  bool is_full = false;
  bool full() const override { return is_full; }

  /// A descriptor to listen() on; an unspecified address stands for all of its port.
  int bind(const SocketAddress& address) {
    int descriptor = next_descriptor_++;
    sockets_.emplace(descriptor, std::make_shared<Socket>(Socket{address, nullptr, false, {}}));
    return descriptor;
  }
  /// Nobody is there any more: what waits is lost, and dials are refused.
  void close(int descriptor) { sockets_.erase(descriptor); }
  /// A client's connection to whoever listens on `descriptor`, as if a NAT rule may have led it
  /// there. It waits in the queue while nobody accepts.
  std::unique_ptr<FakePeer> connect(int descriptor, const Ends& ends) {
    auto [client, server] = pair(ends);
    enqueue(sockets_.at(descriptor), std::move(server));
    return std::make_unique<FakePeer>(std::move(client));
  }
  /// A server at `address`; the code under test reaches it by dial().
  std::unique_ptr<FakeServer> serve(const SocketAddress& address) {
    auto server = std::make_unique<FakeServer>();
    server->listener = *listen(bind(address), server.get());
    return server;
  }
  /// Two ends of a connection without a listener; the first is the connecting one.
  std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> pair(const Ends& ends) {
    auto connection =
        std::make_shared<FakeConnection>(FakeConnection{loop_, shape, open_streams_, {}});
    connection->ends[0].local = connection->ends[1].peer = ends.from;
    connection->ends[1].local = connection->ends[0].peer = ends.to;
    connection->ends[1].original = ends.original;
    return {std::make_unique<FakeStream>(connection, 0),
            std::make_unique<FakeStream>(connection, 1)};
  }

  /// Dials to `address` get no answer, until their timeout.
  void ignore(const SocketAddress& address) { ignored_.insert(address); }
  void stop_ignoring(const SocketAddress& address) { ignored_.erase(address); }
  /// Ends, accepted and dialled, that are not destroyed: zero when nothing leaks.
  std::size_t open_streams() const { return *open_streams_; }

  SocketShape shape;
  /// The source of dials that name none.
  IpAddress host = IpAddress::v4({10, 0, 0, 1});
  /// Every dial, in order.
  std::vector<DialOptions> dials;

  std::unique_ptr<Dial> dial(const DialOptions& options, DialEvents* events) override {
    dials.push_back(options);
    auto state = std::make_shared<DialState>();
    state->options = options;
    state->events = events;
    if (ignored_.contains(options.to)) {
      state->timeout = loop_.timer([this, state = state.get()] {
        finish_dial(*state, fail(ErrorCode::kTimeout, "connect timed out"));
      });
      state->timeout->start(options.timeout);
    } else {
      loop_.post([this, weak = std::weak_ptr(state)] {
        if (auto alive = weak.lock()) connect_dial(*alive);
      });
    }
    return std::make_unique<FakeDial>(loop_, std::move(state));
  }

  Result<std::unique_ptr<Listener>> listen(int descriptor, AcceptEvents* events) override {
    auto found = sockets_.find(descriptor);
    if (found == sockets_.end()) return fail(ErrorCode::kInvalid, "not a listening socket");
    if (found->second->events != nullptr) return fail(ErrorCode::kInvalid, "already listening");
    found->second->events = events;
    found->second->paused = false;
    schedule_accept(loop_, found->second);
    return std::unique_ptr<Listener>(std::make_unique<FakeListener>(loop_, found->second));
  }

 private:
  struct Socket {
    SocketAddress address;
    AcceptEvents* events;
    bool paused;
    std::vector<std::unique_ptr<Stream>> waiting;
  };

  struct DialState {
    DialOptions options;
    DialEvents* events = nullptr;
    std::unique_ptr<Timer> timeout;
  };

  struct RetiredTimer final : Retirable {
    std::unique_ptr<Timer> timer;
  };

  class FakeDial final : public Dial {
   public:
    FakeDial(FakeLoop& loop, std::shared_ptr<DialState> state)
        : loop_(loop), state_(std::move(state)) {}
    // on_dial_failed() may destroy this while its timer fires.
    ~FakeDial() override {
      state_->events = nullptr;
      auto retired = std::make_unique<RetiredTimer>();
      retired->timer = std::move(state_->timeout);
      if (retired->timer) retired->timer->stop();
      loop_.retire(std::move(retired));
    }

   private:
    FakeLoop& loop_;
    std::shared_ptr<DialState> state_;
  };

  class FakeListener final : public Listener {
   public:
    FakeListener(FakeLoop& loop, std::shared_ptr<Socket> socket)
        : loop_(loop), socket_(std::move(socket)) {}
    ~FakeListener() override { socket_->events = nullptr; }
    void pause() override { socket_->paused = true; }
    void resume() override {
      socket_->paused = false;
      schedule_accept(loop_, socket_);
    }

   private:
    FakeLoop& loop_;
    std::shared_ptr<Socket> socket_;
  };

  void enqueue(const std::shared_ptr<Socket>& socket, std::unique_ptr<Stream> stream) {
    socket->waiting.push_back(std::move(stream));
    schedule_accept(loop_, socket);
  }

  static void schedule_accept(FakeLoop& loop, const std::shared_ptr<Socket>& socket) {
    loop.post([&loop, socket] {
      if (socket->events == nullptr || socket->paused || socket->waiting.empty()) return;
      auto stream = std::move(socket->waiting.front());
      socket->waiting.erase(socket->waiting.begin());
      schedule_accept(loop, socket);
      socket->events->on_accept(std::move(stream));
    });
  }

  void finish_dial(DialState& state, Result<std::unique_ptr<Stream>> outcome) {
    DialEvents* events = std::exchange(state.events, nullptr);
    if (events == nullptr) return;
    if (outcome) {
      events->on_connected(std::move(*outcome));
    } else {
      events->on_dial_failed(outcome.error());
    }
  }

  void connect_dial(DialState& state) {
    const SocketAddress& to = state.options.to;
    for (auto& [descriptor, socket] : sockets_) {
      bool any = socket->address.ip.is_unspecified() && socket->address.port == to.port;
      if (!any && socket->address != to) continue;
      auto [client, server] =
          pair({{state.options.source.value_or(host), next_port_++}, to, std::nullopt});
      enqueue(socket, std::move(server));
      return finish_dial(state, std::move(client));
    }
    finish_dial(state, fail(ErrorCode::kUnavailable, "connection refused"));
  }

  FakeLoop& loop_;
  std::shared_ptr<std::size_t> open_streams_ = std::make_shared<std::size_t>(0);
  int next_descriptor_ = 100;
  std::uint16_t next_port_ = 40'000;
  std::map<int, std::shared_ptr<Socket>> sockets_;
  std::set<SocketAddress> ignored_;
};

}  // namespace meshnode::test
