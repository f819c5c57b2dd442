#include "capture/listeners.h"

#include "capture/spec.h"

namespace meshnode::capture {

std::vector<Listener> listeners() {
  const IpAddress any4;
  const IpAddress any6 = IpAddress::v6({});
  return {
      {"outbound4", Family::kV4, any4, kOutboundPort, false},
      {"outbound6", Family::kV6, any6, kOutboundPort, false},
      {"inbound4", Family::kV4, any4, kInboundPort, true},
      {"inbound6", Family::kV6, any6, kInboundPort, true},
      {"tunnel4", Family::kV4, any4, kTunnelPort, false},
      {"tunnel6", Family::kV6, any6, kTunnelPort, false},
  };
}

}  // namespace meshnode::capture
