"""Our outbound end against an HBONE server of other make on host d."""

import re
import socket
import time

import peers
import pki
import pytest
import traffic
from mesh import CLIENT, OTHER, PEER
from peers import Errors, ServerOptions
from procs import eventually


@pytest.fixture
def serve(mesh):
    """Starts the HBONE server of d with given behaviour."""
    running = []

    def start(identity=("shop", "peer"), **options):
        pair = mesh.authority.workload(*identity)
        server = mesh.d.serve(peers.hbone_server, pair, mesh.authority.certificate_path,
                              ServerOptions(**options))
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()
    eventually(lambda: mesh.a.status()["tunnels"]["outbound"] == 0, what="loss of the tunnels")


def next_event(server, kind, timeout=20):
    deadline = time.monotonic() + timeout
    while True:
        event = server.event(max(0.01, deadline - time.monotonic()))
        if event["kind"] == kind:
            return event


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_the_request_is_hbone_as_written_down(mesh, serve, family):
    server = serve()
    address = mesh.d.address(family)
    with mesh.a.dial(address, PEER, uid=CLIENT) as sock:
        traffic.ask(sock)
        source = sock.getsockname()
        event = next_event(server, "request")
    headers = event["headers"]
    names = [name for name, _ in headers]
    values = dict(headers)
    host = address if family == socket.AF_INET else f"[{address}]"
    mine = source[0] if family == socket.AF_INET else f"[{source[0]}]"
    assert names[:2] == [":method", ":authority"] or set(names[:2]) == {":method", ":authority"}
    assert len(names) == len(set(names)), names
    assert not {":scheme", ":path", ":protocol"} & set(names)
    assert values[":method"] == "CONNECT"
    assert values[":authority"] == f"{host}:{PEER}"
    assert values["forwarded"].startswith(f'for="{mine}:{source[1]}"')
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", values["traceparent"])
    baggage = dict(pair.split("=", 1) for pair in values["baggage"].split(","))
    assert baggage["k8s.namespace.name"] == "shop"
    assert baggage["service.name"] == "client"
    assert baggage["service.version"] == "v1"
    assert event["sni"] == "peer.shop.sa.lab.example"
    assert event["identities"] == [pki.spiffe("shop", "client")]
    assert (event["alpn"], event["version"]) == ("h2", "TLSv1.3")
    assert event["cipher"] == "TLS_AES_128_GCM_SHA256"
    assert event["peer"] == mesh.a.address(family)
    assert not event["resumed"]


def test_settings_of_our_client_end(mesh, serve):
    server = serve()
    assert traffic.try_ask(mesh.a, mesh.d.v4, PEER, CLIENT) is True
    values = next_event(server, "settings")["values"]
    assert values[2] == 0, "ENABLE_PUSH"
    assert values[4] == 4 << 20, "INITIAL_WINDOW_SIZE"
    assert values[5] == 1 << 20, "MAX_FRAME_SIZE"
    assert values[6] == 16 << 10, "MAX_HEADER_LIST_SIZE"


def test_connections_share_a_tunnel_and_nothing_is_resumed(mesh, serve):
    server = serve()
    for _ in range(6):
        assert traffic.try_ask(mesh.a, mesh.d.v4, PEER, CLIENT) is True
    tunnels = [event for event in server.drain_events() if event["kind"] == "tunnel"]
    assert 1 <= len(tunnels) <= 4, "more tunnels than loops"
    assert not any(event["resumed"] for event in tunnels)


def test_a_lost_tunnel_is_replaced_by_a_full_handshake(mesh, serve):
    serve().stop()
    server = serve()
    eventually(lambda: traffic.try_ask(mesh.a, mesh.d.v4, PEER, CLIENT) is True, 5)
    assert not next_event(server, "tunnel")["resumed"]


