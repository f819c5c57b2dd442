#pragma once
/// Frames on the channel between supervisor and worker: an octet that says how many descriptors
/// travel along, three of length, most significant first, then that many octets. Pure. Thread:
/// values.

#include <meshnode/bytes.h>
#include <meshnode/result.h>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace meshnode::supervisor {

/// Octets in a body; the largest capture spec (1,024 workloads of 64 ports) needs a quarter of it.
inline constexpr std::size_t kMaxFrame = 4 * 1024 * 1024;
inline constexpr std::size_t kFrameHeader = 4;

/// kLimit when the body is empty or longer than kMaxFrame, or with more than 255 descriptors.
Result<std::string> make_frame(std::string_view body, std::size_t descriptors = 0);

/// Cuts a byte stream into bodies. Holds at most one frame and one fed piece.
class FrameDecoder {
 public:
  void feed(Bytes piece);
  /// The next whole body, if there is one; call until there is none before feeding more. kLimit
  /// when a header announces nothing or more than kMaxFrame; the stream is unusable then.
  Result<std::optional<std::string>> next();
  bool in_frame() const { return !buffer_.empty(); }
  /// How many descriptors belong to the body that next() gave last.
  std::size_t descriptors() const { return descriptors_; }

 private:
  std::size_t descriptors_ = 0;
  std::string buffer_;
};

}  // namespace meshnode::supervisor
