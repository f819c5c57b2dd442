#include "proxy/connect_headers.h"

#include <catch2/catch.hpp>

using namespace meshnode;
using namespace meshnode::proxy;

TEST_CASE("an authority is an address and a port, nothing else") {
  CHECK(parse_authority("10.0.0.1:80")->port == 80);
  CHECK(parse_authority("[fd00::1]:80").has_value());
  for (const char* bad : {"", "10.0.0.1", "10.0.0.1:0", "host:80", "10.0.0.1:80/", "10.0.0.1:65536",
                          "[fd00::1]", "a@10.0.0.1:80", "10.0.0.1:080"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_authority(bad).has_value());
  }
}

TEST_CASE("the host of a forwarded field is taken only when it is a name") {
  CHECK(forwarded_host("for=\"10.0.0.1:1\";host=a.b.mesh.internal") == "a.b.mesh.internal");
  CHECK(forwarded_host("for=\"10.0.0.1:1\"").empty());
  CHECK(forwarded_host("for=x;host=\"bad\nhost\"").empty());
}
