"""HTTP/2 and CONNECT: rows 13 to 22 of docs/adversarial.md, beyond what tests/netns shows."""

import contextlib
import socket
import struct
import time

import certificates
import frames
import honest
import peers
import pki
import pytest
import system
import traffic
from frames import (CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST,
                    SETTINGS, WINDOW, frame, literal)
from mesh import CLIENT, CLOSED, ECHO, SECOND, THIRD, UNDECLARED, WEB
from peers import Errors
from procs import eventually

WEB_NAME = pki.server_name("shop", "web")
CALM = Errors.ENHANCE_YOUR_CALM
# Of memory, TLS session and all, for each octet of a header list that is not over yet.
A_BOMBS_GROWTH = 10
pytestmark = pytest.mark.usefixtures("unharmed")


def limits(host):
    return host.metric_sum("meshnode_peer_refused_total", reason="limit")


def dialled(sock):
    """A program that counts who comes."""
    return traffic.peer_of(sock)


def ask(mesh, stream, port=ECHO, end=0):
    block = frames.connect_block(f"{mesh.b.v4}:{port}")
    return frame(HEADERS, END_HEADERS | end, stream, block)


def ended_by(mesh, data, seconds=10):
    """Seconds until a session that sends `data` was told GOAWAY, and the code; it must end."""
    heard, started = bytearray(), time.monotonic()
    before = limits(mesh.b)
    with frames.greet(mesh) as tls:
        view = memoryview(data)
        while view and frames.goaway(heard) is None and time.monotonic() < started + seconds:
            sent = frames.push(tls, view[:1 << 15], 2, heard=heard)
            view = view[sent:]
            if sent == 0:
                break
        if frames.goaway(heard) is None:
            assert frames.linger(tls, seconds, heard), "the session is still open"
        took = time.monotonic() - started
    eventually(lambda: limits(mesh.b) > before, 3, what="one more refusal for a limit")
    return took, frames.goaway(heard)


def test_rapid_reset_is_calmed_within_a_second(mesh):
    count = system.scaled(100_000, 5_000)
    data = b"".join(ask(mesh, 2 * n + 1) + frame(RST, 0, 2 * n + 1, struct.pack(">I", 8))
                    for n in range(count))
    took, code = ended_by(mesh, data)
    print(f"GOAWAY after {took:.2f} s")
    assert code == CALM and took <= 1


def test_a_request_that_is_reset_in_the_same_breath_is_not_dialled(mesh):
    with mesh.b.serve(traffic.serve_each, SECOND, dialled, uid=WEB) as server:
        with frames.greet(mesh) as tls:
            for n in range(0, 900, 100):
                tls.sendall(b"".join(
                    ask(mesh, 2 * k + 1, SECOND) + frame(RST, 0, 2 * k + 1, struct.pack(">I", 8))
                    for k in range(n, n + 100)))
            tls.sendall(ask(mesh, 2001, SECOND))
            frames.linger(tls, 1)
        assert 1 <= len(server.drain_events()) <= 50


@pytest.mark.parametrize("kind", ["window overflow", "bad field"])
def test_resets_that_the_peer_makes_us_send_have_the_same_budget(mesh, kind):
    bad = frames.connect_block(f"{mesh.b.v4}:{ECHO}") + literal(b"X", b"y")

    def one(stream):
        if kind == "bad field":
            return frame(HEADERS, END_HEADERS, stream, bad)
        return ask(mesh, stream) + frame(WINDOW, 0, stream, b"\x7f\xff\xff\xff")

    heard = bytearray()
    with frames.greet(mesh) as tls:
        for n in range(3_000):
            frames.push(tls, one(2 * n + 1), 5, heard=heard)
            if frames.goaway(heard) is not None:
                break
        frames.linger(tls, 2, heard)
    resets = [stream for kind, _, stream, _ in frames.split(heard) if kind == RST]
    assert frames.goaway(heard) == CALM and 900 <= len(resets) <= 1_200, len(resets)


