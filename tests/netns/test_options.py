"""What a Node document may choose: each option has an effect that shows."""

import json
import socket

import pytest
import traffic
from mesh import CLIENT, ECHO, OTHER, WEB, Mesh, node
from procs import eventually


@pytest.fixture
def with_options():
    """A mesh whose host b has further fields in its Node document."""
    running = []

    def start(**spec):
        mesh = Mesh(start=False)
        running.append(mesh)
        mesh.b.write("node.yaml", node(mesh.b, **spec))
        mesh.a.start_agent()
        mesh.b.start_agent()
        return mesh

    yield start
    for mesh in running:
        mesh.lab.close()


def plaintext_count(host):
    return host.metric_sum("istio_tcp_connections_opened_total", reporter="destination",
                           connection_security_policy="none")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_without_source_preservation_the_server_sees_its_own_host(with_options, family):
    mesh = with_options(capture="{preserveSourceAddress: false}")
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        own = mesh.b.address(family)
        loopback = "127.0.0.1" if family == socket.AF_INET else "::1"
        for host, uid in ((mesh.a, CLIENT), (mesh.c, 0)):
            with host.dial(own, ECHO, uid=uid) as sock:
                assert traffic.read_line(sock) in (f"you are {own}", f"you are {loopback}")
                traffic.ask(sock)


def test_loopback_calls_can_be_left_alone(with_options):
    mesh = with_options(capture="{loopback: false}")
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        before = plaintext_count(mesh.b)
        for address in ("127.0.0.1", "::1"):
            for uid in (OTHER, CLIENT):
                with mesh.b.dial(address, ECHO, uid=uid) as sock:
                    assert traffic.read_line(sock) == f"you are {address}"
                    traffic.ask(sock)
        assert plaintext_count(mesh.b) == before
        with mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) as sock:
            assert traffic.read_line(sock) == f"you are {mesh.a.v4}"
        with mesh.c.dial(mesh.b.v4, ECHO) as sock:
            assert traffic.read_line(sock) == f"you are {mesh.c.v4}"
        assert plaintext_count(mesh.b) == before + 1


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_proxy_threads_serves(with_options, threads):
    mesh = with_options(proxy=f"{{threads: {threads}}}")
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        sockets = [mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) for _ in range(12)]
        for sock in sockets:
            traffic.ask(sock)
        for sock in sockets:
            sock.close()


def test_the_access_log_can_be_json(with_options):
    mesh = with_options(accessLog="{format: json}")
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True

    def line():
        lines = [json.loads(text) for text in mesh.b.log().splitlines() if text.startswith("{")]
        return [found for found in lines if found.get("direction") == "inbound"]

    found = eventually(line, 5, what="a line of JSON")[0]
    assert found["dst.workload"] == "web" and found["src.workload"] == "client"
    assert found["bytes_sent"] == 5 and found["bytes_recv"] == 5


def test_the_access_log_can_be_off(with_options):
    mesh = with_options(accessLog="{format: off}")
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
    eventually(lambda: "connection complete" in mesh.a.log(), 5, what="the other host's line")
    assert "connection complete" not in mesh.b.log()
