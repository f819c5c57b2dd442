#include <algorithm>
#include <charconv>
#include <utility>

#include "policy/rule.h"

namespace meshnode::policy {
namespace {

using model::Values;
using Key = CompiledCondition::Key;

template <class Set, class Item, class Parse>
bool fill_set(Set& set, const std::vector<std::string>& values, const Parse& parse) {
  std::vector<Item> items;
  for (const std::string& value : values) {
    if (!parse(value, items)) return false;
  }
  set = Set(std::move(items));
  return true;
}

template <class Set, class Item, class Parse>
bool fill(Field<Set>& field, const Values& values, const Parse& parse) {
  field.given = !values.empty();
  return fill_set<Set, Item>(field.any, values.any, parse) &&
         fill_set<Set, Item>(field.none, values.none, parse);
}

/// Of one rule: who it is of, and which trust domains are the mesh's.
class Compiler {
 public:
  Compiler(const std::string& ns, const std::vector<std::string>& own) : ns_(ns), own_(own) {}

  bool texts(Field<TextSet>& field, const Values& values) const {
    return fill<TextSet, TextPattern>(field, values, [](const std::string& value, auto& out) {
      out.push_back(text_pattern(value));
      return true;
    });
  }
  bool principals(Field<TextSet>& field, const Values& values) const {
    return fill<TextSet, TextPattern>(field, values, [this](const std::string& value, auto& out) {
      for (const std::string& each : with_aliases(value, own_)) {
        out.push_back(principal_pattern(each));
      }
      return true;
    });
  }
  bool namespaces(Field<TextSet>& field, const Values& values) const {
    return fill<TextSet, TextPattern>(field, values, [](const std::string& value, auto& out) {
      out.push_back(namespace_pattern(value));
      return true;
    });
  }
  bool accounts(Field<TextSet>& field, const Values& values) const {
    return fill<TextSet, TextPattern>(field, values, [this](const std::string& value, auto& out) {
      const std::size_t slash = value.find('/');
      const bool qualified = slash != std::string::npos;
      const std::string ns = qualified ? value.substr(0, slash) : ns_;
      const std::string account = qualified ? value.substr(slash + 1) : value;
      std::string exact = "/ns/";
      exact.append(ns).append("/sa/").append(account);
      out.push_back({TextPattern::Kind::kExact, std::move(exact)});
      return true;
    });
  }
  /// Host names are compared in lower case.
  bool hosts(Field<TextSet>& field, const Values& values) const {
    return fill<TextSet, TextPattern>(field, values, [](std::string value, auto& out) {
      std::transform(value.begin(), value.end(), value.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
      });
      out.push_back(text_pattern(value));
      return true;
    });
  }
  bool blocks(Field<BlockSet>& field, const Values& values) const {
    return fill<BlockSet, Block>(field, values, [](const std::string& value, auto& out) {
      const auto block = parse_block(value);
      if (block) out.push_back(*block);
      return block.has_value();
    });
  }
  bool ports(Field<PortSet>& field, const Values& values) const {
    return fill<PortSet, std::uint16_t>(field, values, [](const std::string& value, auto& out) {
      std::uint16_t port = 0;
      const char* last = value.data() + value.size();
      const auto [end, error] = std::from_chars(value.data(), last, port);
      out.push_back(port);
      return error == std::errc() && end == last;
    });
  }
  bool paths(Field<PathSet>& field, const Values& values) const {
    return fill<PathSet, std::string>(field, values, [](const std::string& value, auto& out) {
      out.push_back(value);
      return true;
    });
  }
  bool request_principals(Field<IssuedToSet>& field, const Values& values) const;

  bool source(CompiledSource& to, const model::Source& from) const {
    return principals(to.principals, from.principals) &&
           namespaces(to.namespaces, from.namespaces) &&
           accounts(to.accounts, from.service_accounts) &&
           texts(to.trust_domains, from.trust_domains) && blocks(to.blocks, from.ip_blocks) &&
           blocks(to.remote_blocks, from.remote_ip_blocks) &&
           request_principals(to.request_principals, from.request_principals);
  }
  bool operation(CompiledOperation& to, const model::Operation& from) const {
    return hosts(to.hosts, from.hosts) && texts(to.methods, from.methods) &&
           paths(to.paths, from.paths) && ports(to.ports, from.ports);
  }
  bool condition(CompiledCondition& to, const model::Condition& from) const;

 private:
  template <class Set, class Fill>
  bool put(CompiledCondition& to, Key key, const Fill& fill_it) const {
    to.key = key;
    return fill_it(to.values.emplace<Field<Set>>());
  }

