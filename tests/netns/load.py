"""Connections that go on while a test does something to the agents."""

import socket
import threading
import time

import traffic
from mesh import CLIENT, ECHO

MARKER = b"in the clear: 5f1b"     # of enrolled callers
STRANGERS = b"in the clear: 77c0"  # of strangers


def callers(channel, addresses, text, held):
    """New connections one after another in a thread for each address, and `held` to the first that
    are asked now and then, until told to stop; how many were served, and each that was not: what
    it ended with, and from when to when it was tried."""
    served = []
    failures = []
    stop = threading.Event()

    def dial_again_and_again(address):
        while not stop.is_set():
            began = time.monotonic()
            try:
                with socket.create_connection((address, ECHO), timeout=20) as sock:
                    traffic.ask(sock, text)
                served.append(address)
            except (OSError, EOFError, AssertionError) as error:
                failures.append((type(error).__name__, began, time.monotonic()))
                time.sleep(0.005)
            time.sleep(0.005)

    def hold():
        began = time.monotonic()
        sockets = [socket.create_connection((addresses[0], ECHO), timeout=20)
                   for _ in range(held)]
        while not stop.is_set():
            for sock in sockets:
                try:
                    traffic.ask(sock)
                except (OSError, EOFError) as error:
                    failures.append((f"cut: {error!r}", began, time.monotonic()))
                    return
            time.sleep(0.02)

    running = [threading.Thread(target=dial_again_and_again, args=(address,), daemon=True)
               for address in addresses]
    if held:
        running.append(threading.Thread(target=hold, daemon=True))
    for thread in running:
        thread.start()
    channel.ready()
    channel.receive()
    stop.set()
    for thread in running:
        thread.join(25)
    channel.event((len(served), failures))
    channel.receive()


class Callers:
    """Children that run callers()."""

    def __init__(self, *children):
        self._children = children

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self._children:
            child.stop()

    def end(self):
        """By child: how many were served, and those that were not."""
        found = []
        for child in self._children:
            child.send("stop")
            found.append(child.event(60))
        return found

    def all_served(self):
        found = self.end()
        assert all(served and not failures for served, failures in found), found
        return sum(served for served, _ in found)


class Load(Callers):
    """Enrolled callers on a, one of each family, and unless `stranger` is false a stranger on c,
    all to web on b."""

    def __init__(self, mesh, held=0, stranger=True):
        children = [mesh.a.serve(callers, (mesh.b.v4, mesh.b.v6), MARKER, held, uid=CLIENT)]
        if stranger:
            children.append(mesh.c.serve(callers, (mesh.b.v4,), STRANGERS, 0))
        super().__init__(*children)
