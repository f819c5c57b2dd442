"""Our inbound end against an HBONE client of other make, which is a stranger's host with a
certificate of the mesh."""

import socket
import time

import peers
import pki
import pytest
import traffic
from mesh import CLOSED, ECHO, SECOND, UNDECLARED, WEB
from peers import Codes, Errors
from procs import eventually

WEB_NAME = pki.server_name("shop", "web")


@pytest.fixture(scope="module")
def context(mesh):
    pair = mesh.authority.workload("shop", "client")
    return peers.client_context(mesh.authority.certificate_path, pair)


@pytest.fixture
def tunnel(mesh, context):
    with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as made:
        yield made


@pytest.fixture
def echo(mesh):
    with mesh.b.serve(traffic.serve_each, ECHO, traffic.greet_and_echo, uid=WEB) as server:
        yield server


def authority(mesh, port=ECHO):
    return f"{mesh.b.v4}:{port}"


def test_connect_carries_bytes_both_ways(mesh, tunnel, echo):
    number, stream = tunnel.connect(authority(mesh))
    assert stream.status == 200
    greeting = f"you are {mesh.c.v4}\n".encode()
    tunnel.wait_data(number, len(greeting))
    body = bytes(range(256)) * 4096
    tunnel.send(number, body, end_stream=True)
    tunnel.wait(lambda: stream.ended, 20, "the end of the stream")
    assert bytes(stream.data) == greeting + body
    assert stream.trailers is None and stream.reset is None
    assert 0 not in stream.pieces[:-1], "empty DATA before the last"


def test_it_works_over_ipv6_and_shows_the_right_peer(mesh, context, echo):
    with peers.open_tunnel(mesh.c, mesh.b.v6, context, WEB_NAME) as tunnel:
        number, stream = tunnel.connect(f"[{mesh.b.v6}]:{ECHO}")
        assert stream.status == 200
        assert b"you are fd77:77::3\n" in tunnel.wait_data(number, 19)


def test_settings_are_those_of_the_contract(mesh, tunnel):
    tunnel.wait(lambda: Codes.MAX_CONCURRENT_STREAMS in tunnel.remote_settings)
    settings = tunnel.remote_settings
    assert settings[Codes.INITIAL_WINDOW_SIZE] == 4 << 20
    assert settings[Codes.MAX_CONCURRENT_STREAMS] == 200
    assert settings[Codes.MAX_FRAME_SIZE] == 1 << 20
    assert settings[Codes.MAX_HEADER_LIST_SIZE] == 16 << 10
    assert settings.get(Codes.ENABLE_PUSH, 0) == 0
    eventually(lambda: tunnel.pump(0) or tunnel.h2.outbound_flow_control_window == 16 << 20,
               what="a connection window of 16 MiB")
    assert tunnel.h2.outbound_flow_control_window == 16 << 20


def test_the_server_shows_the_identity_that_was_asked_for(mesh, context):
    for account in ("web", "client"):
        name = pki.server_name("shop", account)
        with peers.open_tunnel(mesh.c, mesh.b.v4, context, name) as tunnel:
            assert peers.identities(tunnel.tls) == [pki.spiffe("shop", account)]
            assert tunnel.tls.version() == "TLSv1.3"
            assert tunnel.tls.selected_alpn_protocol() == "h2"
            assert tunnel.tls.cipher()[0] in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384")


def test_an_unknown_server_name_is_refused(mesh, context):
    with pytest.raises((OSError, peers.TunnelLost)):
        name = pki.server_name("shop", "nobody")
        with peers.open_tunnel(mesh.c, mesh.b.v4, context, name) as tunnel:
            tunnel.connect(authority(mesh))


@pytest.mark.parametrize("wrong", ["port", "address", "name", "own", "none", "junk"])
def test_an_authority_that_is_no_endpoint_of_the_workload_is_400(mesh, tunnel, echo, wrong):
    text = {"port": f"{mesh.b.v4}:{UNDECLARED}", "address": f"{mesh.a.v4}:{ECHO}",
            "name": f"unknown.shop.mesh.internal:{ECHO}", "own": f"{mesh.b.v4}:15001",
            "none": mesh.b.v4, "junk": "::::"}[wrong]
    _, stream = tunnel.connect(text)
    if wrong == "name":
        assert stream.status in (400, 503)
    else:
        assert stream.status == 400
    _, stream = tunnel.connect(authority(mesh))
    assert stream.status == 200, "the tunnel must survive a bad request"


def test_a_workload_without_ports_cannot_be_reached_under_its_name(mesh, context, echo):
    name = pki.server_name("shop", "client")
    with peers.open_tunnel(mesh.c, mesh.b.v4, context, name) as tunnel:
        _, stream = tunnel.connect(authority(mesh))
        assert stream.status == 400


def test_a_closed_port_is_503(mesh, tunnel):
    _, stream = tunnel.connect(authority(mesh, CLOSED))
    assert stream.status == 503


