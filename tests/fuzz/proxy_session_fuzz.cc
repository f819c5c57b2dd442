// The tunnel's HTTP/2 session. The first octet says against whom: 2 and 3, a peer whose frames are
// well formed and in any order (of a client, of a server); 4, another session that behaves, with
// everything that the streams above may do, where no byte may be lost, changed or left waiting; 5,
// the same with what is between them altered; else any bytes at all.
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "fuzz/http2_frames.h"
#include "fuzz/input.h"
#include "proxy/hbone_session.h"

using namespace meshnode;
using namespace meshnode::proxy;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::size_t kMaxOutput = std::size_t{64} << 20U;
constexpr std::size_t kMaxConnections = 300;
constexpr std::size_t kMaxSteps = 400;

std::uint8_t pattern(std::size_t at) { return static_cast<std::uint8_t>(at * 31 + (at >> 8U)); }

/// One end of a tunnelled connection, as the program above it would be.
struct Held final : StreamEvents, ConnectEvents {
  std::unique_ptr<HboneStream> stream;
  Held* other = nullptr;  // at the far end, where that is known
  std::size_t sent = 0;
  std::size_t received = 0;
  bool answered = false;  // or answering
  bool open = false;      // accepted: carries bytes
  bool shut = false;
  bool ended = false;
  bool dead = false;
  bool reading = false;
  std::uint8_t on_next = 0;  // what to do within the next event

  void on_data(MutableBytes data) override {
    require(open && !dead && !ended && reading && !data.empty());
    for (const std::uint8_t octet : data) {
      require(other == nullptr || octet == pattern(received));
      ++received;
    }
    require(other == nullptr || received <= other->sent);
    const std::uint8_t action = std::exchange(on_next, std::uint8_t{0});
    if (action == 1) stop();
    if (action == 2) reset();
    if (action == 3 && other == nullptr && !shut) stream->forward(data);
    if (action == 4) shutdown();
  }
  void on_end() override {
    require(!dead && !ended);
    ended = true;
    require(other == nullptr || received == other->sent);
    if (std::exchange(on_next, std::uint8_t{0}) != 0) shutdown();
  }
  void on_error(const Error& error) override {
    require(!dead && !error.message.empty());
    dead = true;
  }
  void on_drained() override {
    require(!dead);
    require(stream->queued() <= kResumeBelow);
  }
  void on_connect_accepted() override {
    require(!answered);
    answered = open = true;
    if (stream) stream->set_events(this);
  }
  void on_connect_refused(int status, bool unprocessed, const Error& error) override {
    require(!answered && status != 200 && !(status != 0 && unprocessed));
    require(!error.message.empty());
    answered = dead = true;
  }

  void start() {
    reading = true;
    if (stream) stream->start_reading();
  }
  void stop() {
    reading = false;
    if (stream) stream->stop_reading();
  }
  void reset() {
    dead = true;
    if (stream) stream->reset();
  }
  void shutdown() {
    if (!stream || !open || dead) return;
    shut = true;
    stream->shutdown();
  }
  void send(std::size_t size, bool borrowed) {
    if (!stream || !open || shut || dead) return;
    std::vector<std::uint8_t> buffer(kReadHeadroom + size);
    for (std::size_t i = 0; i < size; ++i) buffer[kReadHeadroom + i] = pattern(sent + i);
    sent += size;
    const MutableBytes data = MutableBytes(buffer).subspan(kReadHeadroom);
    const Bytes piece = data;
    borrowed ? stream->forward(data) : stream->write({&piece, 1});
  }
};

/// A session and what is above and below it.
struct End final : HboneEvents {
  explicit End(Role which) : role(which), session(which, this) {}
  const Role role;
  std::deque<std::unique_ptr<Held>> held;
  std::map<std::string, Held*>* by_authority = nullptr;  // a pair's connections
  std::string out;
  bool open = true;
  bool lost = false;
  std::uint8_t answer = 0;  // to the next CONNECT
  HboneSession session;

  bool writable() const override { return open; }
  void on_output(MutableBytes frames) override {
    out += as_text(frames);
    require(out.size() < kMaxOutput);
  }
  void on_output_waiting() override {}
  void on_output_done() override {}
  void on_malformed(const std::string& reason) override { require(!reason.empty()); }
  void on_excess(telemetry::Limit, const std::string& reason) override { require(!reason.empty()); }
  void on_limit_hit(telemetry::Limit) override {}
  void on_ping_answered() override {}
  void on_idle_frame() override {}
  void on_reset_counted() override {}
  void on_streams_changed() override {}
  void on_connect(std::unique_ptr<HboneStream> stream, ConnectRequest request) override {
    auto& mine = held.emplace_back(std::make_unique<Held>());
    mine->stream = std::move(stream);
    mine->stream->set_events(mine.get());
    if (by_authority != nullptr) {
      if (const auto found = by_authority->find(request.authority); found != by_authority->end()) {
        mine->other = found->second;
        found->second->other = mine.get();
      }
    }
    if (answer % 4 != 3) respond(*mine, answer % 4 == 2 ? 503 : 200);
    if (answer % 4 == 1) mine->start();
  }

