#include "telemetry/hub.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <vector>

namespace meshnode::telemetry {
namespace {

using namespace std::chrono_literals;

struct Collected final : AccessSink {
  std::vector<std::string> lines;
  std::mutex mutex;
  void line(std::string_view text) override {
    std::lock_guard lock(mutex);
    lines.emplace_back(text);
  }
  std::uint64_t dropped() const override { return 7; }
};

struct World {
  Instant now{100s};
  Collected sink;
  Hub hub;
  explicit World(AccessFormat format = AccessFormat::kText, std::size_t max_sets = 10)
      : hub({"0.1.0", format, max_sets},
            {[this] { return now; }, [] { return WallTime{1'767'225'600s + 5ms}; }}, &sink) {}
};

Labels labels(Reporter reporter = Reporter::kSource) {
  Labels out;
  out.reporter = reporter;
  out.source = {"web-1", "shop", "web", "v1",   "web",
                "v1",    "",     "eu",  "eu-a", "spiffe://td/ns/shop/sa/web"};
  out.destination = {
      "reviews-v1", "bookinfo", "reviews", "v2", "reviews",
      "v2",         "",         "eu",      "",   "spiffe://td/ns/bookinfo/sa/reviews"};
  out.service = "reviews.bookinfo.mesh.internal";
  out.service_name = "reviews";
  out.service_ns = "bookinfo";
  out.security = Security::kMutualTls;
  return out;
}

Addresses addresses() {
  return {*SocketAddress::parse("10.0.0.1:40000"), *SocketAddress::parse("10.0.0.2:9080"),
          SocketAddress::parse("10.0.0.2:15008").value()};
}

// The value of the first sample that has all of `parts`, or -1.
double sample(const std::string& text, const std::vector<std::string>& parts) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    bool all = !line.starts_with("#");
    for (const auto& part : parts) all = all && line.find(part) != std::string::npos;
    if (all) return std::stod(line.substr(line.rfind(' ') + 1));
  }
  return -1;
}

TEST_CASE("a connection is counted with Istio's names and labels while it lives and when it ends") {
  World world;
  auto record = world.hub.open(labels(), addresses(), world.now);
  record->add_sent(100);
  record->add_received(2'000);
  record->add_sent(1);
  std::string live = world.hub.expose();
  CHECK(sample(live, {"istio_tcp_connections_opened_total{", "response_flags=\"-\""}) == 1);
  CHECK(sample(live, {"istio_tcp_received_bytes_total{"}) == 101);
  CHECK(sample(live, {"istio_tcp_sent_bytes_total{"}) == 2'000);
  CHECK(sample(live, {"istio_tcp_sockets_open{"}) == 1);
  CHECK(sample(live, {"istio_tcp_connections_closed_total{"}) == -1);
  CHECK(world.hub.totals().active == 1);
  record->close(Flag::kNone, "");
  record.reset();
  std::string ended = world.hub.expose();
  CHECK(sample(ended, {"istio_tcp_connections_closed_total{", "response_flags=\"-\""}) == 1);
  CHECK(sample(ended, {"istio_tcp_sockets_open{"}) == 0);
  CHECK(world.hub.totals().active == 0);
  CHECK(world.hub.totals().total == 1);
  CHECK(sample(ended, {"istio_build{component=\"meshnode\",tag=\"0.1.0\"}"}) == 1);
  CHECK(sample(ended, {"meshnode_access_log_dropped_total"}) == 7);
}

TEST_CASE("every label of the standard set is there, missing ones unknown") {
  World world;
  Labels set = labels();
  set.source.app.clear();
  auto record = world.hub.open(set, addresses(), world.now);
  std::string text = world.hub.expose();
  std::size_t start = text.find("istio_tcp_connections_opened_total{");
  std::string line = text.substr(start, text.find('\n', start) - start);
  CHECK(line ==
        "istio_tcp_connections_opened_total{reporter=\"source\",source_workload=\"web-1\","
        "source_canonical_service=\"web\",source_canonical_revision=\"v1\","
        "source_workload_namespace=\"shop\",source_principal=\"spiffe://td/ns/shop/sa/web\","
        "source_app=\"unknown\",source_version=\"v1\",source_cluster=\"unknown\","
        "source_region=\"eu\",source_zone=\"eu-a\",destination_workload=\"reviews-v1\","
        "destination_canonical_service=\"reviews\",destination_canonical_revision=\"v2\","
        "destination_workload_namespace=\"bookinfo\","
        "destination_principal=\"spiffe://td/ns/bookinfo/sa/reviews\",destination_app=\"reviews\","
        "destination_version=\"v2\",destination_cluster=\"unknown\",destination_region=\"eu\","
        "destination_zone=\"unknown\",destination_service=\"reviews.bookinfo.mesh.internal\","
        "destination_service_name=\"reviews\",destination_service_namespace=\"bookinfo\","
        "request_protocol=\"tcp\",connection_security_policy=\"mutual_tls\",response_flags=\"-\"} "
        "1");
}

TEST_CASE("plaintext is none at the destination and unknown at the source") {
  World world;
  Labels at_source = labels(Reporter::kSource);
  Labels at_destination = labels(Reporter::kDestination);
  at_source.security = at_destination.security = Security::kNone;
  auto a = world.hub.open(at_source, addresses(), world.now);
  auto b = world.hub.open(at_destination, addresses(), world.now);
  std::string text = world.hub.expose();
  CHECK(sample(text, {"opened_total{reporter=\"source\"", "security_policy=\"unknown\""}) == 1);
  CHECK(sample(text, {"opened_total{reporter=\"destination\"", "security_policy=\"none\""}) == 1);
}

TEST_CASE("refusals count as failed with their flag") {
  World world;
  struct Row {
    Flag flag;
    const char* name;
  };
  for (Row row :
       {Row{Flag::kDeny, "DENY"}, Row{Flag::kConnect, "CONNECT"},
        Row{Flag::kTlsFailure, "TLS_FAILURE"},
        Row{Flag::kH2HandshakeFailure, "H2_HANDSHAKE_FAILURE"}, Row{Flag::kOverload, "OVERLOAD"}}) {
    world.hub.refused(labels(), addresses(), row.flag, "why");
    CHECK(sample(world.hub.expose(), {"istio_tcp_connections_failed_total{",
                                      "response_flags=\"" + std::string(row.name) + "\""}) == 1);
  }
  CHECK(world.hub.totals().refused == 5);
  CHECK(world.hub.totals().total == 0);
  REQUIRE(world.sink.lines.size() == 5);
  CHECK(world.sink.lines[0].find("\twarn\taccess\tconnection failed src.addr=") !=
        std::string::npos);
}

TEST_CASE("a connection that failed after it was opened is closed with its flag") {
  World world;
  auto record = world.hub.open(labels(), addresses(), world.now);
  record->close(Flag::kConnect, "connection refused");
  CHECK(sample(world.hub.expose(), {"closed_total{", "response_flags=\"CONNECT\""}) == 1);
}

TEST_CASE("an access line has ztunnel's fields in ztunnel's order") {
  World world;
  auto out = world.hub.open(labels(), addresses(), world.now);
  out->add_sent(84);
  out->add_received(164);
  world.now = world.now + 1'250ms;
  out->close(Flag::kNone, "");
  CHECK(world.sink.lines.at(0) ==
        "2026-01-01T00:00:00.005Z\tinfo\taccess\tconnection complete src.addr=10.0.0.1:40000 "
        "src.workload=\"web-1\" src.namespace=\"shop\" src.identity=\"spiffe://td/ns/shop/sa/web\" "
        "dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:9080 "
        "dst.service=\"reviews.bookinfo.mesh.internal\" dst.workload=\"reviews-v1\" "
        "dst.namespace=\"bookinfo\" dst.identity=\"spiffe://td/ns/bookinfo/sa/reviews\" "
        "direction=\"outbound\" bytes_sent=84 bytes_recv=164 duration=\"1250ms\"");
  Addresses direct = addresses();
  direct.hbone.reset();
  auto in = world.hub.open(labels(Reporter::kDestination), direct, world.now);
  in->add_sent(84);
  in->add_received(164);
  in->close(Flag::kConnect, "connection reset by peer\nforged\tinfo");
  std::string line = world.sink.lines.at(1);
  CHECK(line.find("\terror\taccess\tconnection complete ") != std::string::npos);
  CHECK(line.find(" dst.addr=10.0.0.2:9080 dst.service=") != std::string::npos);
  CHECK(
      line.ends_with("direction=\"inbound\" bytes_sent=164 bytes_recv=84 duration=\"0ms\" "
                     "error=\"connection reset by peer\\nforged\\tinfo\""));
}

TEST_CASE("a record that is destroyed or closed twice ends once and cleanly") {
  World world;
  world.hub.open(labels(), addresses(), world.now).reset();
  REQUIRE(world.sink.lines.size() == 1);
  CHECK(world.sink.lines[0].find("\tinfo\t") != std::string::npos);
  auto record = world.hub.open(labels(), addresses(), world.now);
  record->close(Flag::kDeny, "x");
  record->close(Flag::kNone, "");
  record.reset();
  CHECK(world.sink.lines.size() == 2);
  CHECK(sample(world.hub.expose(), {"istio_tcp_sockets_open{"}) == 0);
}

TEST_CASE("access lines as JSON have the same fields, and off means none") {
  World world(AccessFormat::kJson);
  Labels set = labels();
  set.source.workload = "a\"\\\n\xff";
  auto record = world.hub.open(set, addresses(), world.now);
  record->add_sent(5);
  record->close(Flag::kNone, "");
  auto json = nlohmann::json::parse(world.sink.lines.at(0));
  CHECK(json["scope"] == "access");
  CHECK(json["message"] == "connection complete");
  CHECK(json["src.workload"] == "a\"\\\n\xef\xbf\xbd");
  CHECK(json["dst.hbone_addr"] == "10.0.0.2:9080");
  CHECK(json["bytes_sent"] == 5);
  world.hub.set_access_log(AccessFormat::kOff);
  world.hub.open(labels(), addresses(), world.now).reset();
  world.hub.refused(labels(), addresses(), Flag::kDeny, "");
  CHECK(world.sink.lines.size() == 1);
}

TEST_CASE("beyond the bound, new label sets share one and keep their names in the log") {
  World world(AccessFormat::kText, 10);
  std::vector<std::unique_ptr<ConnectionRecord>> records;
  auto open = [&](int i) {
    Labels set = labels();
    set.source.workload = "w" + std::to_string(i);
    records.push_back(world.hub.open(set, addresses(), world.now));
  };
  for (int i = 0; i < 10; ++i) open(i);
  CHECK(sample(world.hub.expose(), {"meshnode_label_sets_overflowed_total"}) == 0);
  for (int i = 10; i < 15; ++i) open(i);
  open(3);
  std::string text = world.hub.expose();
  CHECK(sample(text, {"opened_total{", "source_workload=\"w3\""}) == 2);
  CHECK(sample(text, {"opened_total{", "source_workload=\"w12\""}) == -1);
  CHECK(sample(text, {"opened_total{", "source_workload=\"overflow\"",
                      "destination_service=\"overflow\""}) == 5);
  CHECK(sample(text, {"meshnode_label_sets_overflowed_total"}) == 5);
  records.clear();
  CHECK(world.sink.lines.at(12).find("src.workload=\"w12\"") != std::string::npos);
}

TEST_CASE("a label value cannot break a scrape") {
  World world;
  Labels set = labels();
  set.source.workload = "a\"} 1\n# TYPE x counter\\\xff";
  set.service = std::string(10'000, 'x');
  auto record = world.hub.open(set, addresses(), world.now);
  std::string text = world.hub.expose();
  CHECK(text.find("source_workload=\"a\\\\\\\"} 1\\\\n# TYPE x counter\\\\\\\\\\\\xff\"") !=
        std::string::npos);
  CHECK(text.find(std::string(TrafficMetrics::kMaxValue, 'x') + "\"") != std::string::npos);
  CHECK(text.find(std::string(TrafficMetrics::kMaxValue + 1, 'x')) == std::string::npos);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    bool known =
        line.starts_with("# ") || line.starts_with("istio_") || line.starts_with("meshnode_");
    CHECK(known);
  }
}

TEST_CASE("many threads count exactly") {
  World world(AccessFormat::kOff);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&world, t] {
      for (int i = 0; i < 300; ++i) {
        Labels set = labels();
        set.source.workload = "w" + std::to_string((i + t) % 5);
        auto record = world.hub.open(set, addresses(), world.now);
        for (int chunk = 0; chunk < 10; ++chunk) record->add_sent(3);
        if (i % 50 == 0) (void)world.hub.expose();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(world.hub.totals().total == 1'200);
  CHECK(world.hub.totals().active == 0);
  std::string text = world.hub.expose();
  double bytes = 0;
  for (int i = 0; i < 5; ++i) {
    bytes += sample(text, {"istio_tcp_received_bytes_total{",
                           "source_workload=\"w" + std::to_string(i) + "\""});
  }
  CHECK(bytes == 36'000);
}

TEST_CASE("the agent's own counters are written out by name") {
  World world;
  AgentMetrics& agent = world.hub.agent();
  agent.refused(Refusal::kTls).add();
  agent.refused(Refusal::kTls).add(2);
  agent.tunnels_open(Direction::kInbound).add(5);
  agent.tunnels_open(Direction::kInbound).add(-1);
  agent.capture_repaired.add();
  agent.set_capture_bypassed("undeclared", 9);
  agent.resources_rejected.set(3);
  std::string text = world.hub.expose();
  CHECK(sample(text, {"meshnode_peer_refused_total{reason=\"tls\"}"}) == 3);
  CHECK(sample(text, {"meshnode_peer_refused_total{reason=\"limit\"}"}) == 0);
  CHECK(sample(text, {"meshnode_tunnels{direction=\"inbound\"}"}) == 4);
  CHECK(sample(text, {"meshnode_capture_repaired_total"}) == 1);
  CHECK(sample(text, {"meshnode_capture_bypassed_total{reason=\"undeclared\"}"}) == 9);
  CHECK(sample(text, {"meshnode_resources{state=\"rejected\"}"}) == 3);
  for (int i = 0; i < 100; ++i) agent.set_capture_bypassed("r" + std::to_string(i), 1);
  CHECK(agent.capture_bypassed().size() == AgentMetrics::kMaxReasons);
}

}  // namespace
}  // namespace meshnode::telemetry
