#include "cli/status_text.h"

#include <catch2/catch.hpp>

#include "cli/commands.h"

using namespace meshnode;
using namespace meshnode::cli;
using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

namespace {

const WallTime kNow = *parse_rfc3339("2026-01-02T12:00:00Z");

constexpr const char* kDegraded = R"({
  "node": {"name": "web-1", "address": "10.77.0.1", "version": "0.1.0", "pid": 4711,
           "uptimeSeconds": 11520},
  "health": "degraded",
  "problems": [{"code": "certificate-expiring", "object": "bookinfo/reviews-v1",
                "message": "the certificate ends in 40 min", "hint": "renew it", "count": 3,
                "firstSeen": "2026-01-02T11:00:00Z", "lastSeen": "2026-01-02T11:58:00Z"}],
  "cluster": null,
  "workloads": [{"name": "reviews-v1", "namespace": "bookinfo",
                 "identity": "spiffe://example.internal/ns/bookinfo/sa/reviews",
                 "match": {"user": "www"}, "captured": true,
                 "certificate": {"notAfter": "2026-01-02T12:40:00Z", "source": "files"}},
                {"name": "db", "namespace": "bookinfo", "identity": null, "match": "cgroup db.slice",
                 "captured": false, "certificate": null}],
  "tunnels": {"inbound": 3, "outbound": 4},
  "connections": {"active": 12, "total": 3456, "refused": 2},
  "captureBypass": {"inbound": 7, "outbound": 0},
  "resources": {"accepted": 12, "rejected": [{"file": "/etc/meshnode/a.yaml", "line": 12,
    "kind": "VirtualService", "namespace": "bookinfo", "name": "reviews",
    "message": "spec.http: not supported"}]}
})";

constexpr const char* kExpected = R"(web-1  10.77.0.1  meshnode 0.1.0, up 3 h 12 min, process 4711
health: degraded

PROBLEMS
  certificate-expiring  bookinfo/reviews-v1  (3 times, last 2 min ago)
    the certificate ends in 40 min
    next: renew it

WORKLOADS
  WORKLOAD             IDENTITY                                          MATCH            CAPTURED  CERTIFICATE
  bookinfo/reviews-v1  spiffe://example.internal/ns/bookinfo/sa/reviews  user www         yes       40 min left (files)
  bookinfo/db          none                                              cgroup db.slice  NO        none

  connections     12 active, 3456 in all, 2 refused
  tunnels         3 inbound, 4 outbound
  capture bypass  7 inbound (rejected packets)
  resources       12 accepted, 1 rejected

REJECTED
  /etc/meshnode/a.yaml:12  VirtualService  bookinfo/reviews
    spec.http: not supported
)";

Ask answering(Result<admin::Answer> answer) {
  return [answer](const std::string& path, const std::string& target) {
    CHECK(path == "/run/meshnode/admin.sock");
    CHECK(target == "/status");
    return answer;
  };
}

Outcome asked(Result<admin::Answer> answer, Output output = Output::kText) {
  Invocation invocation;
  invocation.command = Command::kStatus;
  invocation.output = output;
  return status(invocation, answering(std::move(answer)), kNow);
}

}  // namespace

TEST_CASE("status is a page that says what is wrong and what to do next") {
  const auto page = status_page(kDegraded, kNow);
  REQUIRE(page);
  CHECK_FALSE(page->healthy);
  CHECK(page->text == kExpected);
}

TEST_CASE("status leaves out what the answer does not have") {
  const auto page = status_page(R"({"health": "ok", "future": [1, 2]})", kNow);
  REQUIRE(page);
  CHECK(page->healthy);
  CHECK(page->text.find("PROBLEMS") == std::string::npos);
  CHECK(page->text.find("no workload is enrolled") != std::string::npos);
  CHECK(page->text.find("0 active, 0 in all, 0 refused") != std::string::npos);
}

TEST_CASE("status says when a certificate has expired") {
  const auto page = status_page(
      R"({"health":"degraded","workloads":[{"name":"a","namespace":"b","captured":true,
          "certificate":{"notAfter":"2026-01-02T11:00:00Z","source":"files"}}]})",
      kNow);
  REQUIRE(page);
  CHECK(page->text.find("EXPIRED 1 h ago (files)") != std::string::npos);
}

