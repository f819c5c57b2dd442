"""Services: virtual addresses in front of endpoints on several hosts."""

import os
import socket

import lab
import mesh as meshes
import pki
import pytest
import traffic
import wire
from mesh import CLIENT, VIP4, VIP6, WEB, documents, entry, service, service_entry, workload
from procs import eventually

PORT, TARGET = 80, 9080
ROUNDS = 12
PICKED, LISTED = "10.99.0.20", "10.99.0.21"


@pytest.fixture(scope="module")
def fleet():
    with lab.Lab("a", "b", "c") as made:
        authority = pki.Authority(os.path.join(made.directory, "ca"))
        common = documents(
            entry("web-b", made.b.v4, [TARGET]), entry("web-c", made.c.v4, [TARGET]),
            service("web", [VIP4], PORT, TARGET),
            entry("sec-b", made.b.v6, [TARGET], app="six"),
            entry("sec-c", made.c.v6, [TARGET], app="six"),
            service("six", [VIP6], PORT, TARGET, app="six"),
            service_entry("picked", PICKED, PORT, TARGET, "workloadSelector: {labels: {app: web}}"),
            service_entry("listed", LISTED, PORT, TARGET,
                          f"endpoints: [{{address: {made.c.v4}, serviceAccount: web, labels: "
                          "{networking.istio.io/tunnel: http}}]"),
            service("empty", ["10.99.0.9"], PORT, TARGET, app="nobody"))
        for host in made.hosts.values():
            mine = [workload("client", meshes.by_user(CLIENT))]
            accounts = ["client"]
            if host is not made.a:
                mine.append(workload("web", meshes.by_user(WEB), [TARGET]))
                accounts.append("web")
            meshes.enrol(host, authority, *mine, accounts=accounts)
            host.write("mesh.yaml", common)
            host.start_agent()
        yield made


def say_where(sock):
    """Answers with the address that was reached, then the peer's."""
    here = sock.getsockname()[0].replace("::ffff:", "")
    sock.sendall(f"{here} from {traffic.peer_of(sock)}\n".encode())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_a_service_address_goes_round_its_endpoints(fleet, family):
    vip = VIP4 if family == socket.AF_INET else VIP6
    with fleet.b.serve(traffic.serve_each, TARGET, say_where, uid=WEB), \
            fleet.c.serve(traffic.serve_each, TARGET, say_where, uid=WEB):
        answers = []
        with wire.Capture(fleet) as capture:
            for _ in range(ROUNDS):
                with fleet.a.dial(vip, PORT, uid=CLIENT) as sock:
                    answers.append(traffic.read_line(sock))
        source = fleet.a.address(family)
        for host in (fleet.b, fleet.c):
            # Each loop has its own place in the round, so near is near enough.
            share = answers.count(f"{host.address(family)} from {source}")
            assert abs(share - ROUNDS / 2) <= 2, answers
        assert not capture.packets(f"port {TARGET}") and not capture.packets(f"host {vip}")


def test_a_service_entry_selects_workloads_or_lists_endpoints(fleet):
    with fleet.b.serve(traffic.serve_each, TARGET, say_where, uid=WEB), \
            fleet.c.serve(traffic.serve_each, TARGET, say_where, uid=WEB):
        def reached(address):
            found = set()
            for _ in range(6):
                with fleet.a.dial(address, PORT, uid=CLIENT) as sock:
                    found.add(traffic.read_line(sock).split()[0])
            return found

        with wire.Capture(fleet) as capture:
            assert reached(PICKED) == {fleet.b.v4, fleet.c.v4}
            assert reached(LISTED) == {fleet.c.v4}
        assert not capture.packets(f"port {TARGET}")


def test_a_service_without_endpoints_is_a_reset_and_counted(fleet):
    def failed():
        return fleet.a.metric_sum("istio_tcp_connections_failed_total", reporter="source")

    before = failed()
    assert traffic.first_answer(fleet.a, "10.99.0.9", PORT, CLIENT) == "rst"
    assert failed() == before + 1


def test_a_new_endpoint_is_used_after_the_file_changes(fleet):
    path = os.path.join(fleet.a.config, "mesh.yaml")
    with open(path) as file:
        text = file.read()
    only_b = documents(entry("web-b", fleet.b.v4, [TARGET]), service("web", [VIP4], PORT, TARGET))
    with fleet.b.serve(traffic.serve_each, TARGET, say_where, uid=WEB), \
            fleet.c.serve(traffic.serve_each, TARGET, say_where, uid=WEB):
        def reached():
            found = set()
            for _ in range(6):
                with fleet.a.dial(VIP4, PORT, uid=CLIENT) as sock:
                    found.add(traffic.read_line(sock).split()[0])
            return found

        try:
            fleet.a.write("mesh.yaml", only_b)
            eventually(lambda: reached() == {fleet.b.v4}, 5, what="only b in use")
        finally:
            fleet.a.write("mesh.yaml", text)
        eventually(lambda: reached() == {fleet.b.v4, fleet.c.v4}, 5, what="both in use")


def test_service_labels_are_in_the_metrics(fleet):
    with fleet.b.serve(traffic.serve_each, TARGET, say_where, uid=WEB), \
            fleet.c.serve(traffic.serve_each, TARGET, say_where, uid=WEB):
        with fleet.a.dial(VIP4, PORT, uid=CLIENT) as sock:
            traffic.read_line(sock)
    assert fleet.a.metric_sum(
        "istio_tcp_connections_opened_total", reporter="source", destination_service_name="web",
        destination_service_namespace="shop",
        destination_service="web.shop.mesh.internal") >= 1
