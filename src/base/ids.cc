#include <meshnode/ids.h>
#include <algorithm>

#include "base/escape.h"

namespace meshnode {
namespace {

constexpr std::size_t kMaxLabel = 63;
constexpr std::size_t kMaxName = 253;
constexpr std::size_t kMaxServerName = 253;
constexpr std::string_view kScheme = "spiffe://";
constexpr std::string_view kShape =
    "; expected spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>";

bool is_alphanumeric(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

// Cuts `rest` at the first '/', which is dropped; false when there is none.
bool take_segment(std::string_view& rest, std::string_view& segment) {
  std::size_t slash = rest.find('/');
  if (slash == rest.npos) return false;
  segment = rest.substr(0, slash);
  rest.remove_prefix(slash + 1);
  return true;
}

}  // namespace

bool is_dns_label(std::string_view text) {
  return !text.empty() && text.size() <= kMaxLabel && is_alphanumeric(text.front()) &&
         is_alphanumeric(text.back()) && std::all_of(text.begin(), text.end(), [](char c) {
           return is_alphanumeric(c) || c == '-';
         });
}

bool is_dns_name(std::string_view text) {
  if (text.size() > kMaxName) return false;
  for (;;) {
    std::size_t dot = text.find('.');
    if (!is_dns_label(text.substr(0, dot))) return false;
    if (dot == text.npos) return true;
    text.remove_prefix(dot + 1);
  }
}

Result<SpiffeId> SpiffeId::make(std::string_view trust_domain, std::string_view ns,
                                std::string_view service_account) {
  if (!is_dns_name(trust_domain)) {
    return fail(ErrorCode::kInvalid,
                "trust domain " + quoted(trust_domain) + " is not a lower-case DNS name");
  }
  if (!is_dns_label(ns)) {
    return fail(ErrorCode::kInvalid, "namespace " + quoted(ns) + " is not a DNS label");
  }
  if (!is_dns_label(service_account)) {
    return fail(ErrorCode::kInvalid,
                "service account " + quoted(service_account) + " is not a DNS label");
  }
  SpiffeId id;
  id.trust_domain_ = trust_domain;
  id.ns_ = ns;
  id.service_account_ = service_account;
  if (id.server_name().size() > kMaxServerName) {
    return fail(ErrorCode::kInvalid, "identity " + quoted(id.uri()) +
                                         " forms a server name of more than 253 octets; shorten "
                                         "the trust domain");
  }
  return id;
}

Result<SpiffeId> SpiffeId::parse(std::string_view uri) {
  auto refuse = [&] {
    return fail(ErrorCode::kInvalid,
                "not a workload identity: " + quoted(uri) + std::string(kShape));
  };
  if (!uri.starts_with(kScheme)) return refuse();
  std::string_view rest = uri.substr(kScheme.size());
  std::string_view trust_domain, ns_word, ns, sa_word;
  if (!take_segment(rest, trust_domain) || !take_segment(rest, ns_word) ||
      !take_segment(rest, ns) || !take_segment(rest, sa_word)) {
    return refuse();
  }
  if (ns_word != "ns" || sa_word != "sa") return refuse();
  return make(trust_domain, ns, rest);
}

std::string SpiffeId::uri() const {
  std::string out;
  out.reserve(kScheme.size() + trust_domain_.size() + ns_.size() + service_account_.size() + 8);
  out += kScheme;
  out += trust_domain_;
  out += "/ns/";
  out += ns_;
  out += "/sa/";
  out += service_account_;
  return out;
}

std::string SpiffeId::server_name() const {
  return service_account_ + "." + ns_ + ".sa." + trust_domain_;
}

Result<SpiffeId> SpiffeId::from_server_name(std::string_view sni) {
  auto refuse = [&] {
    return fail(ErrorCode::kInvalid,
                "server name " + quoted(sni) +
                    " is not of the form <service-account>.<namespace>.sa.<trust-domain>");
  };
  std::size_t first = sni.find('.');
  std::size_t second = first == sni.npos ? sni.npos : sni.find('.', first + 1);
  if (second == sni.npos || !sni.substr(second + 1).starts_with("sa.")) return refuse();
  return make(sni.substr(second + 4), sni.substr(first + 1, second - first - 1),
              sni.substr(0, first));
}

}  // namespace meshnode
