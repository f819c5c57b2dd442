#pragma once
/// The first 16 bytes of every benchmark connection: what the client wants of the server. Both
/// ends run on one machine, so the byte order is the host's.

#include <array>
#include <cstdint>
#include <cstring>

namespace meshnode::bench {

enum class Mode : std::uint32_t {
  kSink = 1,         ///< the server reads and discards
  kSource = 2,       ///< the server sends until the connection ends
  kAnswer = 3,       ///< a response to every request, until the client closes
  kAnswerClose = 4,  ///< one response, then the server closes first
};

struct Hello {
  std::uint32_t magic = kMagic;
  Mode mode = Mode::kSink;
  std::uint32_t request = 0;   ///< bytes a request, at least 1 in the two answer modes
  std::uint32_t response = 0;  ///< bytes a response
  static constexpr std::uint32_t kMagic = 0x314c424d;
};
static_assert(sizeof(Hello) == 16);

inline constexpr std::uint32_t kMaxMessage = 1U << 20U;

inline bool valid(const Hello& hello) {
  const auto mode = static_cast<std::uint32_t>(hello.mode);
  if (hello.magic != Hello::kMagic || mode < 1 || mode > 4) return false;
  if (hello.mode == Mode::kSink || hello.mode == Mode::kSource) return true;
  return hello.request >= 1 && hello.request <= kMaxMessage && hello.response >= 1 &&
         hello.response <= kMaxMessage;
}

}  // namespace meshnode::bench
