#pragma once
/// A far agent as node b of a World sees it, played by the test.

#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "proxy/node.h"
#include "proxy/tunnels.h"

namespace meshnode::proxy::test {

/// A connection to node b's tunnel port.
inline std::unique_ptr<Stream> dialled(World& world, std::optional<IpAddress> from = {}) {
  struct Dialled final : DialEvents {
    std::unique_ptr<Stream> stream;
    void on_connected(std::unique_ptr<Stream> got) override { stream = std::move(got); }
    void on_dial_failed(const Error& why) override { FAIL(why.message); }
  } dialled;
  DialOptions options;
  options.to = at("10.0.0.2:15008");
  options.source = from;
  const auto dial = world.network.dial(options, &dialled);
  world.loop.run();
  REQUIRE(dialled.stream);
  return std::move(dialled.stream);
}

/// A tunnel to node b by a peer at an address of its own.
struct Caller {
  Caller(World& of, const std::string& from) : world(of), holder(context) {
    holder.open(Role::kClient, dialled(world, ip(from)), credential_for(kProduct));
    world.loop.run();
  }
  ~Caller() {
    stream.reset();
    holder.tunnel.reset();
    world.loop.run();
  }
  void ask() {
    answer = {};
    stream.reset();
    stream = holder.tunnel->connect(request_to("10.0.0.2:9080"), &answer);
    REQUIRE(stream);
    world.loop.run();
  }
  World& world;
  Recorders recorders;
  ProxyContext context{recorders.context(world.loop, world.network, nullptr)};
  TunnelHolder holder;
  Answer answer;
  std::unique_ptr<HboneStream> stream;
};

}  // namespace meshnode::proxy::test
