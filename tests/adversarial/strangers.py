"""Handshakes that never end, by somebody without a certificate."""

import contextlib
import itertools
import os
import selectors
import socket
import time

import honest
import peers

# The beginning of a ClientHello: a record of 512 bytes that never ends.
BEGINNING = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)
# docs/limits.md: how long a TLS handshake may take, and how many of them a loop lets wait.
CUT_AFTER = 5
MOST_A_LOOP = 1_024


def dials_a_second(count):
    """What keeps `count` open if each lives as long as it may."""
    return count / CUT_AFTER


def most_waiting():
    """Of all loops: the agents of the tests have as many as there are processors."""
    return MOST_A_LOOP * len(os.sched_getaffinity(0))


def arrived(host):
    """Who ever dialled the host's tunnel port."""
    return host.metric_sum("meshnode_tunnels_opened_total", direction="inbound")


class Strangers:
    def __init__(self, address):
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._octets = itertools.cycle(BEGINNING[1:])
        self._next_octet = 0
        self.since = {}  # of each that is open, the oldest first
        self.oldest = 0

    def dial(self):
        with contextlib.suppress(OSError):
            sock = socket.create_connection((self._address, peers.HBONE_PORT), timeout=20)
            sock.setblocking(False)
            self.since[sock] = time.monotonic()
            self._selector.register(sock, selectors.EVENT_READ)
            sock.send(BEGINNING[:1])

    def replace_oldest(self):
        self._leave(next(iter(self.since)))
        self.dial()

    def look(self, seconds):
        """Forgets those that were cut, and says an octet a second on the others."""
        for key, _ in self._selector.select(seconds):
            with contextlib.suppress(OSError):
                if key.fileobj.recv(100):
                    continue  # an alert
            self.oldest = max(self.oldest, self._leave(key.fileobj))
        if time.monotonic() >= self._next_octet:
            self._next_octet = time.monotonic() + 1
            octet = bytes([next(self._octets)])
            for sock in self.since:
                with contextlib.suppress(OSError):
                    sock.send(octet)

    def _leave(self, sock):
        """How long it has lived."""
        self._selector.unregister(sock)
        sock.close()
        return time.monotonic() - self.since.pop(sock)


def _told(channel):
    with contextlib.suppress(TimeoutError):
        channel.receive(0)
        return True
    return False


def storm(channel, address, count):
    """Up to `count` half-open handshakes: all are dialled at once, and a fifth of them again each
    second, in the place of those that were cut or, while none is, of the oldest.

    Once told to, it dials no more and waits for the end of those left: how many were never cut,
    and how long the oldest of those that were had lived."""
    strangers = Strangers(address)
    for number in range(count):
        strangers.dial()
        if number % 100 == 99:
            strangers.look(0)
    honest.behind_others()
    channel.ready()
    began, dialled = time.monotonic(), 0
    while not _told(channel):
        strangers.look(0.02)
        due = int((time.monotonic() - began) * dials_a_second(count))
        for _ in range(due - dialled):
            if len(strangers.since) < count:
                strangers.dial()
            else:
                strangers.replace_oldest()
        dialled = due
    deadline = time.monotonic() + 30
    while strangers.since and time.monotonic() < deadline:
        strangers.look(0.1)
    channel.event((len(strangers.since), strangers.oldest))
