#pragma once
/// User names to numbers from the text of /etc/passwd alone: NSS would load libraries and ask the
/// network (design §8). Thread: pure function.

#include <meshnode/result.h>
#include <cstdint>
#include <string_view>

namespace meshnode {

/// The uid of `name`, the first matching line of passwd(5) text; or `name` itself when it is a
/// decimal number below 4294967295. kNotFound when no well-formed line has it, kInvalid when
/// `name` can be no user.
Result<std::uint32_t> user_id(std::string_view passwd, std::string_view name);

}  // namespace meshnode
