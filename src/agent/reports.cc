#include "agent/reports.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"

namespace meshnode::agent {

void Reports::peer_refused(const IpAddress& peer, telemetry::Flag flag, const std::string& reason) {
  const char* hint = flag == telemetry::Flag::kTlsFailure
                         ? "compare the peer's certificate, trust domain and clock with ours"
                         : "the peer does not speak HBONE as it should; look at its version";
  event({"peer-refused", peer.text(), reason, hint, false, false});
}

void Reports::limit_reached(const IpAddress& peer, const std::string& limit) {
  event({"limit-reached", peer.text(), limit, "find out why that host does this", false, false});
}

void Reports::own_limit_reached(const IpAddress& peer, const std::string& limit) {
  event({"limit-reached", peer.text(), limit,
         fmt::format("find out which program here opens so many connections (`ss -tnp dst {}`)",
                     peer.text()),
         false, false});
}

void Reports::descriptors_used_up() {
  event({"limit-reached", "descriptors",
         "80 % of the process's descriptors hold connections; new ones wait in the queue",
         "raise LimitNOFILE of the unit, or find out who opens so many connections", false, true});
}

void Reports::handshakes_used_up() {
  event({"limit-reached", "handshakes",
         fmt::format("more than {} TLS handshakes a proxy loop are unfinished; the oldest give way",
                     proxy::kMaxHandshakes),
         "somebody floods port 15008: find out who (`ss -tn sport = :15008`), and let a firewall "
         "admit other hosts of the mesh only",
         false, false});
}

void Reports::tunnel_failed(const SocketAddress& to, const std::string& reason) {
  event({"tunnel-failed", to.text(), reason,
         "look at `meshnode status` of that host, and at its firewall for port 15008", false,
         false});
}

void Reports::set(const std::string& code, const std::vector<Condition>& conditions) {
  std::vector<std::string> objects;
  for (const Condition& condition : conditions) {
    problems_.report(
        {code, condition.object, condition.message, condition.hint, true, condition.degrades},
        wall_now_());
    objects.push_back(condition.object);
  }
  problems_.retain(code, objects, wall_now_());
}

bool Reports::worth_a_line(const telemetry::ProblemReport& report, WallTime now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (logged_.size() >= kMaxLogged) {
    logged_.clear();
  }
  const auto [at, fresh] = logged_.try_emplace({report.code, report.object}, now);
  if (!fresh && now - at->second < kSameLine && now >= at->second) {
    return false;
  }
  at->second = now;
  return true;
}

void Reports::event(const telemetry::ProblemReport& report) {
  const WallTime now = wall_now_();
  if (worth_a_line(report, now)) {
    log::warn("status", report.message, {{"code", report.code}, {"object", report.object}});
  }
  problems_.report(report, now);
}

}  // namespace meshnode::agent