def test_half_close_and_reset_of_the_application(mesh, serve):
    server = serve()
    with mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT) as sock:
        sock.sendall(b"q" * 100_000)
        sock.shutdown(socket.SHUT_WR)
        assert traffic.read_to_end(sock) == b"q" * 100_000
    sock = mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT)
    traffic.ask(sock)
    traffic.reset(sock)
    assert next_event(server, "reset")["code"] == Errors.CONNECT_ERROR


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
def test_anything_but_200_is_a_reset_for_the_application(mesh, serve, status):
    serve(status=status)
    assert traffic.first_answer(mesh.a, mesh.d.v4, PEER, CLIENT) == "rst"


@pytest.mark.parametrize("code", [Errors.CONNECT_ERROR, Errors.CANCEL, Errors.NO_ERROR,
                                  Errors.REFUSED_STREAM])
def test_rst_stream_is_a_reset_for_the_application(mesh, serve, code):
    serve(reset_with=code)
    assert traffic.first_answer(mesh.a, mesh.d.v4, PEER, CLIENT, b"x") == "rst"


def test_a_tunnel_that_breaks_is_a_reset_for_the_application(mesh, serve):
    server = serve()
    with mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT) as sock:
        traffic.ask(sock)
        server.stop()
        assert traffic.outcome(sock) == "rst"


def test_after_goaway_new_connections_take_a_new_tunnel_and_old_ones_live_on(mesh, serve):
    server = serve(goaway_after=1)
    with mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT) as first:
        traffic.ask(first)
        with mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT) as second:
            traffic.ask(second)
            traffic.ask(first, b"still here")
    requests = [next_event(server, "request") for _ in range(2)]
    assert requests[0]["tunnel"] != requests[1]["tunnel"]


def test_one_byte_frames_from_the_server_arrive_whole(mesh, serve):
    serve(piece=1)
    with mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT) as sock:
        traffic.ask(sock, bytes(range(256)) * 20)


def test_a_servers_small_windows_are_kept(mesh, serve):
    serve(window=1000)
    with mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT, timeout=30) as sock:
        body = b"small window " * 20_000
        sock.sendall(body)
        sock.shutdown(socket.SHUT_WR)
        assert traffic.read_to_end(sock) == body


def test_a_servers_stream_limit_is_kept(mesh, serve):
    server = serve(max_streams=5)
    sockets = []
    for _ in range(24):
        sockets.append(mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT))
        traffic.ask(sockets[-1])
    for sock in sockets:
        traffic.ask(sock)
    tunnels = [next_event(server, "request")["tunnel"] for _ in sockets]
    for sock in sockets:
        sock.close()
    assert max(tunnels.count(tunnel) for tunnel in set(tunnels)) <= 5


def test_bulk_through_the_foreign_server(mesh, serve):
    serve()
    with mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT, timeout=60) as sock:
        result = traffic.exchange(sock, 3, 8 << 20)
    assert result["received"] == (8 << 20, result["sent"])


def test_a_server_with_another_workloads_certificate_is_refused(mesh, serve):
    server = serve(identity=("shop", "impostor"))
    assert traffic.first_answer(mesh.a, mesh.d.v4, PEER, CLIENT) == "rst"
    assert not any(event["kind"] == "request" for event in server.drain_events())
    eventually(lambda: any("impostor" in p["message"] for p in mesh.a.problems("tunnel-failed")),
               what="the impostor in status")


def test_no_agent_at_the_far_end_is_a_reset_and_never_plaintext(mesh):
    with mesh.d.serve(traffic.echo_server, PEER):
        assert traffic.first_answer(mesh.a, mesh.d.v4, PEER, CLIENT) == "rst"
        assert traffic.try_ask(mesh.a, mesh.d.v4, PEER, OTHER) is True


@pytest.mark.full
def test_a_tunnel_that_answers_no_ping_is_dropped(mesh, serve):
    server = serve(mute_pings=True)
    with mesh.a.dial(mesh.d.v4, PEER, uid=CLIENT, timeout=60) as sock:
        traffic.ask(sock)
        next_event(server, "ping", 15)
        started = time.monotonic()
        assert traffic.outcome(sock) == "rst"
        assert 15 < time.monotonic() - started < 30
