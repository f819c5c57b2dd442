"""What is on the wire, who the server sees, and what is left alone."""

import socket

import pki
import pytest
import system
import traffic
import wire
from mesh import CLIENT, ECHO, OTHER, SECOND, UNDECLARED, WEB, Mesh

MARKER = b"Plaintext-Marker-7f3a91"
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])


def destination_count(host, **labels):
    return host.metric_sum("istio_tcp_connections_opened_total", reporter="destination", **labels)


def enrolled_count(host):
    """Connections from client to web that this host has seen, whichever end reports."""
    return host.metric_sum("istio_tcp_connections_opened_total", source_workload="client",
                           source_principal=pki.spiffe("shop", "client"),
                           destination_workload="web")


def marked_connections(host, addresses, count, uid=CLIENT):
    def client():
        for number in range(count):
            address = addresses[number % len(addresses)]
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family) as sock:
                sock.connect((address, ECHO))
                traffic.ask(sock, MARKER * 3)
        return count

    return host.call(client, uid=uid, timeout=300)


def test_no_plaintext_byte_of_an_enrolled_call_is_on_the_wire():
    with Mesh(start=False) as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        addresses = [mesh.b.v4, mesh.b.v6]
        with wire.Capture(mesh.lab) as before:
            marked_connections(mesh.a, addresses, 4)
        assert before.count(MARKER) >= 4 * 3 * 2, "the control must see the marker"
        mesh.a.start_agent()
        mesh.b.start_agent()
        with wire.Capture(mesh.lab) as during:
            marked_connections(mesh.a, addresses, system.scaled(1_000))
        assert during.count(MARKER) == 0
        assert during.packets("port 15008"), "the tunnel was not on this wire"
        assert not during.packets(f"port {ECHO}")
        mesh.a.stop_agent()
        mesh.b.stop_agent()
        with wire.Capture(mesh.lab) as after:
            marked_connections(mesh.a, addresses, 4)
        assert after.count(MARKER) >= 4 * 3 * 2


@FAMILIES
def test_the_server_sees_the_callers_host_address(mesh, family):
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        for uid in (CLIENT, OTHER):
            with mesh.a.dial(mesh.b.address(family), ECHO, uid=uid) as sock:
                assert traffic.read_line(sock) == f"you are {mesh.a.address(family)}"


@FAMILIES
def test_undeclared_ports_of_an_enrolled_client_go_direct(mesh, family):
    before = mesh.a.metric_sum("istio_tcp_connections_opened_total", reporter="source",
                               connection_security_policy="mutual_tls")
    with mesh.b.serve(traffic.greeting_server, UNDECLARED, uid=OTHER):
        with wire.Capture(mesh.lab) as capture:
            with mesh.a.dial(mesh.b.address(family), UNDECLARED, uid=CLIENT) as sock:
                assert traffic.read_line(sock) == f"you are {mesh.a.address(family)}"
                traffic.ask(sock, MARKER)
    assert capture.count(MARKER) >= 2
    assert mesh.a.metric_sum("istio_tcp_connections_opened_total", reporter="source",
                             connection_security_policy="mutual_tls") == before


@FAMILIES
def test_plaintext_from_outside_is_passed_and_counted(mesh, family):
    before = destination_count(mesh.b, connection_security_policy="none")
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        with mesh.c.dial(mesh.b.address(family), ECHO) as sock:
            assert traffic.read_line(sock) == f"you are {mesh.c.address(family)}"
            traffic.ask(sock)
    assert destination_count(mesh.b, connection_security_policy="none") == before + 1


@FAMILIES
def test_another_users_call_to_a_mesh_address_stays_plaintext(mesh, family):
    before = destination_count(mesh.b, connection_security_policy="none")
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        with wire.Capture(mesh.lab) as capture:
            with mesh.a.dial(mesh.b.address(family), ECHO, uid=OTHER) as sock:
                assert traffic.read_line(sock) == f"you are {mesh.a.address(family)}"
                traffic.ask(sock, MARKER)
    assert capture.count(MARKER) >= 2
    assert destination_count(mesh.b, connection_security_policy="none") == before + 1


@FAMILIES
def test_caller_and_callee_on_one_host_need_no_tunnel(mesh, family):
    address = mesh.b.address(family)
    before = enrolled_count(mesh.b)
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        with wire.Capture(mesh.lab) as capture:
            with mesh.b.dial(address, ECHO, uid=CLIENT) as sock:
                assert traffic.read_line(sock) == f"you are {address}"
                traffic.ask(sock, MARKER)
    assert capture.count(MARKER) == 0
    assert not capture.packets("port 15008 and tcp[tcpflags] & tcp-syn != 0")
    assert enrolled_count(mesh.b) > before


@FAMILIES
def test_local_plaintext_callers_pass_through_the_agent(mesh, family):
    loopback = "127.0.0.1" if family == socket.AF_INET else "::1"
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        for uid in (OTHER, 0):
            for address in (mesh.b.address(family), loopback):
                before = destination_count(mesh.b, connection_security_policy="none")
                with mesh.b.dial(address, ECHO, uid=uid) as sock:
                    assert traffic.read_line(sock) == f"you are {address}"
                    traffic.ask(sock)
                assert destination_count(mesh.b, connection_security_policy="none") == before + 1


@FAMILIES
def test_an_enrolled_caller_may_use_the_loopback_address(mesh, family):
    loopback = "127.0.0.1" if family == socket.AF_INET else "::1"
    before = enrolled_count(mesh.b)
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        with mesh.b.dial(loopback, ECHO, uid=CLIENT) as sock:
            assert traffic.read_line(sock) == f"you are {loopback}"
            traffic.ask(sock)
    assert enrolled_count(mesh.b) > before


def test_a_server_bound_to_one_address_only_is_reached_there(mesh):
    with mesh.b.serve(traffic.greeting_server, SECOND, mesh.b.v4, uid=WEB):
        with mesh.a.dial(mesh.b.v4, SECOND, uid=CLIENT) as sock:
            assert traffic.read_line(sock) == f"you are {mesh.a.v4}"


def test_the_agents_own_ports_refuse_direct_calls(mesh):
    for port in (15001, 15006):
        outcome = traffic.try_ask(mesh.b, "127.0.0.1", port, timeout=3)
        assert isinstance(outcome, (OSError, EOFError)) and not isinstance(outcome, TimeoutError)
    assert mesh.b.ready(), "a direct call to its own listeners must not harm the agent"


def test_a_plain_workload_entry_is_dialled_in_the_clear(mesh):
    with mesh.c.serve(traffic.greeting_server, 9080):
        with mesh.a.dial(mesh.c.v4, 9080, uid=CLIENT) as sock:
            assert traffic.read_line(sock) == f"you are {mesh.a.v4}"
            traffic.ask(sock)
