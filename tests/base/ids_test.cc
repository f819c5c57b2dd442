#include <meshnode/ids.h>
#include <rapidcheck.h>

#include <catch2/catch.hpp>

namespace meshnode {
namespace {

std::string generated_label() {
  auto ends = rc::gen::elementOf(std::string("abcxyz059"));
  auto inside = rc::gen::container<std::string>(rc::gen::elementOf(std::string("abcxyz059-")));
  std::string label = *ends + (*inside).substr(0, 20);
  return label + *ends;
}

TEST_CASE("an identity survives its URI and its server name") {
  REQUIRE(rc::check("parse(uri(id)) == id", [] {
    std::string domain = generated_label();
    if (*rc::gen::arbitrary<bool>()) domain += "." + generated_label();
    auto id = SpiffeId::make(domain, generated_label(), generated_label());
    RC_ASSERT(id.has_value());
    RC_ASSERT(*SpiffeId::parse(id->uri()) == *id);
    RC_ASSERT(*SpiffeId::from_server_name(id->server_name()) == *id);
  }));
}

TEST_CASE("an identity has exactly one spelling") {
  auto id = SpiffeId::parse("spiffe://example.internal/ns/bookinfo/sa/reviews");
  REQUIRE(id.has_value());
  CHECK(id->trust_domain() == "example.internal");
  CHECK(id->ns() == "bookinfo");
  CHECK(id->service_account() == "reviews");
  CHECK(id->server_name() == "reviews.bookinfo.sa.example.internal");
  for (const char* text : {"",
                           "spiffe://",
                           "spiffe://td",
                           "spiffe://td/ns/a/sa",
                           "spiffe://td/ns/a/sa/",
                           "spiffe://td/ns//sa/b",
                           "spiffe:///ns/a/sa/b",
                           "spiffe://td/ns/a/sa/b/",
                           "spiffe://td/ns/a/sa/b/c",
                           "spiffe://td//ns/a/sa/b",
                           "SPIFFE://td/ns/a/sa/b",
                           "spiffe://TD/ns/a/sa/b",
                           "spiffe://td/NS/a/sa/b",
                           "spiffe://td/ns/A/sa/b",
                           "spiffe://td/ns/a/sa/b?x",
                           "spiffe://td/ns/a/sa/b#x",
                           "spiffe://td:443/ns/a/sa/b",
                           "spiffe://user@td/ns/a/sa/b",
                           "spiffe://td./ns/a/sa/b",
                           "spiffe://.td/ns/a/sa/b",
                           "spiffe://t..d/ns/a/sa/b",
                           "spiffe://td/ns/a%2f/sa/b",
                           "spiffe://td/ns/a/sa/%62",
                           "spiffe://td/ns/a.b/sa/b",
                           "spiffe://td/ns/-a/sa/b",
                           "spiffe://td/ns/a-/sa/b",
                           "spiffe://td/ns/a_b/sa/b",
                           "spiffe://td/ns/../sa/b",
                           "spiffe://td/ns/a/sa/b ",
                           " spiffe://td/ns/a/sa/b",
                           "spiffe://td/ns/a/sa/b\n",
                           "https://td/ns/a/sa/b",
                           "spiffe://td/sa/b/ns/a",
                           "spiffe://td/node/x",
                           "spiffe://t\xc3\xa4/ns/a/sa/b"}) {
    CAPTURE(text);
    auto refused = SpiffeId::parse(text);
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code == ErrorCode::kInvalid);
  }
  CHECK_FALSE(SpiffeId::parse(std::string_view("spiffe://td/ns/a/sa/b\0", 22)).has_value());
}

TEST_CASE("names are bounded at their limits") {
  std::string label63(63, 'a');
  CHECK(is_dns_label(label63));
  CHECK_FALSE(is_dns_label(label63 + "a"));
  CHECK_FALSE(is_dns_label(""));
  std::string name253 = label63 + "." + label63 + "." + label63 + "." + std::string(61, 'b');
  REQUIRE(name253.size() == 253);
  CHECK(is_dns_name(name253));
  CHECK_FALSE(is_dns_name(name253 + "b"));
  CHECK_FALSE(is_dns_name("a."));
  CHECK_FALSE(is_dns_name(".a"));
  CHECK_FALSE(is_dns_name(""));
  // "a.b.sa." is seven octets: the trust domain has 246 left.
  CHECK(SpiffeId::make(name253.substr(0, 246), "b", "a").has_value());
  CHECK_FALSE(SpiffeId::make(name253.substr(0, 247), "b", "a").has_value());
  CHECK_FALSE(SpiffeId::parse("spiffe://" + std::string(1'000'000, 'a')).has_value());
}

TEST_CASE("only server names of our form ask for an identity") {
  CHECK(SpiffeId::from_server_name("sa.sa.sa.sa").has_value());
  for (const char* sni : {"", "a", "a.b", "a.b.sa", "a.b.sa.", "a.b.c.d", "a.b.sax.td", ".b.sa.td",
                          "a..sa.td", "a.b.sa.td.", "A.b.sa.td", "a.b.SA.td"}) {
    CAPTURE(sni);
    CHECK_FALSE(SpiffeId::from_server_name(sni).has_value());
  }
}

}  // namespace
}  // namespace meshnode
