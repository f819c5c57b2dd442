"""Connections that go on while a test does something to the agents."""

import socket
import threading
import time

import traffic
from mesh import CLIENT, ECHO

MARKER = b"in the clear: 5f1b"


def callers(channel, address, threads, held):
    """New connections one after another in each thread, and `held` that are asked now and then,
    until told to stop; what they ended with, counted, and the first failures."""
    outcomes = {}
    failures = []
    lock = threading.Lock()
    stop = threading.Event()

    def note(found, error=None):
        with lock:
            outcomes[found] = outcomes.get(found, 0) + 1
            if error is not None and len(failures) < 5:
                failures.append(f"{found}: {error!r}")

    def dial_again_and_again():
        while not stop.is_set():
            try:
                with socket.create_connection((address, ECHO), timeout=20) as sock:
                    traffic.ask(sock, MARKER)
                note("served")
            except (OSError, EOFError) as error:
                note(type(error).__name__, error)
                time.sleep(0.005)
            time.sleep(0.005)

    def hold():
        sockets = [socket.create_connection((address, ECHO), timeout=20) for _ in range(held)]
        while not stop.is_set():
            for sock in sockets:
                try:
                    traffic.ask(sock)
                except (OSError, EOFError) as error:
                    note("cut", error)
                    return
            time.sleep(0.02)

    running = [threading.Thread(target=dial_again_and_again, daemon=True) for _ in range(threads)]
    if held:
        running.append(threading.Thread(target=hold, daemon=True))
    for thread in running:
        thread.start()
    channel.ready()
    channel.receive()
    stop.set()
    for thread in running:
        thread.join(25)
    if failures:
        outcomes["first failures"] = failures
    channel.event(outcomes)
    channel.receive()


class Load:
    """Enrolled callers on a and, unless `stranger` is false, a stranger on c, both to web on b."""

    def __init__(self, mesh, held=0, stranger=True):
        self._children = [mesh.a.serve(callers, mesh.b.v4, 2, held, uid=CLIENT)]
        if stranger:
            self._children.append(mesh.c.serve(callers, mesh.b.v4, 1, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self._children:
            child.stop()

    def end(self):
        """Outcomes by child, counted."""
        found = []
        for child in self._children:
            child.send("stop")
            found.append(child.event(60))
        return found

    def all_served(self):
        found = self.end()
        assert all(set(each) == {"served"} for each in found), found
        return sum(each["served"] for each in found)
