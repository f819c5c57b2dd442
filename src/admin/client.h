#pragma once
/// The CLI's side of the admin socket: one blocking request. Thread: any; blocks up to `timeout`.

#include <meshnode/result.h>
#include <meshnode/time.h>
#include <string>
#include <string_view>

namespace meshnode::admin {

struct Answer {
  int status = 0;
  std::string body;
};

inline constexpr std::size_t kMaxAnswer = 16 * 1024 * 1024;

struct ClientOptions {
  Duration timeout = std::chrono::seconds(5);  ///< of the whole exchange
  std::size_t max_answer = kMaxAnswer;         ///< octets, headers included
};

/// Any status counts as an answer. Errors: kUnavailable no agent answers there, kPermission the
/// socket's mode forbids it, kTimeout, kLimit the answer is larger than allowed, kInvalid a path
/// too long for a socket, or not HTTP.
Result<Answer> get(const std::string& socket_path, std::string_view target,
                   const ClientOptions& options = {});
Result<Answer> post(const std::string& socket_path, std::string_view target, std::string_view body,
                    const ClientOptions& options = {});

}  // namespace meshnode::admin
