#include "agent/undeclared.h"

#include <catch2/catch.hpp>

using namespace meshnode;
using namespace meshnode::agent;

namespace {

SocketAddress at(const std::string& text) { return SocketAddress::parse(text).value(); }

capture::Spec shop() {
  capture::Spec spec;
  spec.workloads = {{"shop/web", 1, capture::ByUser{33}, {8080}},
                    {"shop/job", 2, capture::ByCgroup{"jobs.slice"}, {}},
                    {"shop/night", 3, capture::ByCgroup{"jobs.slice/night"}, {9000}}};
  spec.exclude_ports = {9100};
  return spec;
}

std::map<std::string, std::string> look(const std::vector<io::ListeningSocket>& sockets) {
  const CgroupOwners cgroups({{"jobs.slice", {7, 8}}, {"jobs.slice/night", {8}}});
  return undeclared_listeners(shop(), sockets, cgroups);
}

}  // namespace

TEST_CASE("listeners at ports that nobody declares are told of their owner, each once") {
  const auto found = look({{at("0.0.0.0:7000"), 33, 0},
                           {at("[::]:7000"), 33, 0},
                           {at("[::]:7000"), 33, 0},
                           {at("10.0.0.1:7001"), 33, 7},
                           {at("10.0.0.1:7002"), 0, 8}});
  CHECK(found == std::map<std::string, std::string>{{"shop/job", "10.0.0.1:7001"},
                                                    {"shop/night", "10.0.0.1:7002"},
                                                    {"shop/web", "0.0.0.0:7000, [::]:7000"}});
}

TEST_CASE("however many listeners a workload has, they are one line") {
  std::vector<io::ListeningSocket> sockets;
  for (int port = 7001; port <= 7020; ++port) {
    sockets.push_back({at("10.0.0.1:" + std::to_string(port)), 33, 0});
  }
  const auto found = look(sockets);
  REQUIRE(found.size() == 1);
  CHECK(found.at("shop/web") == "10.0.0.1:7001, 10.0.0.1:7002, 10.0.0.1:7003, 10.0.0.1:7004, "
                                "10.0.0.1:7005 and 15 more");
}

TEST_CASE("declared, excluded, loopback, own and foreign listeners are nobody's concern") {
  CHECK(look({{at("0.0.0.0:8080"), 33, 0},
              {at("0.0.0.0:9000"), 33, 0},
              {at("0.0.0.0:9100"), 33, 0},
              {at("127.0.0.1:7000"), 33, 0},
              {at("[::1]:7000"), 33, 0},
              {at("0.0.0.0:15008"), 33, 0},
              {at("0.0.0.0:22"), 0, 3}})
            .empty());
  CHECK(undeclared_listeners({}, {{at("0.0.0.0:7000"), 33, 0}}, {}).empty());
}
