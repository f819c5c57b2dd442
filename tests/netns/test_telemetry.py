"""Metrics with Istio's names and labels, access-log lines with ztunnel's fields, readiness."""

import re

import pki
import system
import traffic
from mesh import CLIENT, CLOSED, ECHO, WEB
from procs import eventually

COUNT, SIZE = 5, 10_000
LABELS = {"reporter", "request_protocol", "response_flags", "connection_security_policy",
          "source_workload", "source_workload_namespace", "source_principal", "source_app",
          "source_version", "source_cluster", "source_canonical_service",
          "source_canonical_revision", "destination_workload", "destination_workload_namespace",
          "destination_principal", "destination_app", "destination_version",
          "destination_cluster", "destination_canonical_service",
          "destination_canonical_revision", "destination_service",
          "destination_service_namespace", "destination_service_name"}
WHO = {"request_protocol": "tcp", "connection_security_policy": "mutual_tls",
       "source_workload": "client", "source_workload_namespace": "shop",
       "source_principal": pki.spiffe("shop", "client"), "source_app": "client",
       "source_version": "v1", "destination_workload_namespace": "shop",
       "destination_principal": pki.spiffe("shop", "web"),
       "destination_app": "web", "destination_version": "v1"}


# Each end names the callee as its own files do: the WorkloadEntry, the Workload.
CALLEE = {"source": "web-b-4", "destination": "web"}


def totals(host, reporter):
    names = ["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total",
             "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"]
    return [host.metric_sum(name, reporter=reporter, destination_workload=CALLEE[reporter], **WHO)
            for name in names]


def test_counts_and_labels_are_those_of_istio(mesh):
    ends = ((mesh.a, "source"), (mesh.b, "destination"))
    before = [totals(*end) for end in ends]
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        for _ in range(COUNT):
            with mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) as sock:
                traffic.ask(sock, b"m" * SIZE)
    for end, old in zip(ends, before):
        # `received` is what the callee received, `sent` what it sent: here the same number.
        want = [COUNT, COUNT, COUNT * SIZE, COUNT * SIZE]
        eventually(lambda end=end, old=old, want=want:
                   [new - was for new, was in zip(totals(*end), old)] == want,
                   5, what=f"counts of the {end[1]}")
    for host, reporter in ends:
        for name, labels, _ in host.metrics():
            if name == "istio_tcp_connections_opened_total" and labels["reporter"] == reporter:
                assert LABELS <= set(labels), LABELS - set(labels)


def test_every_metric_has_help_and_type(mesh):
    code, body = mesh.a.http(15020, "/metrics")
    assert code == 200
    for family in ("istio_tcp_connections_opened_total", "istio_tcp_sent_bytes_total"):
        assert re.search(rf"^# HELP {family} \S", body, re.M)
        assert re.search(rf"^# TYPE {family} counter", body, re.M)
    assert mesh.a.http(15020, "/stats/prometheus")[0] == 200


def test_a_closed_port_is_counted_as_failed_at_both_ends(mesh):
    def failed(host, reporter):
        return host.metric_sum("istio_tcp_connections_failed_total", reporter=reporter,
                               response_flags="CONNECT")

    before = failed(mesh.a, "source"), failed(mesh.b, "destination")
    assert traffic.first_answer(mesh.a, mesh.b.v4, CLOSED, CLIENT) == "rst"
    eventually(lambda: (failed(mesh.a, "source"), failed(mesh.b, "destination"))
               == (before[0] + 1, before[1] + 1), 5, what="one failure more at each end")


def test_each_connection_leaves_one_line_with_ztunnels_fields(mesh):
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        with mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) as sock:
            source = "%s:%d" % sock.getsockname()
            traffic.ask(sock, b"l" * 1234)

    def line(host):
        found = [text for text in host.log().splitlines() if f"src.addr={source} " in text]
        assert len(found) == 1, found
        return found[0]

    outbound = eventually(lambda: line(mesh.a), 5, what="the caller's line")
    for text in ("connection complete", 'src.workload="client"', 'src.namespace="shop"',
                 f'src.identity="{pki.spiffe("shop", "client")}"',
                 f"dst.addr={mesh.b.v4}:15008", f"dst.hbone_addr={mesh.b.v4}:{ECHO}",
                 'dst.workload="web-b-4"', 'dst.namespace="shop"',
                 f'dst.identity="{pki.spiffe("shop", "web")}"', 'direction="outbound"'):
        assert text in outbound, outbound
    assert "bytes_sent=1234 " in outbound and "bytes_recv=1234 " in outbound, outbound
    assert re.search(r'duration="\d+ms"', outbound), outbound

    def inbound_line():
        found = [text for text in mesh.b.log().splitlines()
                 if "inbound" in text and "1234" in text and f"{mesh.b.v4}:{ECHO}" in text]
        return found and found[-1]

    inbound = eventually(inbound_line, 5, what="the callee's line")
    assert f'src.identity="{pki.spiffe("shop", "client")}"' in inbound


def test_readiness_and_status_agree(mesh):
    code, _ = mesh.a.http(15021, "/healthz/ready")
    assert code == 200
    status = mesh.a.status()
    assert status["health"] == "ok" and status["cluster"] is None
    assert set(status) >= {"node", "health", "problems", "cluster", "workloads", "tunnels",
                           "connections", "captureBypass", "resources"}
    assert status["node"]["name"] == "a" and status["node"]["address"] == mesh.a.v4
    mine = {workload["name"]: workload for workload in status["workloads"]}
    assert set(mine) == {"web", "client"}
    assert mine["web"]["identity"] == pki.spiffe("shop", "web")
    assert mine["web"]["captured"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
                        mine["web"]["certificate"]["notAfter"])
    assert status["resources"]["rejected"] == []
    assert mesh.a.meshnode("status").returncode == 0


def test_a_command_without_an_agent_says_so(mesh, tmp_path):
    done = system.sh([system.BINARY, "status", "--run-dir", str(tmp_path)], check=False)
    assert done.returncode == 2 and done.stderr.startswith("meshnode: ")
    assert system.sh([system.BINARY, "status", "--no-such-option"], check=False).returncode == 2
    assert system.sh([system.BINARY, "version"]).stdout.strip()
