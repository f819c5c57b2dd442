"""Slow readers, slow headers, handshakes that never end and floods of resets, all at once."""

import contextlib
import itertools
import os
import re
import selectors
import socket
import ssl
import struct
import threading
import time

import certificates
import frames
import honest
import peers
import pki
import pytest
import strangers
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
# docs/limits.md: a request's header fields, complete from the first frame.
HEADERS_WITHIN = 10


class Attack:
    """What the attacker's processes share: where to, from which addresses, with which
    certificate."""

    def __init__(self, mesh, sources):
        self.address = mesh.b.v4
        self._context = peers.client_context(mesh.authority.certificate_path,
                                             certificates.good(mesh))
        self._sources = itertools.cycle(sources)

    def session(self):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(20)
        sock.bind((next(self._sources), 0))
        sock.connect((self.address, peers.HBONE_PORT))
        tls = self._context.wrap_socket(sock, server_hostname=WEB_NAME)
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


def ended(tls, heard):
    try:
        while piece := tls.recv(1 << 14):
            heard += piece
    except ssl.SSLWantReadError:
        return frames.goaway(heard) is not None
    except OSError:
        pass
    return True


def slow_headers(channel, attack, count):
    """Each begins a request and adds an octet a second; who is told to go comes again at once."""
    selector = selectors.DefaultSelector()

    def begin():
        tls = attack.session()
        tls.sendall(frame(HEADERS, END_HEADERS, 1, length=10_000) + b"\x00")
        tls.setblocking(False)
        selector.register(tls, selectors.EVENT_READ, bytearray())

    def look(seconds):
        for key, _ in selector.select(seconds):
            if ended(key.fileobj, key.data):
                selector.unregister(key.fileobj)
                key.fileobj.close()
        for _ in range(count - len(selector.get_map())):
            with contextlib.suppress(OSError):
                begin()

    # At the whole amount as many a second as will be cut a second from then on.
    began, pause = time.monotonic(), HEADERS_WITHIN * min(1, system.SCALE) / count
    for number in range(count):
        time.sleep(max(0, began + number * pause - time.monotonic()))
        begin()
    honest.behind_others()
    channel.ready()
    while True:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            look(0.1)
        for key in selector.get_map().values():
            with contextlib.suppress(OSError):
                key.fileobj.send(b"\x00")


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


@pytest.fixture(scope="module")
def sources(mesh):
    """So many that maxTunnelsPerPeer, which stays as it is, stops none of the attackers."""
    made = [f"10.77.0.{number}" for number in range(101, 109)]
    for address in made:
        mesh.c.add_address(address)
    return made


class Mix:
    """Parts of CONNECTIONS: half of them handshakes, the rest shared, resets from a few."""

    def __init__(self, mesh, sources):
        self._mesh, self._attack = mesh, Attack(mesh, sources)
        self.total = system.scaled(CONNECTIONS, 200)
        self._strangers = self.total // 2
        self._flooders = max(2, self.total // 800)
        self._readers = self._headers = (self.total // 2 - self._flooders) // 2
        self.bound = (KIB_AT_REST + self._readers * KIB_A_SLOW_READER
                      + (self.total - self._readers) * KIB_A_TUNNEL)

    @contextlib.contextmanager
    def running(self):
        with contextlib.ExitStack() as all_of_them:
            for function, *args in ((slow_headers, self._attack, self._headers),
                                    (slow_readers, self._attack, self._readers),
                                    (strangers.storm, self._attack.address, self._strangers),
                                    (resets, self._attack, self._flooders)):
                all_of_them.enter_context(self._mesh.c.serve(function, *args))
            with self._there():
                yield
        eventually(lambda: self._mesh.b.status()["tunnels"]["inbound"] <= 4, 30,
                   what="loss of the attack's tunnels")

    @contextlib.contextmanager
    def _there(self):
        """Whoever is to attack does, from the first of the honest client's requests to the last."""
        waiting = min(self._strangers, strangers.most_waiting())
        # Slow headers that were cut while others were dialled come again first.
        eventually(lambda: self._look()["tunnels"] >= 0.95 * (
            self._readers + self._headers + waiting), 20, what="the whole mix")
        before = self._look()
        yield
        after = self._look()
        print(f"of {self.total} connections: {before} and {after}")
        for seen in (before, after):
            assert seen["readers"] >= 0.9 * self._readers, seen
            assert seen["tunnels"] >= 0.9 * (self._readers + self._headers + waiting), seen
        assert after["tunnels-per-peer"] == before["tunnels-per-peer"], "an attacker was kept out"
        assert after["resets"] >= before["resets"] + self._flooders
        assert after["dials"] >= before["dials"] + (
            strangers.dials_a_second(self._strangers) * honest.SECONDS / 2)
        if system.SCALE >= 1:
            assert after["slow-headers"] > before["slow-headers"]
            assert after["handshakes"] > before["handshakes"]

    def _look(self):
        """Unfinished handshakes count as tunnels."""
        seen = {limit: honest.hits(self._mesh.b, limit)
                for limit in ("tunnels-per-peer", "resets", "slow-headers", "handshakes")}
        return {**seen, "dials": strangers.arrived(self._mesh.b),
                "tunnels": self._mesh.b.metric_sum("meshnode_tunnels", direction="inbound"),
                "readers": self._mesh.b.status()["connections"]["active"]}


def test_all_attacks_at_once_leave_an_honest_client_alone(mesh, unharmed, sources):
    mix = Mix(mesh, sources)
    most, peak = [], []

    @contextlib.contextmanager
    def attack():
        worker = mesh.b.worker()
        forget_peak(worker)
        with mix.running():
            yield
            most.append(mesh.b.pss_kib())
            peak.append(peak_kib(worker))

    with mesh.b.serve(traffic.serve_each, SECOND, pour, uid=WEB), mesh.b.serve(
            quiet_echo, THIRD, uid=WEB):
        honest.check(mesh, attack)
    print(f"{mix.total} connections: {max(most)} KiB PSS at most when looked at, {max(peak)} KiB "
          f"of the worker resident at its peak; the bound is {mix.bound}")
    honest.bounded(max(most + peak), mix.bound)
