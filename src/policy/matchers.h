#pragma once
/// The value forms of AuthorizationPolicy fields, compiled: texts with `*` at an end, path
/// templates, CIDRs, ports (Istio's matcher package; Envoy's uri_template for paths). Many exact
/// values cost no more than a few. Thread: values, pure.

#include <meshnode/address.h>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace meshnode::policy {

/// One value: `abc`, `abc*`, `*abc`, `*` (present and not empty).
struct TextPattern {
  enum class Kind : std::uint8_t { kExact, kPrefix, kSuffix, kPresent, kGlob };
  Kind kind = Kind::kExact;
  std::string text;  ///< without the `*`; of kGlob with all of them
  bool matches(std::string_view value) const;
  bool operator==(const TextPattern&) const = default;
};

TextPattern text_pattern(std::string_view value);
/// Of the full URI; `value` has no scheme (Istio's principals).
TextPattern principal_pattern(std::string_view value);
/// `*` stands for any run of characters, anywhere.
TextPattern namespace_pattern(std::string_view value);

/// Any of several texts.
class TextSet {
 public:
  TextSet() = default;
  explicit TextSet(std::vector<TextPattern> patterns);
  bool empty() const { return exact_.empty() && patterns_.empty(); }
  bool matches(std::string_view value) const;
  const std::vector<std::string>& exact() const { return exact_; }  ///< sorted
  const std::vector<TextPattern>& patterns() const { return patterns_; }

 private:
  std::vector<std::string> exact_;
  std::vector<TextPattern> patterns_;
};

/// The address with all bits beyond `length` zero.
IpAddress masked(const IpAddress& ip, unsigned length);

struct Block {
  IpAddress base;  ///< masked
  unsigned length = 0;
  auto operator<=>(const Block&) const = default;
};

/// An address, or a CIDR; bits beyond its length do not count (as in Istio).
std::optional<Block> parse_block(std::string_view text);

/// Any of several blocks of addresses.
class BlockSet {
 public:
  BlockSet() = default;
  explicit BlockSet(std::vector<Block> blocks);
  bool empty() const { return blocks_.empty(); }
  bool matches(const IpAddress& ip) const;
  const std::vector<Block>& blocks() const { return blocks_; }  ///< sorted

 private:
  std::vector<Block> blocks_;
  std::vector<std::pair<Family, unsigned>> lengths_;  // of blocks_, distinct
};

/// A path without query and fragment.
std::string_view without_query(std::string_view path);
/// `{*}` is one segment that is not empty, `{**}` (last only) all that is left.
bool is_path_template(std::string_view value);
bool template_matches(std::string_view pattern, std::string_view path);

/// A principal with its trust domain replaced by each that is the mesh's own, when it is one of
/// them or cluster.local (Istio's trust domain bundle). `own` begins with the trust domain.
std::vector<std::string> with_aliases(const std::string& principal,
                                      const std::vector<std::string>& own);

}  // namespace meshnode::policy
