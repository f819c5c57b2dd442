#include "proxy/frame_scan.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

using namespace meshnode;
using namespace meshnode::proxy;

namespace {

enum Type { kData, kHeaders, kPriority, kRst, kSettings, kPing = 6, kContinuation = 9 };
constexpr int kEndStream = 1, kEndHeaders = 4, kPadded = 8;

std::string frame(int type, int flags, std::size_t size) {
  std::string out(9, '\0');
  out[1] = static_cast<char>(size >> 8U);
  out[2] = static_cast<char>(size & 0xff);
  out[3] = static_cast<char>(type);
  out[4] = static_cast<char>(flags);
  out[8] = 1;
  return out + std::string(size, 'x');
}

/// What a stream of octets is, cut into pieces of `piece`.
std::string read(FrameScan& scan, const std::string& octets, std::size_t piece) {
  std::string kinds;
  for (std::size_t at = 0; at < octets.size(); at += piece) {
    const std::string part = octets.substr(at, piece);
    Bytes data = as_bytes(part);
    for (auto kind = scan.next(data); kind != FrameScan::Kind::kNone; kind = scan.next(data)) {
      kinds += kind == FrameScan::Kind::kCarrying ? 'c'
               : kind == FrameScan::Kind::kIdle   ? 'i'
                                                  : 'r';
    }
    CHECK(data.empty());
  }
  return kinds;
}

}  // namespace

TEST_CASE("frames are told apart however they are cut") {
  const std::size_t piece = GENERATE(1U, 5U, 9U, 16U, 100'000U);
  const std::string octets =
      std::string(24, 'P') + frame(kSettings, 0, 6) + frame(kHeaders, kEndHeaders, 30) +
      frame(kData, 0, 300) + frame(kData, 0, 0) + frame(kData, kEndStream, 0) +
      frame(kData, kPadded, 256) + frame(kData, kPadded, 257) + frame(kPing, 0, 8) +
      frame(kRst, 0, 4) + frame(kPriority, 0, 5) + frame(0xf0, 0, 50);
  FrameScan scan(true);
  CHECK(read(scan, octets, piece) == "icciiicirii");
  CHECK(scan.open_headers() == 0);
}

TEST_CASE("a client may pass streams over, and not come back to them") {
  const auto headers = [](int stream) {
    std::string made = frame(kHeaders, kEndHeaders, 3);
    made[8] = static_cast<char>(stream);
    return made;
  };
  const auto last = [&](std::initializer_list<int> streams, bool client) {
    FrameScan scan(client);
    std::string octets = client ? std::string(24, 'P') : "";
    for (const int stream : streams) {
      octets += headers(stream);
    }
    FrameScan::Kind found = FrameScan::Kind::kNone;
    Bytes data = as_bytes(octets);
    for (auto kind = scan.next(data); kind != FrameScan::Kind::kNone; kind = scan.next(data)) {
      found = kind;
    }
    return found;
  };
  CHECK(last({5, 3}, true) == FrameScan::Kind::kBackwards);
  CHECK(last({5, 1}, true) == FrameScan::Kind::kBackwards);
  CHECK(last({1, 3, 9, 7}, true) == FrameScan::Kind::kBackwards);
  CHECK(last({1, 3, 5}, true) == FrameScan::Kind::kCarrying);
  CHECK(last({1, 3, 5, 3}, true) == FrameScan::Kind::kFollowing);  // trailers
  CHECK(last({5, 5}, true) == FrameScan::Kind::kFollowing);
  CHECK(last({5, 3}, false) == FrameScan::Kind::kFollowing);  // answers come in any order
}

TEST_CASE("a frame's stream and length are known when it is told of") {
  std::string octets = frame(kHeaders, kEndHeaders, 300);
  octets[5] = '\x80';  // reserved
  octets[6] = 2;
  octets[7] = 3;
  FrameScan scan(false);
  Bytes data = as_bytes(octets);
  REQUIRE(scan.next(data) == FrameScan::Kind::kFollowing);
  CHECK(scan.stream() == 0x020301);
  CHECK(scan.length() == 300);
}

TEST_CASE("header fields are open from their first frame to the last octet of their last") {
  FrameScan scan(false);
  read(scan, frame(kHeaders, 0, 10), 100);
  CHECK(scan.open_headers() == 1);
  const std::string last = frame(kContinuation, kEndHeaders, 10);
  read(scan, last.substr(0, 18), 100);
  CHECK(scan.open_headers() == 1);
  read(scan, last.substr(18), 100);
  CHECK(scan.open_headers() == 0);
  read(scan, frame(kHeaders, kEndHeaders, 0), 100);
  CHECK(scan.open_headers() == 0);
  read(scan, frame(kHeaders, kEndHeaders, 5).substr(0, 9), 100);
  CHECK(scan.open_headers() == 3);
}