FLOODS = {
    "PING": frame(PING, payload=b"12345678") * 50_000,
    "PING acknowledged": frame(PING, 1, payload=b"12345678") * 50_000,
    "SETTINGS": frame(SETTINGS, payload=b"\x00\x04\x00\x01\x00\x00") * 50_000,
    "empty SETTINGS": frame(SETTINGS) * 50_000,
    "PRIORITY": b"".join(frame(PRIORITY, 0, 2 * n + 1, b"\0\0\0\0\x10") for n in range(50_000)),
    "window updates": frame(WINDOW, payload=struct.pack(">I", 1)) * 50_000,
    "unknown frames": frame(0xf0, payload=b"x" * 100) * 50_000,
    "CONTINUATION": frame(HEADERS, 0, 1) + b"".join(
        frame(CONTINUATION, 0, 1, literal(b"x-part", str(n).encode())) for n in range(50_000)),
    "empty CONTINUATION": frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 50_000,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_frames_ends_the_session(mesh, kind):
    _, code = ended_by(mesh, FLOODS[kind])
    assert code == CALM


@pytest.mark.parametrize("padding", [False, True], ids=["empty", "padding only"])
def test_a_flood_of_data_without_data_ends_the_session(mesh, padding):
    one = frame(DATA, 8, 1, b"\x07" + bytes(7)) if padding else frame(DATA, 0, 1)
    _, code = ended_by(mesh, ask(mesh, 1) + one * 50_000)
    assert code == CALM


@pytest.mark.parametrize("kind", ["PING", "SETTINGS"])
def test_a_flood_whose_answers_are_not_read_ends_too(mesh, kind):
    before, pss = limits(mesh.b), mesh.b.pss_kib()
    with frames.greet(mesh, receive_buffer=4096) as tls:
        frames.push(tls, FLOODS[kind] * 4, 10, read=False)
        eventually(lambda: limits(mesh.b) == before + 1, 3)
        honest.bounded(mesh.b.pss_kib() - pss, 8 * 1024)
        assert frames.linger(tls, 3), "the session is still open"


def test_many_requests_of_one_byte_are_only_many_requests(mesh):
    """Small frames that carry something are no flood: each brings a byte to a program."""
    with peers.open_tunnel(mesh.c, mesh.b.v4, peers.client_context(
            mesh.authority.certificate_path, certificates.good(mesh)), WEB_NAME) as tunnel:
        number, stream = tunnel.connect(f"{mesh.b.v4}:{ECHO}")
        tunnel.send(number, b"x" * 3_000, piece=1)
        tunnel.wait(lambda: len(stream.data) == 3_000, 20)
        assert tunnel.goaway is None


def test_header_bombs_cost_little_memory(mesh):
    """References of one octet to a field of 3 KB, on header lists that stay open."""
    count = system.scaled(500, 40)
    value, references = b"c" * 3_200, 15
    bomb = (literal(b":method", b"CONNECT") + b"\x40\x06cookie" + b"\x7f\x81\x18" + value
            + b"\xbe" * references)
    expanded = (1 + references) * len(b"cookie" + value)
    sessions = []
    try:
        before = mesh.b.pss_kib()
        for _ in range(count):
            sessions.append(frames.greet(mesh))
            sessions[-1].sendall(frame(HEADERS, 0, 1, bomb))
        time.sleep(0.5)
        each = (mesh.b.pss_kib() - before) / count
        print(f"{each:.1f} KiB a bomb of {len(bomb)} octets, {expanded / 1024:.0f} KiB expanded")
        honest.bounded(each, A_BOMBS_GROWTH * len(bomb) / 1024)
    finally:
        for tls in sessions:
            tls.close()


@pytest.mark.full
def test_header_fields_that_trickle_are_cut_after_ten_seconds(mesh):
    before = limits(mesh.b)
    with frames.greet(mesh) as tls:
        started = time.monotonic()
        heard = bytearray()
        tls.sendall(ask(mesh, 1)[:12])
        while time.monotonic() < started + 20 and not frames.linger(tls, 1, heard):
            tls.sendall(b"\x00")
        assert 9 < time.monotonic() - started < 13
    assert limits(mesh.b) == before + 1 and frames.goaway(heard) == CALM


# -- CONNECT -------------------------------------------------------------------------------------

@pytest.fixture
def tunnel(mesh):
    context = peers.client_context(mesh.authority.certificate_path, certificates.good(mesh))
    with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as made:
        yield made


TARGETS = ["127.0.0.1:9080", "127.0.0.53:53", "[::1]:9080", "localhost:9080", "0.0.0.0:9080",
           "[::]:9080", "[::ffff:127.0.0.1]:9080", "169.254.169.254:80", "[fe80::1]:9080",
           "{a}:9080", "{c}:9080", "198.51.100.1:443", "{b}:15001", "{b}:15006", "{b}:15008",
           "{b}:15020", "{b}:15021", "{b}:22", "{b}:0", "{b}:65536", "{b}:9080x", "{b}", "",
           "http://{b}:9080", "user@{b}:9080", "127.15.0.1:15001", "224.0.0.1:9080",
           "255.255.255.255:9080", "2130706433:9080", "0x7f000001:9080"]


@pytest.mark.parametrize("target", TARGETS)
def test_connect_reaches_nothing_but_declared_endpoints(mesh, tunnel, target):
    authority = target.format(a=mesh.a.v4, b=mesh.b.v4, c=mesh.c.v4)
    _, stream = tunnel.connect(authority)
    assert stream.reset == Errors.PROTOCOL_ERROR if stream.headers is None else (
        stream.status == 400), vars(stream)
    assert tunnel.connect(f"{mesh.b.v4}:{ECHO}")[1].status == 200


def first_octet(sock):
    return traffic.read_exactly(sock, 1)


def ask_early(mesh, tunnel, port, data):
    """A CONNECT with DATA right behind it; its stream, and that stream's number."""
    number = tunnel.request([(":method", "CONNECT"), (":authority", f"{mesh.b.v4}:{port}")])
    tunnel.h2.send_data(number, data)
    tunnel.flush()
    return number, tunnel.streams[number]


@pytest.mark.parametrize("port, status", [(UNDECLARED, 400), (CLOSED, 503)])
def test_early_data_of_a_refused_request_reaches_nobody(mesh, tunnel, port, status):
    with mesh.b.serve(traffic.serve_each, UNDECLARED, first_octet, uid=WEB) as server:
        _, stream = ask_early(mesh, tunnel, port, b"early and refused")
        tunnel.wait(lambda: stream.headers is not None)
        assert stream.status == status
        number, stream = ask_early(mesh, tunnel, ECHO, b"early and welcome")
        assert tunnel.wait_data(number, 17) == b"early and welcome"
        assert stream.status == 200
        assert server.drain_events() == []
        with mesh.b.dial("127.0.0.1", UNDECLARED) as sock:  # it does tell of whoever comes
            sock.sendall(b"x")
            assert server.event() == b"x"


@contextlib.contextmanager
def silenced(host, port):
    """Nobody answers at a port of the host's own, and nobody refuses; where our own rules do not
    put it right."""
    rule = ["INPUT", "-i", "lo", "-p", "tcp", "--dport", str(port), "-j", "DROP"]
    host.run(["iptables", "-A", *rule])
    try:
        yield
    finally:
        host.run(["iptables", "-D", *rule])


def test_early_data_is_held_while_its_program_is_dialled(mesh, tunnel):
    with mesh.b.serve(traffic.echo_server, THIRD, uid=WEB):
        with silenced(mesh.b, THIRD):
            number, stream = ask_early(mesh, tunnel, THIRD, b"early and ")
            tunnel.pump(0.5)
            tunnel.h2.send_data(number, b"held")
            tunnel.flush()
            tunnel.pump(0.2)
            assert stream.headers is None, "the dial is not pending: nothing is shown"
        assert tunnel.wait_data(number, 14) == b"early and held"
        assert stream.status == 200


@pytest.mark.parametrize("way", ["reset", "session"])
def test_a_client_that_leaves_while_its_program_is_dialled_leaves_nothing(mesh, way):
    def dialled_now():
        argv = ["ss", "-Htn", "state", "syn-sent", f"( dport = :{THIRD} )"]
        return len(mesh.b.run(argv).stdout.splitlines())

    heard = bytearray()
    with silenced(mesh.b, THIRD), frames.greet(mesh) as tls:
        for n in range(100):
            tls.sendall(ask(mesh, 2 * n + 1, THIRD))
        frames.linger(tls, 0.5, heard)
        answered = [stream for kind, _, stream, _ in frames.split(heard) if kind == HEADERS]
        assert answered == [] and dialled_now() == 100, "the dials are not pending"
        if way == "reset":
            for n in range(100):
                tls.sendall(frame(RST, 0, 2 * n + 1, bytes(4)))
        else:
            traffic.reset(tls)
        # Before anybody answers the dials, or their ten seconds are over.
        eventually(lambda: dialled_now() == 0, 3, what="an end of all dials")


BAD_FIELDS = {
    "upper case": literal(b"X-Odd", b"y"), "a line feed": literal(b"x-odd", b"a\nb"),
    "a carriage return": literal(b"x-odd", b"a\rb"), "a NUL": literal(b"x-odd", b"a\0b"),
    "a NUL in the name": literal(b"x\0odd", b"y"), "a space in the name": literal(b"x odd", b"y"),
    "an empty name": literal(b"", b"y"), "connection": literal(b"connection", b"close"),
    "transfer-encoding": literal(b"transfer-encoding", b"chunked"),
    "a late pseudo field": literal(b"x-odd", b"y") + literal(b":authority", b"127.0.0.1:1"),
    "an unknown pseudo field": literal(b":odd", b"y"),
    "a response's": literal(b":status", b"200"),
}


@pytest.mark.parametrize("kind", BAD_FIELDS)
def test_a_bad_field_ends_its_stream_alone(mesh, kind):
    heard = bytearray()
    with frames.greet(mesh) as tls:
        block = frames.connect_block(f"{mesh.b.v4}:{ECHO}") + BAD_FIELDS[kind]
        tls.sendall(frame(HEADERS, END_HEADERS, 1, block) + ask(mesh, 3, end=END_STREAM))
        eventually(lambda: frames.linger(tls, 0.05, heard) or any(
            stream == 3 for _, _, stream, _ in frames.split(heard)), 3, 0)
    said = frames.split(heard)
    assert (RST, 0, 1, struct.pack(">I", Errors.PROTOCOL_ERROR)) in said, said
    assert any(kind == HEADERS and stream == 3 for kind, _, stream, _ in said), said
    assert not any(kind == HEADERS and stream == 1 for kind, _, stream, _ in said), said


def test_trailers_that_do_not_end_the_stream_reset_it(mesh):
    heard = bytearray()
    with frames.greet(mesh) as tls:
        tls.sendall(ask(mesh, 1))
        frames.linger(tls, 0.5, heard)
        tls.sendall(frame(HEADERS, END_HEADERS, 1, literal(b"x-trailer", b"y")))
        frames.linger(tls, 0.5, heard)
    said = frames.split(heard)
    assert any(kind == HEADERS and stream == 1 for kind, _, stream, _ in said), said
    assert (RST, 0, 1, struct.pack(">I", Errors.PROTOCOL_ERROR)) in said, said
    assert frames.goaway(heard) is None


def test_a_window_that_stays_shut_holds_little_and_harms_nobody(mesh):
    """A window of nothing on twenty streams, and beside them an honest stream of the same peer."""
    def pour(sock):
        try:
            while True:
                sock.sendall(b"p" * 65536)
        except OSError:
            pass

    with mesh.b.serve(traffic.serve_each, SECOND, pour, uid=WEB):
        shut = frame(SETTINGS, payload=b"\x00\x04" + bytes(4))
        with frames.greet(mesh, frames.PREFACE + shut) as tls:
            before = mesh.b.pss_kib()
            for n in range(20):
                tls.sendall(ask(mesh, 2 * n + 1, SECOND))
            heard = bytearray()
            frames.linger(tls, 2, heard)
            honest.bounded(mesh.b.pss_kib() - before, 20 * 640)
            assert not any(kind == DATA for kind, *_ in frames.split(heard))
            tls.sendall(ask(mesh, 41) + frame(WINDOW, 0, 41, struct.pack(">I", 5))
                        + frame(DATA, 0, 41, b"hello"))
            frames.linger(tls, 1, heard)
            assert (DATA, 0, 41, b"hello") in frames.split(heard)
            assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
            tls.shutdown(socket.SHUT_RDWR)