@pytest.mark.full
def test_a_port_that_never_answers_is_503_after_ten_seconds(mesh, tunnel):
    rule = ["INPUT", "-i", "lo", "-p", "tcp", "--dport", str(CLOSED), "-j", "DROP"]
    mesh.b.run(["iptables", "-A", *rule])
    try:
        started = time.monotonic()
        _, stream = tunnel.connect(authority(mesh, CLOSED))
        assert stream.status == 503
        assert 9 < time.monotonic() - started < 12
    finally:
        mesh.b.run(["iptables", "-D", *rule])


MALFORMED = {
    "path": [(":method", "CONNECT"), (":authority", "{a}"), (":path", "/")],
    "scheme": [(":method", "CONNECT"), (":authority", "{a}"), (":scheme", "https")],
    "no authority": [(":method", "CONNECT")],
    "get": [(":method", "GET"), (":scheme", "https"), (":authority", "{a}"), (":path", "/")],
    "two methods": [(":method", "CONNECT"), (":method", "CONNECT"), (":authority", "{a}")],
    "upper case": [(":method", "CONNECT"), (":authority", "{a}"), ("Baggage", "x=y")],
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_request_is_refused_alone(mesh, tunnel, echo, kind):
    logged = mesh.b.log().count("connection failed src.addr=")
    headers = [(name, value.format(a=authority(mesh))) for name, value in MALFORMED[kind]]
    number = tunnel.request(headers)
    stream = tunnel.streams[number]
    tunnel.wait(lambda: stream.headers is not None or stream.reset is not None)
    if stream.headers is not None:
        assert 400 <= stream.status < 500
    else:
        assert stream.reset == Errors.PROTOCOL_ERROR
    _, good = tunnel.connect(authority(mesh))
    assert good.status == 200
    eventually(lambda: mesh.b.log().count("connection failed src.addr=") == logged + 1, 5,
               what="a line in the access log")


def test_surplus_headers_do_no_harm(mesh, tunnel, echo):
    extra = [("baggage", "k8s.namespace.name=shop,service.name=client"),
             ("forwarded", 'for="198.51.100.7:1"'),
             ("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-00"), ("x-odd", "y" * 4000)]
    number, stream = tunnel.connect(authority(mesh), extra)
    assert stream.status == 200
    # The preserved source is the tunnel's peer, never what a header says.
    greeting = f"you are {mesh.c.v4}\n".encode()
    assert tunnel.wait_data(number, len(greeting)) == greeting


def test_headers_over_16_kib_are_refused(mesh, context, echo):
    with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
        extra = [(f"x-{n}", "z" * 1000) for n in range(17)]
        _, stream = tunnel.connect(authority(mesh), extra)
        assert stream.status == 503
        assert tunnel.connect(authority(mesh))[1].status == 200
    assert eventually(lambda: any("16 KiB" in problem["message"]
                                  for problem in mesh.b.problems("limit-reached")), 3)


def test_half_close_by_the_client_leaves_the_answer_open(mesh, tunnel):
    def handler(sock):
        got = traffic.read_to_end(sock)
        time.sleep(0.3)
        sock.sendall(b"answer to %d bytes" % len(got))

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB):
        number, stream = tunnel.connect(authority(mesh, SECOND))
        tunnel.send(number, b"q" * 70_000, end_stream=True)
        tunnel.wait(lambda: stream.ended, 10, "the answer")
        assert bytes(stream.data) == b"answer to 70000 bytes"


def test_half_close_by_the_server_leaves_the_request_open(mesh, tunnel):
    def handler(sock):
        sock.sendall(b"said")
        sock.shutdown(socket.SHUT_WR)
        return len(traffic.read_to_end(sock))

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB) as server:
        number, stream = tunnel.connect(authority(mesh, SECOND))
        tunnel.wait(lambda: stream.ended, 10, "the server's end")
        assert bytes(stream.data) == b"said" and stream.reset is None
        tunnel.send(number, b"r" * 500_000, end_stream=True)
        tunnel.pump()
        assert server.event() == 500_000


def ending(sock):
    try:
        traffic.read_exactly(sock, 1)
        return "fin" if not sock.recv(1) else "data"
    except ConnectionResetError:
        return "rst"


@pytest.mark.parametrize("code", [Errors.CONNECT_ERROR, Errors.CANCEL, Errors.NO_ERROR])
def test_rst_stream_reaches_the_server_as_a_tcp_reset(mesh, tunnel, code):
    with mesh.b.serve(traffic.serve_each, SECOND, ending, uid=WEB) as server:
        number, stream = tunnel.connect(authority(mesh, SECOND))
        assert stream.status == 200
        tunnel.send(number, b"x")
        tunnel.pump(0.2)
        tunnel.reset(number, code)
        assert server.event() == "rst"


def test_end_stream_reaches_the_server_as_fin(mesh, tunnel):
    with mesh.b.serve(traffic.serve_each, SECOND, ending, uid=WEB) as server:
        number, _ = tunnel.connect(authority(mesh, SECOND))
        tunnel.send(number, b"x", end_stream=True)
        assert server.event() == "fin"


