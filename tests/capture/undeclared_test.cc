#include "capture/undeclared.h"

#include <catch2/catch.hpp>

using namespace meshnode;
using namespace meshnode::capture;

namespace {

SocketAddress at(const std::string& text) { return SocketAddress::parse(text).value(); }

}  // namespace

TEST_CASE("declared, excluded, own and loopback listeners are nobody's concern") {
  Spec spec;
  spec.workloads = {{"shop/web", 1, ByUser{33}, {8080}}, {"shop/job", 2, ByUser{34}, {9000}}};
  spec.exclude_ports = {9100};
  const KnownPorts known(spec);
  for (const char* left_out : {"0.0.0.0:8080", "10.0.0.1:9000", "[::]:9100", "127.0.0.1:7000",
                               "[::1]:7000", "0.0.0.0:15008", "0.0.0.0:15001"}) {
    CAPTURE(left_out);
    CHECK(known.leave_out(at(left_out)));
  }
  CHECK_FALSE(known.leave_out(at("0.0.0.0:7000")));
  CHECK_FALSE(known.leave_out(at("[fd00::1]:7000")));
}

TEST_CASE("of many listeners five are named and the others counted") {
  std::set<SocketAddress> addresses;
  CHECK(in_words(addresses).empty());
  for (char port = '1'; port <= '5'; ++port) addresses.insert(at(std::string("[::]:") + port));
  CHECK(in_words(addresses) == "[::]:1, [::]:2, [::]:3, [::]:4, [::]:5");
  addresses.insert(at("[::]:6"));
  CHECK(in_words(addresses) == "[::]:1, [::]:2, [::]:3, [::]:4, [::]:5 and 1 more");
}
