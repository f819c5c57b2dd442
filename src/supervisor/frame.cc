#include "supervisor/frame.h"

#include <cstdint>

namespace meshnode::supervisor {

Result<std::string> make_frame(std::string_view body, std::size_t descriptors) {
  if (descriptors > 255) {
    return fail(ErrorCode::kLimit, "more than 255 descriptors with one message");
  }
  if (body.empty() || body.size() > kMaxFrame) {
    return fail(ErrorCode::kLimit, "a channel message of " + std::to_string(body.size()) +
                                       " octets; allowed are 1 to " + std::to_string(kMaxFrame));
  }
  std::string frame;
  frame.reserve(kFrameHeader + body.size());
  frame.push_back(static_cast<char>(descriptors));
  for (const unsigned shift : {16U, 8U, 0U}) {
    frame.push_back(static_cast<char>((body.size() >> shift) & 0xffU));
  }
  frame.append(body);
  return frame;
}

void FrameDecoder::feed(Bytes piece) { buffer_.append(as_text(piece)); }

Result<std::optional<std::string>> FrameDecoder::next() {
  if (buffer_.size() < kFrameHeader) return std::optional<std::string>{};
  std::size_t length = 0;
  for (std::size_t i = 1; i < kFrameHeader; ++i) {
    length = (length << 8U) | static_cast<std::uint8_t>(buffer_[i]);
  }
  if (length == 0 || length > kMaxFrame) {
    return fail(ErrorCode::kLimit, "a channel frame announces " + std::to_string(length) +
                                       " octets; allowed are 1 to " + std::to_string(kMaxFrame));
  }
  if (buffer_.size() < kFrameHeader + length) return std::optional<std::string>{};
  descriptors_ = static_cast<std::uint8_t>(buffer_[0]);
  auto body = std::make_optional(buffer_.substr(kFrameHeader, length));
  buffer_.erase(0, kFrameHeader + length);
  // Not clear(): a spec of a megabyte must not stay allocated for the life of the process.
  if (buffer_.empty()) buffer_ = std::string();
  return body;
}

}  // namespace meshnode::supervisor
