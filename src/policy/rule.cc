#include "policy/rule.h"

#include <algorithm>
#include <charconv>

namespace meshnode::policy {
namespace {

using Action = model::AuthorizationPolicySpec::Action;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return out;
}

const Claim* claim(const Claim& claims, const std::vector<std::string>& names) {
  const Claim* at = &claims;
  for (const std::string& name : names) {
    const auto found = at->nested.find(name);
    if (found == at->nested.end()) return nullptr;
    at = &found->second;
  }
  return at;
}

/// A list matches when one of its texts does.
bool any_text(const TextSet& set, const Claim* claim) {
  if (claim == nullptr) return false;
  return std::any_of(claim->texts.begin(), claim->texts.end(),
                     [&](const std::string& text) { return set.matches(text); });
}

template <class Each>
bool one_of(const std::vector<Each>& alternatives, const Facts& facts) {
  return alternatives.empty() ||
         std::any_of(alternatives.begin(), alternatives.end(),
                     [&](const Each& each) { return each.matches(facts); });
}

bool token_matches(const Field<IssuedToSet>& field, const Facts& facts) {
  static const Claim kNoToken;
  const Claim* claims = facts.of.http->claims;
  return field.matches(claims != nullptr ? *claims : kNoToken);
}

}  // namespace

Facts::Facts(const Attributes& attributes) : of(attributes) {
  static constexpr std::size_t kScheme = std::string_view("spiffe://").size();
  if (of.peer != nullptr) {
    uri = of.peer->uri;
    ns = of.peer->identity.ns();
    trust_domain = of.peer->identity.trust_domain();
    account = uri.substr(kScheme + trust_domain.size());
  }
  if (of.http != nullptr) {
    host = lower(of.http->host);
    path = without_query(of.http->path);
  }
}

bool PortSet::matches(std::uint16_t port) const {
  return std::binary_search(ports.begin(), ports.end(), port);
}

bool PathSet::matches(std::string_view path) const {
  return texts.matches(path) ||
         std::any_of(templates.begin(), templates.end(),
                     [&](const std::string& each) { return template_matches(each, path); });
}

bool IssuedToSet::matches(const Claim& claims) const {
  const auto has = [&](const std::string& name, const TextPattern& pattern) {
    const auto found = claims.nested.find(name);
    return found != claims.nested.end() &&
           std::any_of(found->second.texts.begin(), found->second.texts.end(),
                       [&](const std::string& text) { return pattern.matches(text); });
  };
  return std::any_of(all.begin(), all.end(), [&](const IssuedTo& each) {
    return has("iss", each.issuer) && has("sub", each.subject);
  });
}

bool CompiledSource::matches(const Facts& facts) const {
  return principals.matches(facts.uri) && namespaces.matches(facts.ns) &&
         accounts.matches(facts.account) && trust_domains.matches(facts.trust_domain) &&
         blocks.matches(facts.of.source) && remote_blocks.matches(facts.of.remote) &&
         (!request_principals.given || facts.of.http == nullptr ||
          token_matches(request_principals, facts));
}

bool CompiledOperation::matches(const Facts& facts) const {
  if (!ports.matches(facts.of.destination.port)) return false;
  return facts.of.http == nullptr || (hosts.matches(facts.host) &&
                                      methods.matches(facts.of.http->method) &&
                                      paths.matches(facts.path));
}

bool CompiledCondition::matches(const Facts& facts) const {
  if (http() && facts.of.http == nullptr) return true;
  const auto text = [&](std::string_view value) {
    return std::get<Field<TextSet>>(values).matches(value);
  };
  switch (key) {
    case Key::kSourceIp:
      return std::get<Field<BlockSet>>(values).matches(facts.of.source);
    case Key::kRemoteIp:
      return std::get<Field<BlockSet>>(values).matches(facts.of.remote);
    case Key::kDestinationIp:
      return std::get<Field<BlockSet>>(values).matches(facts.of.destination.ip);
    case Key::kDestinationPort:
      return std::get<Field<PortSet>>(values).matches(facts.of.destination.port);
    case Key::kNamespace:
      return text(facts.ns);
    case Key::kAccount:
      return text(facts.account);
    case Key::kTrustDomain:
      return text(facts.trust_domain);
    case Key::kPrincipal:
      return text(facts.uri);
    case Key::kSni:
      return text(facts.of.sni);
    case Key::kHeader: {
      const auto& headers = facts.of.http->headers;
      const auto found = std::find_if(headers.begin(), headers.end(),
                                      [&](const auto& each) { return each.first == names[0]; });
      const auto& field = std::get<Field<TextSet>>(values);
      return found == headers.end() ? field.any.empty() : field.matches(found->second);
    }
    case Key::kRequestPrincipal:
      return token_matches(std::get<Field<IssuedToSet>>(values), facts);
    case Key::kClaim: {
      const Claim* claims = facts.of.http->claims;
      const Claim* found = claims == nullptr ? nullptr : claim(*claims, names);
      const auto& field = std::get<Field<TextSet>>(values);
      return (field.any.empty() || any_text(field.any, found)) && !any_text(field.none, found);
    }
  }
  return false;
}

bool CompiledRule::matches(const Facts& facts) const {
  if (http && facts.of.http == nullptr && ref.action == Action::kAllow) return false;
  return one_of(from, facts) && one_of(to, facts) &&
         std::all_of(when.begin(), when.end(),
                     [&](const CompiledCondition& each) { return each.matches(facts); });
}

}  // namespace meshnode::policy
