#include "policy/matchers.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace meshnode::policy {
namespace {

constexpr std::string_view kScheme = "spiffe://";
constexpr std::string_view kClusterLocal = "cluster.local";

bool glob(std::string_view pattern, std::string_view value) {
  std::size_t at = 0;
  std::size_t in = 0;
  std::size_t star = std::string_view::npos;  // last one passed
  std::size_t retry = 0;                      // where what follows it was last tried
  while (in < value.size()) {
    if (at < pattern.size() && pattern[at] == '*') {
      star = at++;
      retry = in;
    } else if (at < pattern.size() && pattern[at] == value[in]) {
      ++at;
      ++in;
    } else if (star != std::string_view::npos) {
      at = star + 1;
      in = ++retry;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', at) == std::string_view::npos;
}

bool any_matches(const std::vector<TextPattern>& patterns, std::string_view value) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const TextPattern& pattern) { return pattern.matches(value); });
}

/// Istio's pattern of trust domains: a `*` at either end.
bool resembles(std::string_view trust_domain, std::string_view pattern) {
  return text_pattern(pattern).matches(trust_domain);
}

std::string_view next_segment(std::string_view& rest) {
  const std::size_t slash = rest.find('/');
  const std::string_view segment = rest.substr(0, slash);
  rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
  return segment;
}

}  // namespace

bool TextPattern::matches(std::string_view value) const {
  switch (kind) {
    case Kind::kExact:
      return value == text;
    case Kind::kPrefix:
      return value.starts_with(text);
    case Kind::kSuffix:
      return value.ends_with(text);
    case Kind::kPresent:
      return !value.empty();
    case Kind::kGlob:
      return !value.empty() && glob(text, value);
  }
  return false;
}

TextPattern text_pattern(std::string_view value) {
  using Kind = TextPattern::Kind;
  if (value == "*") return {Kind::kPresent, {}};
  if (value.starts_with('*')) return {Kind::kSuffix, std::string(value.substr(1))};
  if (value.ends_with('*')) return {Kind::kPrefix, std::string(value.substr(0, value.size() - 1))};
  return {Kind::kExact, std::string(value)};
}

TextPattern principal_pattern(std::string_view value) {
  TextPattern pattern = text_pattern(value);
  if (pattern.kind == TextPattern::Kind::kExact || pattern.kind == TextPattern::Kind::kPrefix) {
    pattern.text.insert(0, kScheme);
  }
  return pattern;
}

TextPattern namespace_pattern(std::string_view value) {
  const std::size_t stars = static_cast<std::size_t>(std::count(value.begin(), value.end(), '*'));
  const bool at_end = value.starts_with('*') || value.ends_with('*');
  if (stars == 0 || (stars == 1 && at_end)) return text_pattern(value);
  return {TextPattern::Kind::kGlob, std::string(value)};
}

TextSet::TextSet(std::vector<TextPattern> patterns) {
  for (TextPattern& pattern : patterns) {
    if (pattern.kind == TextPattern::Kind::kExact) {
      exact_.push_back(std::move(pattern.text));
    } else {
      patterns_.push_back(std::move(pattern));
    }
  }
  std::sort(exact_.begin(), exact_.end());
  exact_.erase(std::unique(exact_.begin(), exact_.end()), exact_.end());
}

bool TextSet::matches(std::string_view value) const {
  if (!exact_.empty()) {
    const auto at = std::lower_bound(exact_.begin(), exact_.end(), value);
    if (at != exact_.end() && *at == value) return true;
  }
  return any_matches(patterns_, value);
}

IpAddress masked(const IpAddress& ip, unsigned length) {
  const Bytes bytes = ip.bytes();
  std::array<std::uint8_t, 16> out{};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const unsigned bits = length > i * 8 ? std::min(8U, length - static_cast<unsigned>(i) * 8) : 0;
    out[i] = static_cast<std::uint8_t>(bytes[i] & static_cast<unsigned>(0xFF00U >> bits));
  }
  return ip.is_v4() ? IpAddress::v4({out[0], out[1], out[2], out[3]}) : IpAddress::v6(out);
}

std::optional<Block> parse_block(std::string_view text) {
  const std::size_t slash = text.find('/');
  const auto ip = IpAddress::parse(text.substr(0, slash));
  if (!ip) return {};
  const unsigned most = ip->is_v4() ? 32 : 128;
  if (slash == std::string_view::npos) return Block{*ip, most};
  const std::string_view digits = text.substr(slash + 1);
  unsigned length = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
  if (error != std::errc() || end != digits.data() + digits.size() || length > most) return {};
  return Block{masked(*ip, length), length};
}

BlockSet::BlockSet(std::vector<Block> blocks) : blocks_(std::move(blocks)) {
  std::sort(blocks_.begin(), blocks_.end());
  blocks_.erase(std::unique(blocks_.begin(), blocks_.end()), blocks_.end());
  for (const Block& block : blocks_) {
    const std::pair length{block.base.family(), block.length};
    if (std::find(lengths_.begin(), lengths_.end(), length) == lengths_.end()) {
      lengths_.push_back(length);
    }
  }
}

bool BlockSet::matches(const IpAddress& ip) const {
  return std::any_of(lengths_.begin(), lengths_.end(), [&](const auto& length) {
    return length.first == ip.family() &&
           std::binary_search(blocks_.begin(), blocks_.end(),
                              Block{masked(ip, length.second), length.second});
  });
}

std::string_view without_query(std::string_view path) {
  return path.substr(0, path.find_first_of("?#"));
}

bool is_path_template(std::string_view value) {
  return value.find('{') != std::string_view::npos || value.find('}') != std::string_view::npos;
}

bool template_matches(std::string_view pattern, std::string_view path) {
  while (true) {
    const bool last = pattern.find('/') == std::string_view::npos;
    const std::string_view wanted = next_segment(pattern);
    if (wanted == "{**}") return true;
    const bool path_ends = path.find('/') == std::string_view::npos;
    const std::string_view segment = next_segment(path);
    if (wanted == "{*}" ? segment.empty() : wanted != segment) return false;
    if (last || path_ends) return last && path_ends;
  }
}

std::vector<std::string> with_aliases(const std::string& principal,
                                      const std::vector<std::string>& own) {
  constexpr std::ptrdiff_t kSlashes = 4;  // td/ns/NS/sa/SA
  const std::string_view named = std::string_view(principal).substr(0, principal.find('/'));
  const bool whole = std::count(principal.begin(), principal.end(), '/') == kSlashes;
  const bool ours =
      named == kClusterLocal || std::any_of(own.begin(), own.end(), [&](const std::string& each) {
        return resembles(each, named);
      });
  if (!whole || named == "*" || !ours) return {principal};
  std::vector<std::string> out;
  for (const std::string& each : own) {
    const bool kept = named.starts_with('*') && resembles(each, named);
    std::string next = kept ? principal : each + principal.substr(named.size());
    if (std::find(out.begin(), out.end(), next) == out.end()) out.push_back(std::move(next));
  }
  return out;
}

}  // namespace meshnode::policy
