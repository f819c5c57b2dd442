#pragma once
/// Reads the frame headers of an HTTP/2 byte stream as it passes (RFC 9113 §4.1), to count what
/// nghttp2 answers or ignores without end. A core: no errors of its own, whatever comes is
/// nghttp2's to judge. Thread: its owner's.

#include <meshnode/bytes.h>
#include <array>
#include <cstddef>
#include <cstdint>

namespace meshnode::proxy {

class FrameScan {
 public:
  /// `preface`: the stream is a client's and begins with its 24 octets.
  explicit FrameScan(bool preface) : client_(preface), skip_(preface ? kPreface : 0) {}

  enum class Kind {
    kNone,       ///< no whole frame header is left in the data
    kCarrying,   ///< a request's header fields, or DATA with payload
    kFollowing,  ///< HEADERS for a stream that a client has begun before: an answer, trailers
    kReset,      ///< RST_STREAM
    kBackwards,  ///< a client's HEADERS for a stream that it has passed over (RFC 9113 §5.1.1)
    kIdle,       ///< all else: nothing for any program in it
  };
  /// Takes `data` up to the end of the next frame header; call until kNone.
  Kind next(Bytes& data);

  /// Of the frame that next() has just told of.
  std::uint32_t stream() const;
  std::size_t length() const;

  /// A request's header fields have begun to arrive and are not complete: which ones, counted from
  /// 1, else 0.
  std::uint64_t open_headers() const { return in_headers_ ? headers_ : 0; }

 private:
  static constexpr std::size_t kPreface = 24;
  static constexpr std::size_t kHeader = 9;

  Kind classify();
  Kind headers();

  const bool client_;
  std::size_t skip_;  // of a payload, or the preface
  std::array<std::uint8_t, kHeader> header_{};
  std::size_t have_ = 0;  // of header_
  std::uint64_t headers_ = 0;
  std::uint32_t highest_ = 0;    // stream of a client's
  std::uint32_t gap_begin_ = 0;  // the last identifiers that were passed over
  std::uint32_t gap_end_ = 0;
  bool in_headers_ = false;
  bool last_of_headers_ = false;  // in_headers_ ends with this frame's payload
};

}  // namespace meshnode::proxy
