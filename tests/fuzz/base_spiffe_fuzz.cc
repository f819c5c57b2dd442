// Whatever parses as an identity has one spelling: its own.
#include <meshnode/ids.h>

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using meshnode::SpiffeId;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto id = SpiffeId::parse(text)) {
    if (id->uri() != text) std::abort();
    auto again = SpiffeId::from_server_name(id->server_name());
    if (!again || *again != *id) std::abort();
  }
  if (auto id = SpiffeId::from_server_name(text)) {
    if (id->server_name() != text) std::abort();
    if (auto again = SpiffeId::parse(id->uri()); !again || *again != *id) std::abort();
  }
  return 0;
}