def test_a_lost_tunnel_reaches_the_server_as_a_tcp_reset(mesh, context):
    with mesh.b.serve(traffic.serve_each, SECOND, ending, uid=WEB) as server:
        for way in ("fin", "rst"):
            tunnel = peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME)
            number, _ = tunnel.connect(authority(mesh, SECOND))
            tunnel.send(number, b"x")
            tunnel.pump(0.2)
            if way == "rst":
                traffic.reset(tunnel.tls)
            else:
                tunnel.tls.close()
            assert server.event() == "rst"


def test_a_servers_tcp_reset_is_rst_stream_connect_error(mesh, tunnel):
    def handler(sock):
        traffic.read_exactly(sock, 1)
        traffic.reset(sock)

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB):
        number, stream = tunnel.connect(authority(mesh, SECOND))
        tunnel.send(number, b"x")
        tunnel.wait(lambda: stream.reset is not None or stream.ended)
        assert stream.reset == Errors.CONNECT_ERROR and not stream.ended


def test_pings_are_answered(tunnel):
    for number in range(3):
        tunnel.h2.ping(number.to_bytes(8, "big"))
        tunnel.flush()
    tunnel.wait(lambda: tunnel.pongs == 3)


def test_fifty_streams_on_one_tunnel_keep_apart(mesh, tunnel, echo):
    numbers = [tunnel.connect(authority(mesh))[0] for _ in range(50)]
    for number in numbers:
        tunnel.send(number, b"stream %06d" % number, end_stream=True)
    for number in numbers:
        tunnel.wait(lambda number=number: tunnel.streams[number].ended)
        assert tunnel.streams[number].data.endswith(b"stream %06d" % number)


def test_a_tunnel_carries_200_streams_at_once_and_no_more(mesh, tunnel, echo):
    numbers = [tunnel.connect(authority(mesh))[0] for _ in range(200)]
    assert all(tunnel.streams[number].status == 200 for number in numbers)
    for number in numbers[::20]:
        tunnel.send(number, b"alive?")
        tunnel.wait(lambda number=number: tunnel.streams[number].data.endswith(b"alive?"))
    tunnel.reset(numbers.pop())
    tunnel.pump(0.2)
    assert tunnel.connect(authority(mesh))[1].status == 200, "a free place can be used again"
    # h2 would keep the limit for us. A peer that breaks it loses the tunnel.
    tunnel.h2.remote_settings[Codes.MAX_CONCURRENT_STREAMS] = 10_000
    tunnel.h2.remote_settings.acknowledge()
    with pytest.raises(peers.TunnelLost):
        tunnel.connect(authority(mesh))
    assert tunnel.goaway.error_code == Errors.ENHANCE_YOUR_CALM
    assert eventually(lambda: any("200 streams" in problem["message"]
                                  for problem in mesh.b.problems("limit-reached")), 3)


def test_one_byte_frames_are_accepted(mesh, tunnel, echo):
    number, stream = tunnel.connect(authority(mesh))
    tunnel.wait_data(number, 1)
    body = b"".join(b"%03d" % n for n in range(1000))
    tunnel.send(number, body, end_stream=True, piece=1)
    tunnel.wait(lambda: stream.ended)
    assert stream.data.endswith(body)


def test_a_small_window_of_the_client_is_kept(mesh, context):
    body = b"w" * 200_000

    def handler(sock):
        sock.sendall(body)

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB):
        small = {Codes.INITIAL_WINDOW_SIZE: 1000}
        with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME, settings=small) as tunnel:
            number, stream = tunnel.connect(authority(mesh, SECOND))
            tunnel.wait(lambda: stream.ended, 20, "the body")
            assert bytes(stream.data) == body and max(stream.pieces) <= 1000


def test_a_flood_of_resets_ends_the_tunnel_and_nothing_else(mesh, context, echo):
    sent = 0
    with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
        try:
            while sent < 5_000 and tunnel.goaway is None and not tunnel.closed:
                number = tunnel.request([(":method", "CONNECT"), (":authority", authority(mesh))])
                tunnel.reset(number)
                sent += 1
                tunnel.pump(0)
        except (OSError, peers.h2.exceptions.ProtocolError):
            pass
        eventually(lambda: tunnel.pump(0.1) is False and (tunnel.closed or tunnel.goaway), 10)
        assert 900 < sent < 5_000
        assert tunnel.goaway.error_code == Errors.ENHANCE_YOUR_CALM
    assert eventually(lambda: mesh.b.problems("limit-reached"), 3)
    with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
        assert tunnel.connect(authority(mesh))[1].status == 200


def test_a_stop_of_the_agent_says_goaway(own_mesh):
    mesh = own_mesh
    pair = mesh.authority.workload("shop", "client")
    mine = peers.client_context(mesh.authority.certificate_path, pair)
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        with peers.open_tunnel(mesh.c, mesh.b.v4, mine, WEB_NAME) as tunnel:
            _, stream = tunnel.connect(authority(mesh))
            assert stream.status == 200
            tunnel.h2.end_stream(1)
            tunnel.flush()
            mesh.b.stop_agent()
            eventually(lambda: tunnel.pump(0.1) is False and tunnel.goaway, 5, what="GOAWAY")
            assert tunnel.goaway.error_code == Errors.NO_ERROR
