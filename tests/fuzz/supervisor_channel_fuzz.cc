// What a taken-over worker may write into the channel: frames and messages of any shape. Accepted
// messages must survive another round.

#include <cstdlib>

#include "supervisor/frame.h"
#include "supervisor/message.h"

using meshnode::supervisor::decode_to_supervisor;
using meshnode::supervisor::decode_to_worker;
using meshnode::supervisor::FrameDecoder;

namespace {

void require(bool held) {
  if (!held) std::abort();
}

void try_message(std::string_view body) {
  if (const auto message = decode_to_supervisor(body)) {
    const auto again = decode_to_supervisor(encode(*message));
    require(again.has_value() && *again == *message);
  }
  if (const auto message = decode_to_worker(body)) {
    require(decode_to_worker(encode(*message)).has_value());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try_message(meshnode::as_text({data, size}));

  // The first octet says how the stream is cut.
  if (size == 0) return 0;
  const std::size_t step = std::size_t{data[0]} + 1;
  FrameDecoder decoder;
  for (std::size_t at = 1; at < size; at += step) {
    decoder.feed({data + at, std::min(step, size - at)});
    auto body = decoder.next();
    for (; body && *body; body = decoder.next()) try_message(**body);
    if (!body) break;
  }
  return 0;
}
