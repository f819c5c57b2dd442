"""An honest client beside an attack, and what the attack costs it."""

import contextlib
import multiprocessing
import os
import socket
import statistics
import time

import system
import traffic
from mesh import CLIENT, ECHO

# What honest clients say: it must not be seen on the wire.
MARK = b"the words of an honest client"
ROUNDS = 3 if system.SCALE >= 1 else 1
# Long enough to meet what attackers do from second to second.
SECONDS = 6 if system.SCALE >= 1 else 2.5
ATTEMPTS = 3
# Below this a p99 says more of the machine's scheduler than of the agent.
FLOOR = 0.005


def behind_others():
    """An attacker is another machine: it must not take the processors of the one attacked."""
    os.nice(19)


def _latencies(address, seconds):
    """How long new connections with one question each take, one after another."""
    took, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.monotonic()
        with socket.create_connection((address, ECHO), timeout=20) as sock:
            traffic.ask(sock, MARK)
        took.append(time.monotonic() - started)
    return took


def hits(host, limit):
    return host.metric_sum("meshnode_limit_hits_total", limit=limit)


def bounded(kib, bound):
    """Memory, which a sanitizer multiplies."""
    assert system.SANITIZED or kib <= bound, f"{kib} KiB; the bound is {bound}"


def p99(mesh, seconds=SECONDS):
    took = sorted(mesh.a.call(_latencies, mesh.b.v4, seconds, uid=CLIENT, timeout=120))
    return took[len(took) * 99 // 100]


def _spin():
    behind_others()
    while True:
        pass


@contextlib.contextmanager
def nothing_but_busy():
    """All processors as busy as attackers keep them, and no attack."""
    spinning = [multiprocessing.Process(target=_spin) for _ in range(os.cpu_count())]
    for process in spinning:
        process.start()
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.join()


def compare(mesh, attack, rounds=ROUNDS):
    """(median p99 by itself, median p99 under attack, by itself and under attack each round)."""
    quiet, under = [], []
    p99(mesh, 0.3)
    for _ in range(rounds):
        quiet.append(p99(mesh))
        if system.SCALE >= 1:
            with nothing_but_busy():
                print(f"p99 {p99(mesh) * 1e3:.2f} ms beside processors that are merely busy")
        with attack():
            under.append(p99(mesh))
    return statistics.median(quiet), statistics.median(under), (quiet, under)


def check(mesh, attack):
    """A neighbour on the machine may spoil a comparison; an attack that harms spoils them all."""
    seen = []
    if system.SANITIZED:
        compare(mesh, attack, rounds=1)
        return
    for _ in range(ATTEMPTS):
        quiet, under, all_of_them = compare(mesh, attack)
        print(f"p99 {quiet * 1e3:.2f} ms by itself, {under * 1e3:.2f} ms under attack")
        if under <= 2 * max(quiet, FLOOR):
            return
        seen.append(all_of_them)
    raise AssertionError(f"an honest client's p99 is beyond twice its own: {seen}")
