"""A peer with a good certificate and bad manners may lose its tunnel, and nobody else anything."""

import os
import select
import struct
import time

import peers
import pki
import pytest
import traffic
from frames import (DATA, HEADERS, PING, PREFACE, PUSH, RST, SETTINGS, WINDOW, connect_block,
                    frame, greet, linger, push)
from mesh import CLIENT, ECHO, SECOND, WEB
from procs import eventually

GROWTH_KIB = 24 * 1024


@pytest.fixture
def raw(mesh):
    """A TLS session after the HTTP/2 preface, for frames written by hand."""
    tls = greet(mesh)
    yield tls
    tls.close()


@pytest.fixture
def unharmed(mesh):
    """After the test: the same worker, no fatter, still serving."""
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
        worker, before = mesh.b.worker(), mesh.b.pss_kib()
        yield
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
        assert mesh.b.worker() == worker, "the worker died"
        grown = mesh.b.pss_kib() - before
        assert grown < GROWTH_KIB, f"{grown} KiB more"


def test_a_header_bomb_is_refused(mesh, unharmed, raw):
    """One big indexed field, then thousands of one-byte references to it."""
    # Integers of RFC 7541 §5.1: 3,200 as 127, then 3,073 in groups of seven bits.
    field = b"\x40\x06cookie" + b"\x7f\x81\x18" + b"c" * 3_200
    block = connect_block(f"{mesh.b.v4}:{ECHO}") + field + b"\xbe" * 8_000
    push(raw, frame(HEADERS, 4, 1, block), 5)
    linger(raw)


BROKEN = {
    "a frame over 1 MiB": frame(DATA, 0, 1, b"", length=(1 << 20) + 1) + b"x" * 70_000,
    "data on a stream that never was": frame(DATA, 0, 5, b"x" * 100),
    "an even stream": frame(HEADERS, 5, 2, b"\x82"),
    "a push promise": frame(PUSH, 4, 1, b"\0\0\0\x02\x82"),
    "a window of nothing": frame(WINDOW, 0, 0, b"\0\0\0\0"),
    "a window too large": frame(WINDOW, 0, 0, struct.pack(">I", 0x7fffffff)) * 2,
    "a settings frame cut short": frame(SETTINGS, 0, 0, b"\0\x04\0"),
    "a ping of seven bytes": frame(PING, 0, 0, b"1234567"),
    "settings of a stream": frame(SETTINGS, 0, 1),
    "broken header compression": frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff"),
    "noise": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_frame_ends_the_tunnel_only(mesh, unharmed, raw, kind):
    push(raw, BROKEN[kind], 5)
    assert linger(raw, 5), "the tunnel is still open"


def test_noise_instead_of_the_preface(mesh, unharmed):
    pair = mesh.authority.workload("shop", "client")
    context = peers.client_context(mesh.authority.certificate_path, pair)
    for noise in (os.urandom(4096), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PREFACE[:10] + b"zzzz"):
        with context.wrap_socket(mesh.c.dial(mesh.b.v4, 15008),
                                 server_hostname=pki.server_name("shop", "web")) as tls:
            push(tls, noise, 5)
            assert linger(tls, 5)


def test_a_reader_that_opens_no_window_holds_little(mesh, unharmed):
    """Twenty streams whose server sends without end, and a peer that reads nothing."""
    def pour(sock):
        block = b"p" * 65536
        try:
            while True:
                sock.sendall(block)
        except OSError:
            pass

    pair = mesh.authority.workload("shop", "client")
    context = peers.client_context(mesh.authority.certificate_path, pair)
    with mesh.b.serve(traffic.serve_each, SECOND, pour, uid=WEB):
        name = pki.server_name("shop", "web")
        with peers.open_tunnel(mesh.c, mesh.b.v4, context, name) as tunnel:
            tunnel.acknowledge = False
            for _ in range(20):
                assert tunnel.connect(f"{mesh.b.v4}:{SECOND}")[1].status == 200
            before = mesh.b.pss_kib()
            time.sleep(3)
            # 512 KiB a direction a connection, and what the kernel holds is its own.
            assert mesh.b.pss_kib() - before < 20 * 640


def test_data_beyond_the_window_ends_the_stream_or_the_tunnel(mesh, unharmed, raw):
    """5 MiB at a server that reads nothing, against a stream window of 4 MiB."""
    def deaf(sock):
        time.sleep(30)

    with mesh.b.serve(traffic.serve_each, SECOND, deaf, uid=WEB):
        block = connect_block(f"{mesh.b.v4}:{SECOND}")
        flood = frame(DATA, 0, 1, b"d" * 16_000) * 2_000
        heard = bytearray()
        sent = push(raw, frame(HEADERS, 4, 1, block) + flood, 10, heard=heard)
        reset = frame(RST, 0, 1, struct.pack(">I", peers.Errors.FLOW_CONTROL_ERROR))
        assert reset in heard or sent < len(flood) or linger(raw, 3)


def test_half_open_handshakes_leave_the_good_ones_alone(mesh, unharmed):
    idle = [mesh.c.dial(mesh.b.v4, 15008) for _ in range(300)]
    started = time.monotonic()
    for _ in range(10):
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
    assert time.monotonic() - started < 5
    for sock in idle:
        sock.close()


def test_plaintext_that_never_ends_a_line_is_only_bytes(mesh, unharmed):
    """Captured plaintext is opaque: whatever comes is passed on."""
    body = os.urandom(1 << 20)
    with mesh.c.dial(mesh.b.v4, ECHO) as sock:
        sock.setblocking(False)
        sent, got = 0, bytearray()
        while len(got) < len(body):
            pending = [sock] if sent < len(body) else []
            readable, writable, _ = select.select([sock], pending, [], 10)
            assert readable or writable, "nothing moves"
            if readable:
                got += sock.recv(1 << 16)
            if writable:
                sent += sock.send(body[sent:sent + 65536])
        assert bytes(got) == body


def test_worker_is_alive_after_a_connection_reset_at_every_stage(mesh, unharmed):
    pair = mesh.authority.workload("shop", "client")
    context = peers.client_context(mesh.authority.certificate_path, pair)
    name = pki.server_name("shop", "web")
    for stage in range(6):
        for _ in range(5):
            sock = mesh.c.dial(mesh.b.v4, 15008)
            if stage == 0:
                traffic.reset(sock)
                continue
            if stage == 1:
                sock.sendall(b"\x16\x03\x01\x02")
                traffic.reset(sock)
                continue
            tls = context.wrap_socket(sock, server_hostname=name)
            if stage >= 3:
                tls.sendall(PREFACE + frame(SETTINGS))
            if stage >= 4:
                tls.sendall(frame(HEADERS, 4, 1, connect_block(f"{mesh.b.v4}:{ECHO}")))
            if stage >= 5:
                tls.sendall(frame(DATA, 0, 1, b"x" * 100))
            traffic.reset(tls)
    eventually(lambda: mesh.b.status()["tunnels"]["inbound"] <= 2, 10, what="loss of the tunnels")