  const std::string& ns_;
  const std::vector<std::string>& own_;
};

/// The cases are Istio's: an end that is a `*` belongs to the issuer or to the subject.
IssuedTo issued_to(std::string_view value) {
  using Kind = TextPattern::Kind;
  const TextPattern any{Kind::kPresent, {}};
  const auto exact = [](std::string_view text) {
    return TextPattern{Kind::kExact, std::string(text)};
  };
  const std::size_t slash = value.rfind('/');
  const bool both = slash != std::string_view::npos;
  const std::string_view issuer = value.substr(0, slash);
  const std::string_view subject = both ? value.substr(slash + 1) : std::string_view();
  if (value == "*") return {any, any};
  if (value.starts_with('*')) {
    if (!both) return {any, {Kind::kSuffix, std::string(value.substr(1))}};
    return {issuer == "*" ? any : TextPattern{Kind::kSuffix, std::string(issuer.substr(1))},
            exact(subject)};
  }
  if (value.ends_with('*')) {
    const auto without_star = [](std::string_view text) {
      return std::string(text.substr(0, text.size() - 1));
    };
    if (!both) return {{Kind::kPrefix, without_star(value)}, any};
    return {exact(issuer),
            subject == "*" ? any : TextPattern{Kind::kPrefix, without_star(subject)}};
  }
  return {exact(issuer), exact(subject)};
}

bool Compiler::request_principals(Field<IssuedToSet>& field, const Values& values) const {
  return fill<IssuedToSet, IssuedTo>(field, values, [](const std::string& value, auto& out) {
    out.push_back(issued_to(value));
    return true;
  });
}

/// `prefix[a][b]` as {a, b}; nothing when it is not of that form.
std::vector<std::string> bracketed(std::string_view key, std::string_view prefix) {
  std::vector<std::string> names;
  std::string_view rest = key.substr(prefix.size());
  while (!rest.empty()) {
    const std::size_t end = rest.find(']');
    if (rest.front() != '[' || end == std::string_view::npos || end == 1) return {};
    names.emplace_back(rest.substr(1, end - 1));
    rest.remove_prefix(end + 1);
  }
  return names;
}

bool Compiler::condition(CompiledCondition& to, const model::Condition& from) const {
  static constexpr std::string_view kHeaders = "request.headers";
  static constexpr std::string_view kClaims = "request.auth.claims";
  const std::string& key = from.key;
  const Values& values = from.values;
  const auto text = [&](Field<TextSet>& field) { return texts(field, values); };
  const auto block = [&](Field<BlockSet>& field) { return blocks(field, values); };
  if (key == "source.ip") return put<BlockSet>(to, Key::kSourceIp, block);
  if (key == "remote.ip") return put<BlockSet>(to, Key::kRemoteIp, block);
  if (key == "destination.ip") return put<BlockSet>(to, Key::kDestinationIp, block);
  if (key == "destination.port") {
    return put<PortSet>(to, Key::kDestinationPort,
                        [&](Field<PortSet>& field) { return ports(field, values); });
  }
  if (key == "source.namespace") {
    return put<TextSet>(to, Key::kNamespace,
                        [&](Field<TextSet>& field) { return namespaces(field, values); });
  }
  if (key == "source.serviceAccount") {
    return put<TextSet>(to, Key::kAccount,
                        [&](Field<TextSet>& field) { return accounts(field, values); });
  }
  if (key == "source.principal") {
    return put<TextSet>(to, Key::kPrincipal,
                        [&](Field<TextSet>& field) { return principals(field, values); });
  }
  if (key == "source.trustDomain") return put<TextSet>(to, Key::kTrustDomain, text);
  if (key == "connection.sni") return put<TextSet>(to, Key::kSni, text);
  if (key == "request.auth.principal") {
    return put<IssuedToSet>(to, Key::kRequestPrincipal, [&](Field<IssuedToSet>& field) {
      return request_principals(field, values);
    });
  }
  if (key == "request.auth.audiences" || key == "request.auth.presenter") {
    to.names = {key == "request.auth.audiences" ? "aud" : "azp"};
    return put<TextSet>(to, Key::kClaim, text);
  }
  if (key.starts_with(kHeaders)) {
    to.names = bracketed(key, kHeaders);
    if (to.names.size() != 1) return false;
    std::transform(to.names[0].begin(), to.names[0].end(), to.names[0].begin(), [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    return put<TextSet>(to, Key::kHeader, text);
  }
  if (key.starts_with(kClaims)) {
    to.names = bracketed(key, kClaims);
    return !to.names.empty() && put<TextSet>(to, Key::kClaim, text);
  }
  return false;
}

}  // namespace

PathSet::PathSet(std::vector<std::string> values) {
  std::vector<TextPattern> patterns;
  for (std::string& value : values) {
    if (is_path_template(value)) {
      templates.push_back(std::move(value));
    } else {
      patterns.push_back(text_pattern(value));
    }
  }
  texts = TextSet(std::move(patterns));
}

PortSet::PortSet(std::vector<std::uint16_t> values) : ports(std::move(values)) {
  std::sort(ports.begin(), ports.end());
}

std::optional<CompiledRule> compile_rule(const model::AuthorizationRule& rule, RuleRef ref,
                                         const std::vector<std::string>& own) {
  CompiledRule out;
  out.ref = std::move(ref);
  const Compiler compiler(out.ref.ns, own);
  for (const model::Source& from : rule.from) {
    if (!compiler.source(out.from.emplace_back(), from)) return {};
    out.http = out.http || out.from.back().request_principals.given;
  }
  for (const model::Operation& to : rule.to) {
    CompiledOperation& operation = out.to.emplace_back();
    if (!compiler.operation(operation, to)) return {};
    out.http = out.http || operation.hosts.given || operation.methods.given ||
               operation.paths.given;
  }
  for (const model::Condition& when : rule.when) {
    if (!compiler.condition(out.when.emplace_back(), when)) return {};
    out.http = out.http || out.when.back().http();
  }
  return out;
}

}  // namespace meshnode::policy
