#include <rapidcheck.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "model/config_set.h"
#include "snapshot/build.h"

using namespace meshnode;            // NOLINT: test
using namespace meshnode::snapshot;  // NOLINT: test

namespace {

IpAddress ip(const std::string& text) { return *IpAddress::parse(text); }

std::shared_ptr<const Snapshot> snapshot_of(const std::string& text,
                                            const std::vector<IpAddress>& addresses) {
  model::ConfigSet set;
  set.update("f.yaml", text);
  const model::Catalog catalog = make_catalog(set.accepted(), {"host", addresses});
  SlotTable slots;
  std::vector<WorkloadId> ids;
  for (const auto& workload : catalog.workloads) ids.push_back(workload.id);
  if (!slots.assign(ids)) return nullptr;
  return build(catalog, slots, {},
               policy::compile({}, policy_subjects(catalog), policy_scope(catalog)), 1);
}

std::string node(const std::string& address) {
  return "apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: a}\n"
         "spec: {trustDomain: td, identity: {source: files}, address: \"" +
         address + "\"}\n";
}

const std::vector<std::string> kHosts = {"10.0.0.1", "10.0.0.2", "10.0.0.3",   "fd00::1",
                                         "fd00::2",  "fe80::1",  "169.254.0.1"};

std::string random_host() { return *rc::gen::elementOf(kHosts); }
std::string random_number(int below) { return std::to_string(*rc::gen::inRange(0, below)); }

/// Few names, ports and addresses, so that they meet. Documents that clash are left out.
std::string random_files() {
  std::string text;
  if (*rc::gen::inRange(0, 4) != 0) text += node(*rc::gen::elementOf(kHosts));
  const int count = *rc::gen::inRange(0, 10);
  for (int i = 0; i < count; ++i) {
    const std::string n = std::to_string(i);
    const std::string app = "app: a" + random_number(2);
    const std::string port = "8" + random_number(2);
    switch (*rc::gen::inRange(0, 3)) {
      case 0:
        text += "--- {apiVersion: meshnode.io/v1, kind: Workload, metadata: {name: w" + n +
                ", labels: {" + app + "}}, spec: {match: {user: u" + n + "}, serviceAccount: s" +
                random_number(2) + ", ports: [{name: p, port: " + port + "}]}}\n";
        break;
      case 1:
        text += "--- {apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: e" +
                n + ", labels: {" + app +
                (*rc::gen::arbitrary<bool>() ? ", networking.istio.io/tunnel: http" : "") +
                "}}, spec: {address: \"" + random_host() + "\", serviceAccount: s" +
                random_number(2) + ", ports: {p: " + port + "}}}\n";
        break;
      default:
        text += "--- {apiVersion: v1, kind: Service, metadata: {name: v" + n +
                "}, spec: {clusterIP: \"" +
                *rc::gen::element<std::string>("10.99.0.1", "2001:db8::1", random_host()) +
                "\", selector: {" + app + "}, ports: [{name: p, port: " + port + "}]}}\n";
    }
  }
  return text;
}

}  // namespace

TEST_CASE("a local endpoint never carries an address that the host does not have") {
  std::size_t local_endpoints = 0;
  REQUIRE(rc::check([&] {
    const std::string text = random_files();
    std::vector<IpAddress> addresses;
    for (const std::string& host : *rc::gen::container<std::vector<std::string>>(
             *rc::gen::inRange<std::size_t>(0, 3), rc::gen::elementOf(kHosts))) {
      addresses.push_back(ip(host));
    }
    RC_LOG() << text;
    const auto snapshot = snapshot_of(text, addresses);
    RC_ASSERT(snapshot != nullptr);
    const auto here = [&](const IpAddress& address) {
      return address.is_loopback() ||
             std::find(addresses.begin(), addresses.end(), address) != addresses.end();
    };
    for (const auto& route : snapshot->routes) {
      for (const Endpoint& endpoint : route.second.endpoints) {
        if (endpoint.via != Endpoint::Via::kLocal) continue;
        ++local_endpoints;
        RC_ASSERT(here(endpoint.address.ip));
        RC_ASSERT(endpoint.local != nullptr);
      }
    }
    for (const auto& entry : snapshot->inbound) {
      RC_ASSERT(here(snapshot->dial_address(entry.first).ip));
      RC_ASSERT(snapshot->dial_address(entry.first).port == entry.first.port);
    }
  }));
  CHECK(local_endpoints > 0);
}

TEST_CASE("what is advertised is answered for, and dialled at an address of the host") {
  const std::string web =
      "---\napiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: web, namespace: shop}\n"
      "spec: {match: {user: web}, ports: [{port: 9080}]}\n";
  const SocketAddress advertised{ip("203.0.113.7"), 9080};
  const auto natted = snapshot_of(node("203.0.113.7") + web, {ip("10.0.0.5"), ip("fd00::5")});
  REQUIRE(natted->callee(advertised, 0) != nullptr);
  CHECK(natted->dial_address(advertised).text() == "10.0.0.5:9080");
  for (const char* own : {"10.0.0.5:9080", "[fd00::5]:9080", "127.0.0.1:9080"}) {
    CHECK(natted->dial_address(*SocketAddress::parse(own)).text() == own);
  }
  const auto plain = snapshot_of(node("203.0.113.7") + web, {ip("203.0.113.7")});
  CHECK(plain->dial_address(advertised) == advertised);
}
