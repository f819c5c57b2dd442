"""Slow readers, slow headers, handshakes that never end and floods of resets, all at once."""

import contextlib
import os
import re
import socket
import struct
import threading
import time

import certificates
import frames
import honest
import peers
import pki
import pytest
import system
import traffic
from frames import END_HEADERS, HEADERS, RST, frame
from mesh import SECOND, THIRD, WEB
from procs import eventually

WEB_NAME = pki.server_name("shop", "web")
CONNECTIONS = 8_000
# docs/operations.md, "Memory under attack", in KiB: what is at rest, and beyond it.
KIB_AT_REST = 24 * 1024
KIB_A_SLOW_READER = 768
KIB_A_TUNNEL = 64


class Attack:
    """What the attacker's processes share: where to, and with which certificate."""

    def __init__(self, mesh):
        pair = certificates.good(mesh)
        self.address = mesh.b.v4
        self.paths = (mesh.authority.certificate_path, pair)

    def session(self):
        root, pair = self.paths
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(20)
        sock.connect((self.address, peers.HBONE_PORT))
        tls = peers.client_context(root, pair).wrap_socket(sock, server_hostname=WEB_NAME)
        window = frame(frames.SETTINGS, payload=b"\x00\x04\x7f\xff\xff\xff")
        tls.sendall(frames.PREFACE + window + frame(frames.WINDOW, payload=b"\x3f\xff\xff\xff"))
        return tls

    def ask(self, stream, port):
        return frame(HEADERS, END_HEADERS, stream,
                     frames.connect_block(f"{self.address}:{port}"))


def slow_readers(channel, attack, count):
    """Each asks for a body without end and reads a byte a second of it."""
    sessions = []
    for _ in range(count):
        tls = attack.session()
        tls.sendall(attack.ask(1, SECOND))
        sessions.append(tls)
    honest.behind_others()
    channel.ready()
    while True:
        time.sleep(1)
        for tls in sessions:
            with contextlib.suppress(OSError):
                tls.recv(1)


def slow_headers(channel, attack, count):
    """Each begins a request and adds an octet a second; who is cut comes again."""
    sessions = []

    def one():
        tls = attack.session()
        tls.sendall(frame(HEADERS, END_HEADERS, 1, length=10_000) + b"\x00")
        tls.setblocking(False)
        return tls

    sessions = [one() for _ in range(count)]
    honest.behind_others()
    channel.ready()
    while True:
        time.sleep(1)
        for at, tls in enumerate(sessions):
            try:
                tls.send(b"x")
            except OSError:
                tls.close()
                with contextlib.suppress(OSError):
                    sessions[at] = one()


def never_finishing(channel, attack, count):
    """Dials and says half of a ClientHello; who is cut comes again."""

    def one():
        sock = socket.create_connection((attack.address, peers.HBONE_PORT), timeout=20)
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        sock.setblocking(False)
        return sock

    sockets = [one() for _ in range(count)]
    honest.behind_others()
    channel.ready()
    while True:
        time.sleep(1)
        for at, sock in enumerate(sockets):
            try:
                if sock.recv(100):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            sock.close()
            with contextlib.suppress(OSError):
                sockets[at] = one()


def resets(channel, attack, count):
    """Opens and resets streams as fast as it can; who is cut comes again after a second."""
    data = b"".join(attack.ask(2 * n + 1, THIRD) + frame(RST, 0, 2 * n + 1, struct.pack(">I", 8))
                    for n in range(1_500))

    def flood():
        while True:
            with contextlib.suppress(OSError):
                with attack.session() as tls:
                    frames.push(tls, data, 5)
            time.sleep(1)

    honest.behind_others()
    threads = [threading.Thread(target=flood, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    channel.ready()
    threads[0].join()


def pour(sock):
    os.nice(19)
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(b"p" * 65536)


def quiet_echo(channel, port):
    honest.behind_others()
    traffic.echo_server(channel, port)


def forget_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w") as refs:
        refs.write("5")  # VmHWM begins anew at what is resident


def peak_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"^VmHWM:\s+(\d+) kB", status.read(), re.M).group(1))


@pytest.fixture
def mixed(mesh):
    """Parts of CONNECTIONS: half of them handshakes, the rest shared, resets from a few."""
    total = system.scaled(CONNECTIONS, 200)
    flooders = max(2, total // 800)
    readers = headers = (total // 2 - flooders) // 2
    attack = Attack(mesh)

    @contextlib.contextmanager
    def running():
        with contextlib.ExitStack() as all_of_them:
            for function, count in ((slow_readers, readers), (slow_headers, headers),
                                    (never_finishing, total // 2), (resets, flooders)):
                child = mesh.c.serve(function, attack, count)
                all_of_them.enter_context(child)
            yield
        eventually(lambda: mesh.b.status()["tunnels"]["inbound"] <= 4, 30,
                   what="loss of the attack's tunnels")

    bound = KIB_AT_REST + readers * KIB_A_SLOW_READER + (total - readers) * KIB_A_TUNNEL
    return running, bound, total


def test_all_attacks_at_once_leave_an_honest_client_alone(mesh, unharmed, mixed):
    running, bound, total = mixed
    most, peak = [], []

    @contextlib.contextmanager
    def attack():
        worker = mesh.b.worker()
        forget_peak(worker)
        with running():
            yield
            most.append(mesh.b.pss_kib())
            peak.append(peak_kib(worker))

    with mesh.b.serve(traffic.serve_each, SECOND, pour, uid=WEB), mesh.b.serve(
            quiet_echo, THIRD, uid=WEB):
        honest.check(mesh, attack, rounds=5 if system.SCALE >= 1 else 3)
    print(f"{total} connections: {max(most)} KiB PSS at most when looked at, {max(peak)} KiB of "
          f"the worker resident at its peak; the bound is {bound}")
    honest.bounded(max(most + peak), bound)
