// What supervisor and worker may write into the channel, either of them taken over. Accepted
// messages survive another round; what the supervisor says is always understood, whatever text it
// passes on. The first octet says how the input is read: as a message's values, as faults in a
// valid message, as what is written into a real channel, descriptors along, or, anything else
// included, as frames and as a message.

#include <sys/socket.h>
#include <cstring>
#include <filesystem>

#include "capture/conflicts.h"
#include "fuzz/capture_specs.h"
#include "fuzz/input.h"
#include "fuzz/json_faults.h"
#include "io/loop.h"
#include "supervisor/channel.h"
#include "supervisor/frame.h"
#include "supervisor/message.h"

using namespace meshnode::supervisor;
using meshnode::Bytes;
using meshnode::fuzz::Input;
using meshnode::fuzz::require;

namespace {

void try_message(std::string_view body) {
  if (const auto message = decode_to_supervisor(body)) {
    const auto again = decode_to_supervisor(encode(*message));
    require(again.has_value() && *again == *message);
  }
  if (const auto message = decode_to_worker(body)) {
    const auto again = decode_to_worker(encode(*message));
    require(again.has_value() && *again == *message);
  }
}

struct Framed {
  std::string body;
  std::size_t descriptors;
  bool operator==(const Framed&) const = default;
};

/// The frames of `stream`, fed in pieces of `step` octets.
std::vector<Framed> read_frames(Bytes stream, std::size_t step) {
  std::vector<Framed> frames;
  FrameDecoder decoder;
  for (std::size_t at = 0; at < stream.size(); at += step) {
    decoder.feed(stream.subspan(at, std::min(step, stream.size() - at)));
    auto body = decoder.next();
    for (; body && *body; body = decoder.next()) {
      frames.push_back({std::move(**body), decoder.descriptors()});
    }
    if (!body) return frames;
  }
  return frames;
}

/// Text of other programs and of the kernel: any octets, up to and beyond the bound.
std::string other_text(Input& in) {
  switch (in.up_to(4)) {
    case 0:
      return in.text();
    case 1:
      return meshnode::fuzz::repeated(kMaxText);
    case 2:
      return meshnode::fuzz::repeated(kMaxText - 1) + in.text();
    case 3:
      return meshnode::fuzz::repeated(kMaxText, '\xff');
    default:
      return "iptables: \xc3\xa4";
  }
}

std::string name_of(std::size_t index) { return "n/w" + std::to_string(index); }

std::size_t around(Input& in, std::size_t bound) {
  return in.one_of<std::size_t>({2, 0, 1, bound, bound + 1});
}

std::vector<std::string> names(Input& in, std::size_t bound) {
  std::vector<std::string> all;
  for (std::size_t i = around(in, bound); i > 0; --i) all.push_back(name_of(i));
  return all;
}

std::map<std::string, std::uint64_t> counts(Input& in, std::size_t bound) {
  std::map<std::string, std::uint64_t> all;
  for (std::size_t i = around(in, bound); i > 0; --i) all[name_of(i)] = in.word();
  return all;
}

Listeners make_listeners(Input& in) {
  Listeners m;
  m.names = names(in, kMaxListeners);
  m.history.restarts = in.word();
  m.history.last_reason = other_text(in);
  m.history.first = meshnode::WallTime(std::chrono::milliseconds(in.word()));
  m.history.last = m.history.first + std::chrono::milliseconds(in.word());
  m.steering.next = in.pair();
  for (std::size_t i = around(in, meshnode::capture::kMaxWorkloads); i > 0; --i) {
    m.steering.slots[name_of(i)] = static_cast<std::uint16_t>(in.flag() ? in.pair() : i);
  }
  if (in.flag()) m.steering.slots["no name"] = 1;
  return m;
}

CaptureReport make_report(Input& in) {
  CaptureReport m;
  m.ok = in.flag();
  m.v4 = in.flag();
  m.v6 = in.flag();
  m.error = other_text(in);
  m.repaired = in.word();
  m.last_repair = other_text(in);
  m.waiting = names(in, meshnode::capture::kMaxWorkloads);
  for (std::size_t i = around(in, meshnode::capture::kMaxWorkloads); i > 0; --i) {
    m.failed[name_of(i)] = i == 1 ? other_text(in) : "why";
  }
  for (std::size_t i = around(in, kMaxSpaces); i > 0; --i) {
    m.spaces[name_of(i)] = {"10.0.0.1", "fd00::1"};
  }
  m.spaces["n/w"] = names(in, kMaxSpaceAddresses);
  for (std::size_t i = around(in, kMaxSpaces); i > 0; --i) {
    m.undeclared[name_of(i)] = i == 1 ? other_text(in) : "0.0.0.0:7000";
  }
  for (std::size_t i = around(in, 2 * meshnode::capture::kMaxConflicts); i > 0; --i) {
    m.conflicts.push_back(i == 1 ? other_text(in) : "iptables raw OUTPUT: why");
  }
  m.bypass = counts(in, 64);
  m.bypass_by_workload = counts(in, meshnode::capture::kMaxWorkloads);
  return m;
}

/// One message of any kind, as text, or no message at all; what the supervisor reports is
/// understood by the worker.
std::string make_message(Input& in) {
  switch (in.up_to(10)) {
    case 0:
      return encode(ToWorker(make_listeners(in)));
    case 1: {
      std::string text = encode(ToWorker(make_report(in)));
      require(decode_to_worker(text).has_value());
      return text;
    }
    case 2:
      return encode(ToWorker(SpaceListeners{in.pair(), names(in, kMaxListeners)}));
    case 3:
      return encode(ToWorker(SpaceGone{in.pair()}));
    case 4:
      return encode(ToWorker(Reload{}));
    case 5:
      return encode(ToWorker(Drain{}));
    case 6:
      return encode(ToSupervisor(Ready{}));
    case 7:
      return encode(ToSupervisor(Drained{}));
    case 8: {
      const bool valid = in.flag();
      return encode(ToSupervisor(CaptureRequest{meshnode::fuzz::make_spec(in, valid), in.pair()}));
    }
    case 9: {
      const auto most = static_cast<std::uint32_t>(kLongestDrain / std::chrono::milliseconds(1));
      const std::uint32_t millis = in.one_of({0U, most, most + 1, in.word()});
      std::string text = encode(ToSupervisor(Settings{std::chrono::milliseconds(millis)}));
      require(decode_to_supervisor(text).has_value() == (millis <= most));
      return text;
    }
    default:
      return other_text(in);
  }
}

void try_values(Input& in) {
  const std::size_t step = 1 + in.up_to(255) * 256;
  std::string stream;
  std::vector<Framed> frames;
  for (std::size_t i = in.up_to(3) + 1; i > 0; --i) {
    frames.push_back({make_message(in), in.up_to(256)});
    try_message(frames.back().body);
    const auto frame = make_frame(frames.back().body, frames.back().descriptors);
    require(frame.has_value() || (frames.back().body.empty() || frames.back().descriptors == 256));
    if (!frame) return;
    stream += *frame;
  }
  require(read_frames(meshnode::as_bytes(stream), step) == frames);
}

void try_faults(Input& in) {
  const std::string text = make_message(in);
  const std::vector<std::size_t> values = meshnode::fuzz::json_values(text);
  if (values.size() > 300) return;
  for (const std::size_t value : values) {
    for (const std::string_view fault : meshnode::fuzz::kJsonFaults) {
      try_message(meshnode::fuzz::with_fault(text, value, fault));
    }
  }
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

/// Writes `bytes` with `count` copies of a descriptor; false when the other end takes no more.
bool write_with(const Descriptor& to, std::string_view bytes, std::size_t count) {
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  std::vector<char> control(CMSG_SPACE(sizeof(int) * count));
  if (count > 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    for (std::size_t i = 0; i < count; ++i) {
      const int fd = to.get();
      std::memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof fd);
    }
  }
  return ::sendmsg(to.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(bytes.size());
}

void turn(meshnode::io::Loop& loop) {
  loop.post([&loop] { loop.stop(); });
  loop.run();
}

/// What a channel gives of what was written into it: every whole message once, in order, with the
/// descriptors that it announced; after anything else, that it is closed, and nothing more.
void require_reads(Input& in, meshnode::io::Loop& loop) {
  auto ends = make_channel();
  require(ends.has_value());
  const bool accepts = in.flag();
  std::vector<Framed> sent;
  std::size_t delivered = 0;
  bool closed = false;
  Channel channel(loop, std::move(ends->second),
                  accepts ? Channel::Descriptors::kAccept : Channel::Descriptors::kRefuse,
                  {[&](const std::string& body, std::vector<Descriptor> came) {
                     require(!closed && delivered < sent.size() && body == sent[delivered].body);
                     require(came.size() == (accepts ? sent[delivered].descriptors : 0));
                     ++delivered;
                   },
                   [&](const meshnode::Error& why) {
                     require(!closed && !why.message.empty());
                     closed = true;
                   }});
  bool honest = true;
  for (std::size_t i = in.up_to(7) + 1; i > 0 && !closed; --i) {
    const std::size_t announced = in.one_of<std::size_t>({0, 1, 3, kMaxListeners, in.octet()});
    sent.push_back({"body " + in.text(), announced});
    const std::string frame = make_frame(sent.back().body, announced).value();
    const std::string_view text(frame);
    const std::size_t cut = 1 + in.up_to(frame.size() - 1);
    const std::size_t first = in.flag() ? announced : in.octet() % 40U;
    const std::size_t second = in.up_to(3) == 0 && cut < frame.size() ? in.octet() % 40U : 0;
    const bool as_announced = first == announced && second == 0 && announced <= kMaxListeners;
    honest = honest && (!accepts || as_announced);
    // More than the kernel takes with one message does not get through.
    if (!write_with(ends->first, text.substr(0, cut), first)) break;
    if (cut < frame.size() && !write_with(ends->first, text.substr(cut), second)) break;
    for (int read = 0; read < 4; ++read) turn(loop);
    require(!honest || (!closed && delivered == sent.size()));
  }
}

void try_channel(Input& in) {
  static meshnode::io::Loop loop;
  const std::size_t before = open_descriptors();
  require_reads(in, loop);
  turn(loop);
  require(open_descriptors() == before);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  switch (const std::uint8_t first = in.octet()) {
    case 1:
      try_values(in);
      break;
    case 2:
      try_faults(in);
      break;
    case 3:
      try_channel(in);
      break;
    default:
      try_message(meshnode::as_text({data, size}));
      for (const Framed& frame : read_frames(in.rest(), std::size_t{first} + 1)) {
        try_message(frame.body);
      }
  }
  return 0;
}
