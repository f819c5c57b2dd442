// The header fields a peer chooses: the authority that is dialled, the forwarded host in our logs.
// What we send means to the far agent what it meant here.
#include <string>

#include "fuzz/input.h"
#include "proxy/connect_headers.h"

using namespace meshnode;
using fuzz::Input;
using fuzz::require;

namespace {

/// Our own CONNECT, of any caller and destination.
void try_own(Input& in) {
  std::array<std::uint8_t, 16> raw{};
  const Bytes given = in.take(raw.size());
  std::copy(given.begin(), given.end(), raw.begin());
  const SocketAddress destination{IpAddress::v6(raw), in.pair()};
  const SocketAddress source{IpAddress::v4({10, 0, 0, in.octet()}), in.pair()};
  snapshot::Party caller;
  for (std::string* each :
       {&caller.cluster, &caller.ns, &caller.workload, &caller.canonical_service,
        &caller.canonical_revision, &caller.region, &caller.zone}) {
    if (in.flag()) *each = "a" + std::to_string(in.octet());
  }
  const std::string host = in.flag() ? "reviews.bookinfo.svc.cluster.local" : "";
  const std::uint64_t high = in.word();
  const auto request = proxy::make_connect(destination, source, caller, host, high, in.word());
  const auto parsed = proxy::parse_authority(request.authority);
  require(destination.port == 0 ? !parsed : parsed && *parsed == destination);
  require(proxy::forwarded_host(request.forwarded) == host);
  require(request.traceparent.size() == 55 &&
          request.traceparent.find(std::string(32, '0')) == std::string::npos &&
          request.traceparent.find("-" + std::string(16, '0') + "-") == std::string::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(as_text({data, size}));
  const auto destination = proxy::parse_authority(text);
  // What we print must mean what we parsed.
  require(!destination || proxy::parse_authority(destination->text()) == *destination);
  const std::string host = proxy::forwarded_host(text);
  require(host.empty() || is_dns_name(host));
  Input in(data, size);
  try_own(in);
  return 0;
}
