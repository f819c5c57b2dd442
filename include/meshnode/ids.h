#pragma once
/// Names of things. Parsing is the only constructor from text; every value is valid.

#include <compare>
#include <functional>
#include <meshnode/result.h>
#include <string>
#include <string_view>

namespace meshnode {

/// RFC 1123 label: 1 to 63 of [a-z0-9-], alphanumeric at both ends.
bool is_dns_label(std::string_view text);
/// RFC 1123 subdomain: labels joined by dots, at most 253 octets, no trailing dot.
bool is_dns_name(std::string_view text);

/// A workload identity, `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`
/// (SPIFFE ID standard; Istio's path form). The trust domain is a lower-case DNS name, namespace
/// and service account are DNS labels; anything else, percent signs and trailing dots
/// included, does not parse.
class SpiffeId {
 public:
  static Result<SpiffeId> parse(std::string_view uri);
  static Result<SpiffeId> make(std::string_view trust_domain, std::string_view ns,
                               std::string_view service_account);

  const std::string& trust_domain() const { return trust_domain_; }
  const std::string& ns() const { return ns_; }
  const std::string& service_account() const { return service_account_; }
  std::string uri() const;
  /// `<sa>.<namespace>.sa.<trust-domain>`: the TLS server name that asks for this identity.
  std::string server_name() const;
  /// The identity that a server name of that form asks for.
  static Result<SpiffeId> from_server_name(std::string_view sni);

  auto operator<=>(const SpiffeId&) const = default;

 private:
  std::string trust_domain_;
  std::string ns_;
  std::string service_account_;
};

/// metadata.namespace and metadata.name of a Workload resource.
struct WorkloadId {
  std::string ns;
  std::string name;
  std::string text() const { return ns + "/" + name; }
  auto operator<=>(const WorkloadId&) const = default;
};

}  // namespace meshnode

template <>
struct std::hash<meshnode::SpiffeId> {
  std::size_t operator()(const meshnode::SpiffeId& id) const {
    return std::hash<std::string>{}(id.uri());
  }
};
template <>
struct std::hash<meshnode::WorkloadId> {
  std::size_t operator()(const meshnode::WorkloadId& id) const {
    return std::hash<std::string>{}(id.text());
  }
};