TEST_CASE("no text of a stranger reaches the terminal raw") {
  const auto page = status_page(
      R"({"health":"degraded","problems":[{"code":"peer-refused","object":"\u001b[2J",
          "message":"a\nhealth: ok","count":1}],"captureBypass":{"\u001b]0;x\u0007":1}})",
      kNow);
  REQUIRE(page);
  CHECK(page->text.find('\x1b') == std::string::npos);
  CHECK(page->text.find('\x07') == std::string::npos);
  CHECK(page->text.find("\nhealth: ok") == std::string::npos);
}

TEST_CASE("status survives an answer of the wrong types") {
  for (const char* text :
       {R"({"health":"ok","problems":{"a":1},"workloads":"x","node":[],"resources":7})",
        R"({"health":"ok","problems":[1,null,[]],"workloads":[0,"x"],"captureBypass":[1]})",
        R"({"health":"ok","node":{"uptimeSeconds":18446744073709551615},"cluster":7})",
        R"({"health":"ok","workloads":[{"match":{},"captured":[],"certificate":[]}]})"}) {
    INFO(text);
    CHECK(status_page(text, kNow));
  }
  for (const char* text : {"", "{}", "[]", "null", "{\"health\":{}}", "{\"health\":\"ok\""}) {
    INFO(text);
    CHECK_FALSE(status_page(text, kNow));
  }
}

TEST_CASE("durations are rough and short") {
  CHECK(rough(seconds(0)) == "0 s");
  CHECK(rough(seconds(-5)) == "0 s");
  CHECK(rough(seconds(59)) == "59 s");
  CHECK(rough(seconds(60)) == "1 min");
  CHECK(rough(minutes(59)) == "59 min");
  CHECK(rough(hours(3) + minutes(20)) == "3 h 20 min");
  CHECK(rough(hours(47)) == "47 h");
  CHECK(rough(hours(48)) == "2 d");
  CHECK(rough(hours(50)) == "2 d 2 h");
}

TEST_CASE("only the contract's form of a time is read") {
  CHECK(parse_rfc3339("1970-01-01T00:00:00Z") == WallTime());
  CHECK(rfc3339(*parse_rfc3339("2024-02-29T23:59:59Z")) == "2024-02-29T23:59:59Z");
  for (const char* text : {"", "2026-01-02", "2026-02-30T00:00:00Z", "2026-01-02T24:00:00Z",
                           "2026-01-02 00:00:00Z", "2026-01-02T00:00:00+0", "2026-01-02T-1:00:00Z",
                           "9999-01-01T00:00:00Z", "202x-01-01T00:00:00Z"}) {
    INFO(text);
    CHECK_FALSE(parse_rfc3339(text));
  }
}

TEST_CASE("status exits by health and prints the answer itself as json") {
  const auto degraded = asked(admin::Answer{200, kDegraded});
  CHECK(degraded.exit_code == 1);
  CHECK(degraded.out == kExpected);
  const auto json = asked(admin::Answer{200, R"({"health":"ok"})"}, Output::kJson);
  CHECK(json.exit_code == 0);
  CHECK(json.out == "{\"health\":\"ok\"}\n");
}

TEST_CASE("status without an answer exits 2 and names the next step") {
  const auto nobody = asked(fail(ErrorCode::kUnavailable, "connect: No such file or directory"));
  CHECK(nobody.exit_code == 2);
  CHECK(nobody.out.empty());
  CHECK(nobody.err.find("meshnode: status: no agent answers at /run/meshnode/admin.sock; ") == 0);
  for (const auto& error :
       {Error{ErrorCode::kPermission, "denied"}, Error{ErrorCode::kTimeout, "no answer in 5 s"},
        Error{ErrorCode::kInvalid, "not HTTP"}, Error{ErrorCode::kLimit, "too large"}}) {
    const auto outcome = asked(fail(error));
    CHECK(outcome.exit_code == 2);
    CHECK(outcome.err.find("; ") != std::string::npos);
  }
  CHECK(asked(admin::Answer{500, "oops"}).exit_code == 2);
  CHECK(asked(admin::Answer{200, "oops"}).exit_code == 2);
}

TEST_CASE("complaints have one shape and the contract's exit codes") {
  const auto said = complaint("thing", {ErrorCode::kInvalid, "place: broken"}, "mend it");
  CHECK(said.err == "meshnode: thing: place: broken; mend it\n");
  CHECK(said.exit_code == 1);
  const auto own_step = complaint("thing", {ErrorCode::kPermission, "denied; ask root"}, "mend it");
  CHECK(own_step.err == "meshnode: thing: denied; ask root\n");
  CHECK(own_step.exit_code == 2);
}
