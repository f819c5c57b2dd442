#include <arpa/inet.h>
#include <meshnode/address.h>
#include <rapidcheck.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <set>

namespace meshnode {
namespace {

IpAddress generated_ip() {
  if (*rc::gen::arbitrary<bool>()) {
    return IpAddress::v4(
        *rc::gen::container<std::array<std::uint8_t, 4>>(rc::gen::arbitrary<std::uint8_t>()));
  }
  // Mostly zeros: that is where the shortened forms differ.
  return IpAddress::v6(
      *rc::gen::container<std::array<std::uint8_t, 16>>(rc::gen::weightedOneOf<std::uint8_t>(
          {{3, rc::gen::just<std::uint8_t>(0)}, {1, rc::gen::arbitrary<std::uint8_t>()}})));
}

TEST_CASE("an IP address survives its text form") {
  REQUIRE(rc::check("parse(text(ip)) == ip", [] {
    IpAddress ip = generated_ip();
    auto back = IpAddress::parse(ip.text());
    RC_ASSERT(back.has_value());
    RC_ASSERT(*back == ip);
    RC_ASSERT(back->text() == ip.text());
  }));
}

TEST_CASE("a socket address survives its text form and sockaddr") {
  REQUIRE(rc::check("parse(text(a)) == a", [] {
    SocketAddress address{generated_ip(), *rc::gen::arbitrary<std::uint16_t>()};
    auto back = SocketAddress::parse(address.text());
    RC_ASSERT(back.has_value());
    RC_ASSERT(*back == address);
    sockaddr_storage raw{};
    unsigned size = address.to_sockaddr(raw);
    RC_ASSERT(size == (address.ip.is_v4() ? sizeof(sockaddr_in) : sizeof(sockaddr_in6)));
    RC_ASSERT(SocketAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(raw)) == address);
  }));
}

TEST_CASE("IPv6 text is the canonical form of RFC 5952") {
  struct Row {
    const char* in;
    const char* out;
  };
  for (Row row :
       {Row{"::", "::"}, Row{"0:0:0:0:0:0:0:1", "::1"}, Row{"2001:DB8::0001", "2001:db8::1"},
        Row{"2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},
        Row{"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"}, Row{"1:0:0:2:0:0:0:3", "1:0:0:2::3"},
        Row{"::1.2.3.4", "::102:304"}, Row{"::ffff:1.2.3.4", "1.2.3.4"},
        Row{"::ffff:102:304", "1.2.3.4"}, Row{"64:ff9b::1.2.3.4", "64:ff9b::102:304"}}) {
    CAPTURE(row.in);
    auto ip = IpAddress::parse(row.in);
    REQUIRE(ip.has_value());
    CHECK(ip->text() == row.out);
  }
}

TEST_CASE("what is no address does not parse") {
  for (const char* text : {"",
                           " ",
                           "1",
                           "1.2.3",
                           "1.2.3.4.5",
                           "1.2.3.256",
                           "01.2.3.4",
                           "1.2.3.4 ",
                           " 1.2.3.4",
                           "0x1.2.3.4",
                           "1.2.3.4/8",
                           "::1/128",
                           "fe80::1%eth0",
                           ":::",
                           "1::2::3",
                           "1:2:3:4:5:6:7",
                           "12345::",
                           "::g",
                           "[::1]",
                           "localhost",
                           "1.2.3.-4",
                           "::ffff:1.2.3.04"}) {
    CAPTURE(text);
    CHECK_FALSE(IpAddress::parse(text).has_value());
  }
  CHECK_FALSE(IpAddress::parse(std::string_view("1.2.3.4\0", 8)).has_value());
  CHECK_FALSE(IpAddress::parse(std::string(100'000, '1')).has_value());
  auto refused = IpAddress::parse("host\nname");
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::kInvalid);
  CHECK(refused.error().message.find('\n') == std::string::npos);
}

TEST_CASE("what is no address and port does not parse") {
  for (const char* text : {"",
                           "1.2.3.4",
                           "1.2.3.4:",
                           ":80",
                           "1.2.3.4:080",
                           "1.2.3.4:65536",
                           "1.2.3.4:-1",
                           "1.2.3.4:8a",
                           "1.2.3.4:+80",
                           "::1:80",
                           "[::1]",
                           "[::1]80",
                           "[1.2.3.4]:80",
                           "[::1]:",
                           "[::1:80",
                           "::1]:80",
                           "[]:80",
                           "1.2.3.4:80 ",
                           "[[::1]]:80",
                           "host:80",
                           "1.2.3.4:99999999999"}) {
    CAPTURE(text);
    CHECK_FALSE(SocketAddress::parse(text).has_value());
  }
  CHECK(SocketAddress::parse("1.2.3.4:0")->port == 0);
  CHECK(SocketAddress::parse("[::1]:65535")->port == 65535);
}

TEST_CASE("an address block survives its text form, and what is none is named") {
  for (const char* text : {"0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "128.0.0.0/1", "::/0",
                           "fd00::/8", "2001:db8::/33", "::1/128"}) {
    CAPTURE(text);
    CHECK(IpPrefix::parse(text).value().text() == text);
  }
  CHECK(IpPrefix::parse("10.0.0.0/8").value().length() == 8);
  CHECK(IpPrefix::parse("10.0.0.0/8").value().family() == Family::kV4);
  for (const char* text :
       {"", "/", "10.0.0.0", "10.0.0.0/", "/8", "10.0.0.0/33", "fd00::/129", "10.0.0.0/-1",
        "10.0.0.0/08", "10.0.0.0/8 ", " 10.0.0.0/8", "10.0.0.0/8/8", "10.0.0.0/255.0.0.0",
        "10/8", "::ffff:10.0.0.0/104", "10.0.0.1/31", "0.0.0.1/0", "fd00::1/64"}) {
    CAPTURE(text);
    CHECK_FALSE(IpPrefix::parse(text).has_value());
  }
  CHECK_THAT(IpPrefix::parse("10.1.2.3/12").error().message,
             Catch::Contains("it has bits beyond its length; write 10.0.0.0/12"));
}

TEST_CASE("address classes are told by their bits") {
  auto ip = [](const char* text) { return *IpAddress::parse(text); };
  CHECK(ip("127.255.0.1").is_loopback());
  CHECK(ip("::1").is_loopback());
  CHECK(ip("::ffff:127.0.0.1").is_loopback());
  CHECK_FALSE(ip("::2").is_loopback());
  CHECK_FALSE(ip("128.0.0.1").is_loopback());
  CHECK(ip("0.0.0.0").is_unspecified());
  CHECK(ip("::").is_unspecified());
  CHECK(ip("169.254.1.1").is_link_local());
  CHECK(ip("febf::1").is_link_local());
  CHECK_FALSE(ip("fec0::1").is_link_local());
  CHECK(ip("239.0.0.1").is_multicast());
  CHECK(ip("ff02::1").is_multicast());
  CHECK_FALSE(ip("240.0.0.1").is_multicast());
}

TEST_CASE("IPv4 and IPv6 addresses with the same leading bytes differ") {
  IpAddress four = IpAddress::v4({1, 2, 3, 4});
  IpAddress six = IpAddress::v6({1, 2, 3, 4});
  CHECK(four != six);
  CHECK(hash_value(four) != hash_value(six));
  std::set<std::size_t> hashes;
  for (unsigned port = 0; port < 65536; ++port) {
    hashes.insert(hash_value(SocketAddress{four, static_cast<std::uint16_t>(port)}));
  }
  CHECK(hashes.size() > 65500);
}

}  // namespace
}  // namespace meshnode
