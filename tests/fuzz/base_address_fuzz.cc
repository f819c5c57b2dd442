// Whatever parses as an address, a block, a duration or a user prints as what parses to the same.
#include <meshnode/address.h>
#include <sys/socket.h>

#include "base/duration.h"
#include "base/passwd.h"
#include "fuzz/input.h"

using namespace meshnode;
using fuzz::require;

namespace {

void try_ip(const IpAddress& ip) {
  const auto again = IpAddress::parse(ip.text());
  require(again && *again == ip && hash_value(*again) == hash_value(ip));
  require(ip.is_loopback() + ip.is_unspecified() + ip.is_multicast() + ip.is_link_local() <= 1);
  // What two parsers say of one text must not differ.
  const std::string whole = ip.text() + (ip.is_v4() ? "/32" : "/128");
  const auto prefix = IpPrefix::parse(whole);
  require(prefix && prefix->base() == ip && prefix->text() == whole);
}

void try_socket_address(const SocketAddress& address) {
  const auto again = SocketAddress::parse(address.text());
  require(again && *again == address && hash_value(*again) == hash_value(address));
  sockaddr_storage raw{};
  require(address.to_sockaddr(raw) <= sizeof raw);
  require(SocketAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(raw)) == address);
  raw.ss_family = AF_UNIX;
  require(SocketAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(raw)) == SocketAddress{});
}

void try_duration(std::string_view text) {
  const auto duration = parse_duration(text, Duration::zero(), Duration::max());
  if (!duration) return;
  const auto again = parse_duration(duration_text(*duration), Duration::zero(), Duration::max());
  require(again && *again == *duration);
  require(*duration == Duration::zero() ||
          duration_text(-*duration) == "-" + duration_text(*duration));
  const auto bounded = parse_duration(text, std::chrono::seconds(1), std::chrono::hours(1));
  require(bounded.has_value() ==
          (*duration >= std::chrono::seconds(1) && *duration <= std::chrono::hours(1)));
}

/// The first line is whom to look for in the others.
void try_user(std::string_view text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string_view name = text.substr(0, end);
  const auto uid = user_id(text.substr(end), name);
  require(!uid || *uid != 0xffffffffU);
  if (uid) require(user_id({}, std::to_string(*uid)) == *uid);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = as_text({data, size});
  if (const auto ip = IpAddress::parse(text)) try_ip(*ip);
  if (const auto address = SocketAddress::parse(text)) try_socket_address(*address);
  if (const auto prefix = IpPrefix::parse(text)) {
    const auto again = IpPrefix::parse(prefix->text());
    require(again && *again == *prefix && prefix->family() == prefix->base().family());
  }
  if (size == 16) {
    std::array<std::uint8_t, 16> raw{};
    std::copy_n(data, raw.size(), raw.begin());
    try_ip(IpAddress::v6(raw));
  }
  try_duration(text);
  try_user(text);
  return 0;
}
