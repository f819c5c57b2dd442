#pragma once
/// Result<T>: a value or an Error. Expected failures are returned; exceptions are never thrown by
/// meshnode's own code. Thread: values, free to move between threads.

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace meshnode {

/// What kind of failure, for code that must branch on it. Text is for people.
enum class ErrorCode {
  kInvalid,      ///< the input is malformed; retrying the same input cannot help
  kNotFound,     ///< the named thing does not exist
  kPermission,   ///< the kernel or a file mode forbids it
  kUnavailable,  ///< a peer, process or resource is not there now
  kTimeout,      ///< a timer of the contract ran out
  kLimit,        ///< a written limit was reached
  kReset,        ///< the peer ended the connection abruptly (TCP RST or equivalent)
  kTls,          ///< the TLS session failed; message has the alert or reason
  kInternal,     ///< an invariant of ours did not hold
};

/// `message` names the thing, the place and the next step, without a trailing full stop.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  bool operator==(const Error&) const = default;
};

/// Use: `auto r = f(); if (!r) return meshnode::fail(r.error());`
template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
};

using Status = Result<void>;

inline tl::unexpected<Error> fail(Error error) {
  return tl::unexpected<Error>(std::move(error));
}
inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}

}  // namespace meshnode
