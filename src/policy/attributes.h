#pragma once
/// What is known of a connection or request when a policy decides about it (Istio's "authorization
/// policy conditions"). Views borrow from the caller for the length of one call. Thread: values.

#include <meshnode/address.h>
#include <meshnode/ids.h>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace meshnode::policy {

/// A claim of a token: texts (a string is a list of one), or claims by name. Claims that are
/// neither match nothing.
struct Claim {
  std::vector<std::string> texts;
  std::map<std::string, Claim> nested;
};

/// What an HTTP request brings besides its connection.
struct HttpRequest {
  std::string_view method;
  std::string_view host;  ///< :authority, or Host
  std::string_view path;  ///< normalised; the query may still be there, and is not looked at
  /// Names in lower case; one that came several times has its values joined by ",".
  std::span<const std::pair<std::string, std::string>> headers;
  const Claim* claims = nullptr;  ///< of the validated token, as `nested`; null: there is none
};

/// Who calls, as proven by a certificate or by the kernel of the same node.
struct Peer {
  explicit Peer(const SpiffeId& id) : identity(id), uri(id.uri()) {}
  SpiffeId identity;
  std::string uri;
};

struct Attributes {
  const Peer* peer = nullptr;  ///< null: nothing is proven (plaintext)
  IpAddress source;            ///< the TCP peer's; in a tunnel, the tunnel's
  IpAddress remote;            ///< the first caller's as far as it is known (X-Forwarded-For)
  SocketAddress destination;   ///< the workload's own address and port
  std::string_view sni;        ///< of the connection to the workload itself; empty: none
  const HttpRequest* http = nullptr;  ///< null: opaque TCP
};

}  // namespace meshnode::policy
