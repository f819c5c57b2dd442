// The tunnel's HTTP/2 session fed with a peer's bytes, in pieces of the input's choosing, with
// streams that accept, refuse, stop reading, answer and reset as the input says.
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "proxy/hbone_session.h"

using namespace meshnode;
using namespace meshnode::proxy;

namespace {

struct Script {
  const std::uint8_t* data;
  std::size_t size;
  std::uint8_t next() {
    if (size == 0) {
      return 0;
    }
    --size;
    return *data++;
  }
};

struct Peer final : HboneEvents, StreamEvents, ConnectEvents {
  Peer(Role role, Script& input) : script(input), session(role, this) {}
  Script& script;
  std::size_t put = 0;
  std::deque<std::unique_ptr<HboneStream>> streams;
  HboneSession session;

  bool writable() const override { return put < (1U << 20U); }
  void on_output(MutableBytes frames) override { put += frames.size(); }
  void on_output_waiting() override {}
  void on_output_done() override {}
  void on_malformed(const std::string&) override {}
  void on_excess(telemetry::Limit, const std::string&) override {}
  void on_limit_hit(telemetry::Limit) override {}
  void on_ping_answered() override {}
  void on_idle_frame() override {}
  void on_reset_counted() override {}
  void on_streams_changed() override {}
  void on_connect(std::unique_ptr<HboneStream> stream, ConnectRequest) override {
    HboneStream& open = *stream;
    streams.push_back(std::move(stream));
    open.set_events(this);
    const std::uint8_t choice = script.next();
    open.respond((choice & 1) != 0 ? 503 : 200);
    if ((choice & 2) != 0) {
      open.start_reading();
    }
  }
  void on_data(MutableBytes data) override {
    if (!streams.empty() && (script.next() & 1) != 0) {
      streams.front()->forward(data);
    }
  }
  void on_end() override {
    if (!streams.empty()) {
      streams.front()->shutdown();
    }
  }
  void on_error(const Error&) override {}
  void on_drained() override {}
  void on_connect_accepted() override {}
  void on_connect_refused(int, bool, const Error&) override {}

  void act() {
    const std::uint8_t choice = script.next();
    put = 0;
    if (streams.empty()) {
      return;
    }
    HboneStream& stream = *streams.front();
    switch (choice % 6) {
      case 0:
        stream.start_reading();
        break;
      case 1:
        stream.stop_reading();
        break;
      case 2:
        stream.shutdown();
        break;
      case 3:
        stream.reset();
        break;
      case 4:
        streams.pop_front();
        break;
      default: {
        const std::uint8_t text[] = {'x', 'y'};
        const Bytes piece(text);
        stream.write({&piece, 1});
      }
    }
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script{data, size};
  const Role role = (script.next() & 1) != 0 ? Role::kServer : Role::kClient;
  Peer peer(role, script);
  if (role == Role::kClient) {
    ConnectRequest request;
    request.authority = "10.0.0.1:80";
    if (auto stream = peer.session.connect(request, &peer)) {
      stream->set_events(&peer);
      peer.streams.push_back(std::move(stream));
    }
  } else {
    std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    std::vector<std::uint8_t> buffer(kReadHeadroom);
    buffer.insert(buffer.end(), preface.begin(), preface.end());
    static_cast<void>(peer.session.receive(MutableBytes(buffer).subspan(kReadHeadroom)));
  }
  while (script.size > 0) {
    const std::size_t length = std::min<std::size_t>(script.next() * 4U + 9U, script.size);
    std::vector<std::uint8_t> buffer(kReadHeadroom);
    buffer.insert(buffer.end(), script.data, script.data + length);
    script.data += length;
    script.size -= length;
    if (!peer.session.receive(MutableBytes(buffer).subspan(kReadHeadroom))) {
      break;
    }
    peer.act();
    peer.session.pump();
    if (peer.session.over()) {
      break;
    }
  }
  peer.session.abandon({ErrorCode::kReset, "end of input"});
  return 0;
}