  void respond(Held& mine, int status) {
    if (role != Role::kServer || mine.answered || mine.dead) return;
    mine.answered = true;
    mine.open = status == 200;
    mine.dead = status != 200;
    if (mine.stream) mine.stream->respond(status);
  }
  void connect(std::uint8_t with) {
    if (held.size() >= kMaxConnections || !session.can_connect()) return;
    ConnectRequest request;
    request.authority = "10.0.0.1:" + std::to_string(held.size() + 1);
    if ((with & 1) != 0) request.forwarded = "for=\"10.0.0.2:5\";host=a.b";
    if ((with & 2) != 0) request.baggage = "k8s.namespace.name=n";
    if ((with & 4) != 0) request.traceparent = "00-1-1-00";
    auto mine = std::make_unique<Held>();
    mine->stream = session.connect(request, mine.get());
    if (!mine->stream) return;
    if (by_authority != nullptr) (*by_authority)[request.authority] = mine.get();
    held.push_back(std::move(mine));
  }
  /// Frames from the peer; the session is over when it says so.
  void receive(std::string_view frames) {
    if (lost) return;
    std::vector<std::uint8_t> buffer(kReadHeadroom);
    buffer.insert(buffer.end(), frames.begin(), frames.end());
    const Status taken = session.receive(MutableBytes(buffer).subspan(kReadHeadroom));
    session.pump();
    require(taken.has_value() || !taken.error().message.empty());
    require(!session.has_live_streams() || session.open_streams() > 0);
    require(!session.takes_none() || !session.can_connect());
    if (!taken || session.over()) lose();
  }
  void lose() {
    lost = true;
    session.abandon({ErrorCode::kReset, "the tunnel was lost"});
    require(session.open_streams() == 0);
  }
};

/// What the programs above one end do next.
void act(Input& in, End& end) {
  const std::uint8_t choice = in.octet();
  end.answer = static_cast<std::uint8_t>(choice >> 5U);
  if (end.held.empty() && choice % 20 < 12) return;
  Held* const one = end.held.empty() ? nullptr : end.held[in.up_to(end.held.size() - 1)].get();
  switch (choice % 20) {
    case 0:
      return one->start();
    case 1:
      return one->stop();
    case 2:
      return one->shutdown();
    case 3:
      return one->reset();
    case 4:
      one->dead = true;
      return one->stream.reset();
    case 5:
      return one->send(1 + in.octet(), false);
    case 6:
      return one->send(std::size_t{64} * (1 + in.octet()), true);
    case 7:
      return one->send(std::size_t{4096} * (1 + in.octet()), in.flag());
    case 8:
      return end.respond(*one, in.one_of({200, 503, 400}));
    case 9:
      one->on_next = in.octet() % 5;
      return;
    case 10:
      return one->send(0, in.flag());
    case 11:
      end.open = !end.open;
      return;
    case 12:
      return end.session.ping();
    case 13:
      return end.session.announce_end();
    case 14:
      return end.session.refuse_new();
    case 15:
      return end.session.calm();
    case 16:
      return end.lose();
    default:
      return end.connect(in.octet());
  }
}

