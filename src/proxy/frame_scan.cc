#include "proxy/frame_scan.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>

namespace meshnode::proxy {
namespace {

constexpr std::size_t kMostPadding = 256;  // the octet that says how much included

}  // namespace

FrameScan::Kind FrameScan::next(Bytes& data) {
  while (!data.empty()) {
    if (skip_ > 0) {
      const std::size_t size = std::min(skip_, data.size());
      data = data.subspan(size);
      skip_ -= size;
    } else {
      header_[have_++] = data.front();
      data = data.subspan(1);
    }
    if (skip_ == 0 && last_of_headers_ && have_ == 0) {
      in_headers_ = last_of_headers_ = false;
    }
    if (have_ == kHeader) {
      have_ = 0;
      return classify();
    }
  }
  return Kind::kNone;
}

std::uint32_t FrameScan::stream() const {
  return (static_cast<std::uint32_t>(header_[5]) & 0x7fU) << 24U |
         static_cast<std::uint32_t>(header_[6]) << 16U |
         static_cast<std::uint32_t>(header_[7]) << 8U | header_[8];
}

std::size_t FrameScan::length() const {
  return static_cast<std::size_t>(header_[0]) << 16U | static_cast<std::size_t>(header_[1]) << 8U |
         header_[2];
}

FrameScan::Kind FrameScan::headers() {
  const std::uint32_t id = stream();
  if (!client_) {
    return Kind::kFollowing;
  }
  if (id <= highest_) {
    return id >= gap_begin_ && id < gap_end_ ? Kind::kBackwards : Kind::kFollowing;
  }
  const std::uint32_t next = highest_ == 0 ? 1 : highest_ + 2;
  if (id > next) {
    gap_begin_ = next;
    gap_end_ = id;
  }
  highest_ = id;
  return Kind::kCarrying;
}

FrameScan::Kind FrameScan::classify() {
  skip_ = length();
  const std::uint8_t type = header_[3];
  const std::uint8_t flags = header_[4];
  switch (type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_CONTINUATION: {
      const bool last = (flags & NGHTTP2_FLAG_END_HEADERS) != 0;
      headers_ += type == NGHTTP2_HEADERS ? 1 : 0;
      in_headers_ = !last || skip_ > 0;
      last_of_headers_ = last && skip_ > 0;
      return type == NGHTTP2_HEADERS ? headers() : Kind::kCarrying;
    }
    case NGHTTP2_RST_STREAM:
      return Kind::kReset;
    case NGHTTP2_DATA:
      // Padded, it may be nothing but padding.
      return skip_ > ((flags & NGHTTP2_FLAG_PADDED) != 0 ? kMostPadding : 0) ? Kind::kCarrying
                                                                             : Kind::kIdle;
    default:
      return Kind::kIdle;
  }
}

}  // namespace meshnode::proxy
