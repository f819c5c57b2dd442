"""Counts and memory."""

import os
import shutil
import socket
import time

import pytest
import system
import traffic
from mesh import CLIENT, ECHO, WEB, Mesh
from procs import eventually

KIB_PER_IDLE = 32
IDLE_AGENT_KIB = 12 * 1024
RUNS_APART_KIB = 1024
# Tunnels that wait for the next call, and the loops' buffers.
KEPT_KIB = 3 * 1024
# Seconds: the agent looks every two for what a burst has left free, and once more when it ebbs.
MEMORY_RETURNED_IN = 6


@pytest.fixture(scope="module")
def quiet():
    with Mesh() as made:
        yield made


def test_an_idle_agent_is_small():
    """With a binary of its own, so that it shares no page of it with other agents."""
    with Mesh(start=False) as mesh:
        mesh.a.binary = shutil.copy(system.BINARY, mesh.lab.directory)
        mesh.a.start_agent()
        time.sleep(2)
        assert len(mesh.a.pids()) == 2, "supervisor and one worker"
        assert mesh.a.pss_kib() <= IDLE_AGENT_KIB
        print(mesh.a.pss_kib(), "KiB")


def short_connections(address, count):
    """One after another; how many failed and why."""
    failures = []
    for number in range(count):
        try:
            with socket.create_connection((address, ECHO), timeout=10) as sock:
                traffic.ask(sock, b"%08d" % number)
        except (OSError, EOFError) as error:
            failures.append((number, repr(error)))
    return failures


def test_short_connections_one_after_another_are_all_served(quiet):
    count = system.scaled(10_000)
    with quiet.b.serve(traffic.echo_server, ECHO, uid=WEB):
        refused = quiet.a.status()["connections"]["refused"]
        used = []
        for _ in range(2):
            assert quiet.a.call(short_connections, quiet.b.v4, count, uid=CLIENT, timeout=300) == []
            used.append({host.name: host.pss_kib() for host in (quiet.a, quiet.b)})
        assert quiet.a.status()["connections"]["refused"] == refused
    print(f"KiB: {used[0]}, {used[1]} after a second identical run")
    for name, kib in used[0].items():
        assert used[1][name] - kib <= RUNS_APART_KIB, f"{name} grew from {kib} KiB to {used[1]}"


def hold_idle(channel, addresses, count):
    sockets = []
    for number in range(count):
        sock = socket.create_connection((addresses[number % len(addresses)], ECHO), timeout=20)
        sockets.append(sock)
        traffic.ask(sock)
    channel.ready()
    channel.receive()
    for sock in sockets:
        traffic.ask(sock)
    channel.event("all alive")
    channel.receive()


def idle_run(mesh, count):
    """Opens `count` connections, holds them; KiB an idle connection for each agent."""
    before = {host.name: host.pss_kib() for host in (mesh.a, mesh.b)}
    with mesh.a.serve(hold_idle, [mesh.b.v4], count, uid=CLIENT) as client:
        time.sleep(1)
        for host in (mesh.a, mesh.b):
            assert host.status()["connections"]["active"] >= count
        each = {host.name: (host.pss_kib() - before[host.name]) / count
                for host in (mesh.a, mesh.b)}
        client.send("ask all")
        assert client.event(60) == "all alive"
    for host in (mesh.a, mesh.b):
        eventually(lambda host=host: host.status()["connections"]["active"] == 0, 15,
                   what="end of all connections")
    return each


def test_idle_connections_are_cheap_and_leave_nothing_behind(quiet):
    count = system.scaled(2_000, 300)
    with quiet.b.serve(traffic.echo_server, ECHO, uid=WEB):
        assert quiet.a.call(short_connections, quiet.b.v4, 100, uid=CLIENT) == []
        before = {host.name: host.pss_kib() for host in (quiet.a, quiet.b)}
        first = idle_run(quiet, count)
        time.sleep(MEMORY_RETURNED_IN)
        middle = {host.name: host.pss_kib() for host in (quiet.a, quiet.b)}
        idle_run(quiet, count)
        time.sleep(MEMORY_RETURNED_IN)
        after = {host.name: host.pss_kib() for host in (quiet.a, quiet.b)}
    print(f"KiB: {before} before, {first} a connection, {middle} and {after} after a run")
    for name, kib in first.items():
        assert kib <= KIB_PER_IDLE, f"{name}: {kib:.1f} KiB an idle connection"
    for name, kib in middle.items():
        assert kib - before[name] <= KEPT_KIB, f"{name} kept {kib - before[name]} KiB"
        grown = after[name] - kib
        assert grown <= RUNS_APART_KIB, f"{name}: a second identical run added {grown} KiB"


def test_many_clients_at_once_are_all_served(quiet):
    clients, each = 8, system.scaled(2_000, 60)
    with quiet.b.serve(traffic.echo_server, ECHO, uid=WEB):
        running = [quiet.a.spawn(short_connections, address, each, uid=CLIENT)
                   for address in (quiet.b.v4, quiet.b.v6) * (clients // 2)]
        for child in running:
            assert child.result(300) == []


def descriptors(host):
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in host.pids())


def test_no_descriptor_is_lost(quiet):
    with quiet.b.serve(traffic.echo_server, ECHO, uid=WEB):
        quiet.a.call(short_connections, quiet.b.v4, 20, uid=CLIENT)
        eventually(lambda: quiet.b.status()["connections"]["active"] == 0)
        before = {host.name: descriptors(host) for host in (quiet.a, quiet.b)}
        quiet.a.call(short_connections, quiet.b.v4, 200, uid=CLIENT)
        for host in (quiet.a, quiet.b):
            eventually(lambda host=host: descriptors(host) <= before[host.name] + 4, 10,
                       what=f"as few descriptors in {host.name} as before")
