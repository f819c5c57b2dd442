#pragma once
/// A request's path as policies see it. Thread: pure.

#include <string>
#include <string_view>

namespace meshnode::policy {

/// Istio's pathNormalization BASE (RFC 3986 §6.2.2): dot segments are resolved, percent-encoded
/// unreserved characters decoded, other percent-encodings written in upper case, and a backslash
/// is a slash. The query stays as it is.
std::string normalise_path(std::string_view path);

}  // namespace meshnode::policy
