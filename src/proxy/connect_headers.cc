#include "proxy/connect_headers.h"

#include <fmt/format.h>

#include <iterator>
#include <string_view>

namespace meshnode::proxy {

ConnectRequest make_connect(const SocketAddress& destination, const SocketAddress& source,
                            const snapshot::Party& caller, const std::string& service_host,
                            std::uint64_t random_high, std::uint64_t random_low) {
  ConnectRequest request;
  request.authority = destination.text();
  request.forwarded = fmt::format("for=\"{}\"", source.text());
  if (!service_host.empty()) {
    request.forwarded += ";host=" + service_host;
  }
  const auto add = [&request](const char* key, const std::string& value) {
    if (!value.empty()) {
      fmt::format_to(std::back_inserter(request.baggage), "{}{}={}",
                     request.baggage.empty() ? "" : ",", key, value);
    }
  };
  add("k8s.cluster.name", caller.cluster);
  add("k8s.namespace.name", caller.ns);
  add("k8s.deployment.name", caller.workload);
  add("service.name", caller.canonical_service);
  add("service.version", caller.canonical_revision);
  add("cloud.region", caller.region);
  add("cloud.availability_zone", caller.zone);
  // All-zero ids are invalid (W3C Trace Context §3.2.2.3).
  request.traceparent = fmt::format(
      "00-{:016x}{:016x}-{:016x}-00", random_high, random_low | 1U,
      random_high ^ (random_low | 1U) ? random_high ^ (random_low | 1U) : std::uint64_t{1});
  return request;
}

Result<SocketAddress> parse_authority(const std::string& authority) {
  auto parsed = SocketAddress::parse(authority);
  if (!parsed) {
    return fail(ErrorCode::kInvalid,
                fmt::format("the authority '{}' is no address and port", authority.substr(0, 100)));
  }
  if (parsed->port == 0) {
    return fail(ErrorCode::kInvalid, "the authority names port 0");
  }
  return *parsed;
}

std::string forwarded_host(const std::string& forwarded) {
  constexpr std::string_view kKey = ";host=";
  const std::size_t at = forwarded.find(kKey);
  if (at == std::string::npos) {
    return {};
  }
  const std::size_t start = at + kKey.size();
  std::string host = forwarded.substr(start, forwarded.find_first_of(";,", start) - start);
  return is_dns_name(host) ? host : std::string{};
}

}  // namespace meshnode::proxy
