// The header fields a peer chooses: the authority that is dialled, the forwarded host in our logs.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "proxy/connect_headers.h"

using namespace meshnode;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(as_text({data, size}));
  const auto destination = proxy::parse_authority(text);
  if (destination && proxy::parse_authority(destination->text()) != *destination) {
    std::abort();  // what we print must mean what we parsed
  }
  const std::string host = proxy::forwarded_host(text);
  if (!host.empty() && !is_dns_name(host)) {
    std::abort();
  }
  return 0;
}