/// The frames of a peer that speaks HTTP/2, but says what it likes.
std::string some_frames(Input& in, bool client, std::uint32_t& next) {
  using namespace fuzz;
  const std::uint32_t id = in.flag() && next > 2 ? next - 2 : in.octet();
  const std::uint8_t end = in.flag() ? kEndStream : 0;
  const auto request = fields({{":method", "CONNECT"}, {":authority", "10.0.0.1:80"}});
  const auto open = [&](const std::string& block) {
    return frame(kHeaders, kEndHeaders | end, std::exchange(next, next + 2), block);
  };
  switch (in.up_to(17)) {
    case 0:
      return open(request);
    case 1:
      return open(request + fields({{"forwarded", "for=x;host=a.b"},
                                    {"baggage", "a=b"},
                                    {"traceparent", "00-1-1-00"},
                                    {"x", in.text()}}));
    case 2:
      return open(
          fields({{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", "a"}}));
    case 3:
      return open(request +
                  field("x", std::string(in.one_of<std::size_t>({100, 17'000, 60'000}), 'x')) +
                  field("y", std::string(in.one_of<std::size_t>({100, 20'000}), 'y')));
    case 4:
      return frame(kHeaders, kEndHeaders | kEndStream, id, field("trailer", in.text()));
    case 5:
      return frame(kHeaders, kEndHeaders | end, id,
                   field(":status", in.one_of({"200", "503", "100", "2x", "999"})));
    case 6:
      return frame(kData, end, id, std::string(in.up_to(1000), 'd'));
    case 7:
      return frame(kData, end, id, std::string(in.up_to(70'000), 'd'));
    case 8:
      return frame(kReset, 0, id, octets(in.octet() % 16, 4));
    case 9:
      return frame(kSettings, 0, 0, octets(in.octet() % 8, 2) + octets(in.word(), 4));
    case 10:
      return frame(kSettings, kEndStream, 0, "");
    case 11:
      return frame(kPing, end, 0, octets(in.octet(), 8));
    case 12:
      return frame(kGoAway, 0, 0, octets(in.octet(), 4) + octets(in.octet() % 16, 4));
    case 13:
      return frame(kWindow, 0, in.flag() ? id : 0, octets(in.word(), 4));
    case 14:
      return frame(in.octet(), in.octet(), id, in.text());
    case 15: {  // a header block in two frames
      const std::string first = frame(kHeaders, end, std::exchange(next, next + 2), request);
      return first + frame(kContinuation, kEndHeaders, next - 2, field("x", in.text()));
    }
    case 16: {
      std::string burst;
      for (std::size_t i = client ? in.octet() : 0; i > 0; --i) burst += open(request);
      return burst;
    }
    default:
      return frame(kPriority, 0, id, in.text());
  }
}

void against_frames(Input& in, bool client) {
  End end(client ? Role::kServer : Role::kClient);
  std::uint32_t next = 1;
  if (client) {
    end.receive("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + fuzz::frame(fuzz::kSettings, 0, 0, ""));
  } else {
    end.connect(7);
  }
  for (std::size_t step = 0; step < kMaxSteps && !in.empty() && !end.lost; ++step) {
    end.receive(some_frames(in, client, next));
    act(in, end);
    end.session.pump();
  }
  end.lose();
}

void against_bytes(Input& in, bool client) {
  End end(client ? Role::kServer : Role::kClient);
  if (client) {
    end.receive("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  } else {
    end.connect(0);
  }
  while (!in.empty() && !end.lost) {
    end.receive(as_text(in.take(in.octet() * 4U + 9U)));
    act(in, end);
    end.session.pump();
  }
  end.lose();
}

/// Two sessions that speak with each other.
struct Pair {
  std::map<std::string, Held*> connections;
  End client{Role::kClient};
  End server{Role::kServer};
  bool exact;

  explicit Pair(bool unaltered) : exact(unaltered) {
    if (exact) client.by_authority = server.by_authority = &connections;
  }

  void carry(End& from, End& to, Input& in) {
    from.session.pump();
    if (!from.lost && from.session.over()) from.lose();
    std::string frames = std::exchange(from.out, {});
    if (!exact && !frames.empty() && in.flag()) {
      const std::size_t at = in.up_to(frames.size() - 1);
      switch (in.up_to(3)) {
        case 0:
          frames[at] = static_cast<char>(in.octet());
          break;
        case 1:
          frames.erase(at, in.octet());
          break;
        case 2:
          frames.insert(at, in.text());
          break;
        default:
          frames += frames.substr(at);
      }
    }
    const std::size_t step = in.one_of<std::size_t>({SIZE_MAX, 1, 9, 1000, 65'536});
    for (std::size_t at = 0; at < frames.size();) {
      const std::size_t size = frames.size() > 5000 ? std::max<std::size_t>(step, 1000) : step;
      to.receive(std::string_view(frames).substr(at, size));
      at += std::min(size, frames.size() - at);
    }
    if (from.lost && !to.lost && from.out.empty()) to.lose();
  }

  /// Nobody holds anything back any more: whatever was sent arrives.
  void settle() {
    Input none(nullptr, 0);
    client.open = server.open = true;
    for (End* end : {&client, &server}) {
      for (auto& each : end->held) {
        each->on_next = 0;
        end->respond(*each, 200);
        if (!each->dead) each->start();
      }
    }
    for (bool moved = true; moved;) {
      client.session.pump();
      server.session.pump();
      moved = !client.out.empty() || !server.out.empty();
      carry(client, server, none);
      carry(server, client, none);
    }
    for (const auto& each : client.held) {
      const Held& ours = *each;
      if (ours.other == nullptr || ours.dead || ours.other->dead || !ours.open) continue;
      require(ours.received == ours.other->sent && ours.other->received == ours.sent);
      require(ours.ended == ours.other->shut && ours.other->ended == ours.shut);
    }
  }
};

void against_itself(Input& in, bool exact) {
  Pair pair(exact);
  pair.client.connect(0);
  for (std::size_t step = 0; step < kMaxSteps && !in.empty(); ++step) {
    act(in, pair.client);
    if (in.flag()) pair.carry(pair.client, pair.server, in);
    act(in, pair.server);
    if (in.flag()) pair.carry(pair.server, pair.client, in);
  }
  if (exact) pair.settle();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  const std::uint8_t against = in.octet();
  switch (against) {
    case 2:
    case 3:
      against_frames(in, against == 2);
      break;
    case 4:
    case 5:
      against_itself(in, against == 4);
      break;
    default:
      against_bytes(in, (against & 1) != 0);
  }
  return 0;
}
