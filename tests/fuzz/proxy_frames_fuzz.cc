// The count of frames in a byte stream. The second octet's lowest bit says what the first decides:
// well-formed frames of any kind, or any bytes at all. However the stream is cut, the same is told;
// of frames that were made here, exactly what went in.

#include <set>
#include <vector>

#include "fuzz/http2_frames.h"
#include "fuzz/input.h"
#include "proxy/frame_scan.h"

using namespace meshnode;
using namespace meshnode::proxy;
using fuzz::Input;
using fuzz::require;
using Kind = FrameScan::Kind;

namespace {

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr std::size_t kMaxFrames = 64;
constexpr std::uint8_t kPadded = 8;

struct Told {
  Kind kind;
  std::uint32_t stream;
  std::size_t length;
  bool operator==(const Told&) const = default;
};

struct Made {
  std::uint8_t type;
  std::uint8_t flags;
  std::uint32_t stream;
  std::size_t length;
};

/// All that a scan tells of `stream`, given in pieces of `step` octets.
std::vector<Told> scan(FrameScan& scan, Bytes stream, std::size_t step) {
  std::vector<Told> all;
  while (!stream.empty()) {
    Bytes piece = stream.first(std::min(step, stream.size()));
    stream = stream.subspan(piece.size());
    for (Kind kind = scan.next(piece); kind != Kind::kNone; kind = scan.next(piece)) {
      all.push_back({kind, scan.stream(), scan.length()});
    }
    require(piece.empty());
  }
  return all;
}

std::size_t some_step(Input& in) { return in.one_of<std::size_t>({1, 2, 8, 9, 10, 33, 5000}); }

std::vector<Made> some_frames(Input& in, std::string& stream) {
  std::vector<Made> made;
  std::uint32_t next = 1;
  while (!in.empty() && made.size() < kMaxFrames) {
    Made one{};
    one.type = in.one_of<std::uint8_t>({fuzz::kHeaders, fuzz::kData, fuzz::kReset, fuzz::kPing,
                                        fuzz::kContinuation, fuzz::kSettings, in.octet()});
    one.flags = in.octet();
    one.stream = in.up_to(3) == 0 ? in.word() & 0x7fffffffU : next;
    if (one.type == fuzz::kHeaders) next += 2U * static_cast<std::uint32_t>(in.up_to(3));
    one.length = in.one_of<std::size_t>({0, 1, 8, 255, 256, 257, 16'384, in.octet()});
    // The reserved bit is no part of the identifier.
    const std::uint32_t reserved = in.flag() ? 0x80000000U : 0;
    stream += fuzz::frame(one.type, one.flags, one.stream | reserved,
                          std::string(one.length, static_cast<char>(in.octet())));
    made.push_back(one);
  }
  return made;
}

/// What the program is for: a kind follows from the frame and from those before it.
void require_fits(const std::vector<Made>& made, const std::vector<Told>& told, bool client) {
  require(made.size() == told.size());
  std::set<std::uint32_t> begun;
  for (std::size_t i = 0; i < made.size(); ++i) {
    const Made& frame = made[i];
    const Kind kind = told[i].kind;
    require(told[i].stream == frame.stream && told[i].length == frame.length);
    require((kind == Kind::kReset) == (frame.type == fuzz::kReset));
    if (frame.type == fuzz::kContinuation) require(kind == Kind::kCarrying);
    if (frame.type == fuzz::kData) {
      const std::size_t least = (frame.flags & kPadded) != 0 ? 257 : 1;
      require((kind == Kind::kCarrying) == (frame.length >= least));
    }
    if (frame.type != fuzz::kHeaders) continue;
    const bool higher = begun.empty() || frame.stream > *begun.rbegin();
    require((kind == Kind::kCarrying) == (client && higher && frame.stream != 0));
    if (kind == Kind::kBackwards) require(client && !higher && !begun.contains(frame.stream));
    if (kind == Kind::kCarrying) begun.insert(frame.stream);
  }
}

void require_open_headers(const std::vector<Made>& made, const FrameScan& scan) {
  std::uint64_t requests = 0;
  bool open = false;
  for (const Made& frame : made) {
    const bool headers = frame.type == fuzz::kHeaders;
    if (headers) ++requests;
    if (headers || frame.type == fuzz::kContinuation) {
      open = (frame.flags & fuzz::kEndHeaders) == 0;
    }
  }
  require(scan.open_headers() == (open ? requests : 0));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  const bool client = in.flag();
  const bool well_formed = in.flag();
  const std::size_t step = some_step(in);
  std::string stream(client ? kPreface : "");
  std::vector<Made> made;
  if (well_formed) {
    made = some_frames(in, stream);
  } else {
    stream += as_text(in.rest());
  }
  FrameScan whole(client);
  FrameScan cut(client);
  const auto told = scan(whole, as_bytes(stream), std::max<std::size_t>(stream.size(), 1));
  require(scan(cut, as_bytes(stream), step) == told);
  require(whole.open_headers() == cut.open_headers());
  if (well_formed) {
    require_fits(made, told, client);
    require_open_headers(made, whole);
  }
  return 0;
}
