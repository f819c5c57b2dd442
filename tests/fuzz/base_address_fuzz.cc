// Whatever parses as an address prints as one that parses to the same value.
#include <meshnode/address.h>

#include <cstdlib>

#include "base/duration.h"
#include "base/passwd.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace meshnode;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto ip = IpAddress::parse(text)) {
    if (auto again = IpAddress::parse(ip->text()); !again || *again != *ip) std::abort();
  }
  if (auto address = SocketAddress::parse(text)) {
    auto again = SocketAddress::parse(address->text());
    if (!again || *again != *address) std::abort();
  }
  if (auto duration = parse_duration(text, Duration::zero(), Duration::max())) {
    auto again = parse_duration(duration_text(*duration), Duration::zero(), Duration::max());
    if (!again || *again != *duration) std::abort();
  }
  (void)user_id(text, "user");
  return 0;
}
