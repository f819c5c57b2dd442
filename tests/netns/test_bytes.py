"""Bytes, ends and resets pass as if nothing lay between."""

import hashlib
import socket
import time

import pytest
import system
import traffic
from mesh import CLIENT, ECHO, SECOND, THIRD, WEB
from procs import eventually

GIB = 1 << 30
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])


def tunnelled(host):
    return host.metric_sum("istio_tcp_connections_opened_total", reporter="source",
                           connection_security_policy="mutual_tls")


@FAMILIES
def test_bulk_both_ways_at_once_over_four_connections_arrives_unharmed(mesh, family):
    each = system.scaled(2 * GIB) // 4
    address = mesh.b.address(family)
    before = tunnelled(mesh.a)

    def handler(sock):
        seed = int.from_bytes(traffic.read_exactly(sock, 8), "little")
        return seed, traffic.exchange(sock, seed + 100, each)

    def client(seed):
        with socket.socket(family) as sock:
            sock.connect((address, THIRD))
            sock.sendall(seed.to_bytes(8, "little"))
            return traffic.exchange(sock, seed, each)

    with mesh.b.serve(traffic.serve_each, THIRD, handler, uid=WEB) as server:
        clients = [mesh.a.spawn(client, seed, uid=CLIENT) for seed in range(4)]
        mine = [child.result(600) for child in clients]
        theirs = dict(server.event(60) for _ in range(4))
    for seed in range(4):
        assert theirs[seed]["received"] == (each, mine[seed]["sent"])
        assert mine[seed]["received"] == (each, theirs[seed]["sent"])
    assert tunnelled(mesh.a) - before == 4


@FAMILIES
def test_the_server_may_speak_first(mesh, family):
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        with mesh.a.dial(mesh.b.address(family), ECHO, uid=CLIENT) as sock:
            assert traffic.read_line(sock) == f"you are {mesh.a.address(family)}"
            assert traffic.ask(sock)


@FAMILIES
def test_a_client_that_sends_fin_still_receives(mesh, family):
    answer = b"late answer " * 100_000

    def handler(sock):
        got = traffic.read_to_end(sock)
        time.sleep(0.3)
        sock.sendall(answer)
        return len(got)

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB) as server:
        with mesh.a.dial(mesh.b.address(family), SECOND, uid=CLIENT) as sock:
            sock.sendall(b"q" * 100_000)
            sock.shutdown(socket.SHUT_WR)
            assert traffic.read_to_end(sock) == answer
        assert server.event() == 100_000


@FAMILIES
def test_a_server_that_sends_fin_still_receives(mesh, family):
    def handler(sock):
        sock.sendall(b"all I have to say")
        sock.shutdown(socket.SHUT_WR)
        return len(traffic.read_to_end(sock))

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB) as server:
        with mesh.a.dial(mesh.b.address(family), SECOND, uid=CLIENT) as sock:
            assert traffic.read_to_end(sock) == b"all I have to say"
            time.sleep(0.3)
            sock.sendall(b"r" * 1_000_000)
            sock.shutdown(socket.SHUT_WR)
            assert server.event() == 1_000_000


def test_a_clients_reset_arrives_as_reset(mesh):
    def handler(sock):
        sock.sendall(traffic.read_exactly(sock, 5))
        return traffic.outcome(sock)

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB) as server:
        sock = mesh.a.dial(mesh.b.v4, SECOND, uid=CLIENT)
        traffic.ask(sock)
        traffic.reset(sock)
        assert server.event() == "rst"
        with mesh.a.dial(mesh.b.v4, SECOND, uid=CLIENT) as sock:
            traffic.ask(sock)
        assert server.event() == "fin"


def test_a_servers_reset_arrives_as_reset(mesh):
    def handler(sock):
        how = traffic.read_exactly(sock, 5)
        sock.sendall(how)
        if how == b"later":
            time.sleep(0.2)
        if how != b"close":
            traffic.reset(sock)

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB):
        with mesh.a.dial(mesh.b.v4, SECOND, uid=CLIENT) as sock:
            traffic.ask(sock, b"later")
            assert traffic.outcome(sock) == "rst"
        for _ in range(20):  # right behind data, which it may overtake
            with mesh.a.dial(mesh.b.v4, SECOND, uid=CLIENT) as sock:
                sock.sendall(b"reset")
                first = traffic.outcome(sock)
                assert first == "rst" or (first, traffic.outcome(sock)) == (b"reset", "rst")
        with mesh.a.dial(mesh.b.v4, SECOND, uid=CLIENT) as sock:
            traffic.ask(sock, b"close")
            assert traffic.outcome(sock) == "fin"


def test_a_failed_connect_shows_as_a_reset(mesh):
    # A declared port on which nobody listens.
    assert traffic.first_answer(mesh.a, mesh.b.v4, SECOND, CLIENT) == "rst"


def push_until_stalled(address, most):
    """Sends until nothing moves for a second, then the rest: (stalled at, sent, digest)."""
    digest = hashlib.sha256()
    block = bytes(range(256)) * 256
    sent = 0
    with socket.create_connection((address, SECOND)) as sock:
        sock.settimeout(1)
        try:
            while sent < most:
                count = sock.send(block)
                digest.update(block[:count])
                sent += count
        except TimeoutError:
            pass
        stalled_at = sent
        sock.settimeout(60)
        sock.sendall(block)
        digest.update(block)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"", "the server's end says that it has read everything"
    return stalled_at, sent + len(block), digest.hexdigest()


def test_a_slow_receiver_holds_the_sender_back_and_memory_stays_bounded(mesh):
    connections, most = 8, 64 << 20

    def handler(sock):
        time.sleep(4)
        return traffic.receive_bulk(sock, 1 << 16)

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB) as server:
        before = {host.name: host.pss_kib() for host in (mesh.a, mesh.b)}
        clients = [mesh.a.spawn(push_until_stalled, mesh.b.v4, most, uid=CLIENT)
                   for _ in range(connections)]
        time.sleep(3)
        grown = {host.name: host.pss_kib() - before[host.name] for host in (mesh.a, mesh.b)}
        results = [child.result(120) for child in clients]
        received = [server.event(60) for _ in range(connections)]
    for stalled_at, _, _ in results:
        assert stalled_at < most, "nothing held the sender back"
    assert sorted(received) == sorted((sent, digest) for _, sent, digest in results)
    # A stream window of 4 MiB, 512 KiB a direction, and room for the allocator.
    for name, kib in grown.items():
        assert kib < connections * 6 * 1024, f"{name} grew by {kib} KiB for {connections} stalls"


def test_what_a_slow_reader_reads_is_what_was_sent(mesh):
    total = system.scaled(256 << 20, 8 << 20)

    def handler(sock):
        return traffic.receive_bulk(sock, 1 << 14, delay=0.0005)

    with mesh.b.serve(traffic.serve_each, SECOND, handler, uid=WEB) as server:
        with mesh.a.dial(mesh.b.v4, SECOND, uid=CLIENT, timeout=120) as sock:
            digest = traffic.send_bulk(sock, 7, total)
            assert server.event(120) == (total, digest)


@pytest.mark.full
def test_a_half_closed_and_silent_connection_is_reset_after_55_seconds(mesh):
    def silent(sock):
        traffic.read_to_end(sock)
        time.sleep(90)

    with mesh.b.serve(traffic.serve_each, SECOND, silent, uid=WEB):
        with mesh.a.dial(mesh.b.v4, SECOND, uid=CLIENT, timeout=80) as sock:
            sock.sendall(b"bye")
            sock.shutdown(socket.SHUT_WR)
            started = time.monotonic()
            assert traffic.outcome(sock) == "rst"
            assert 50 < time.monotonic() - started < 60


def test_many_small_writes_stay_in_order(mesh):
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        with mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) as sock:
            for number in range(2_000):
                assert traffic.ask(sock, b"%08d" % number)


def test_connections_are_counted_while_open_and_after(mesh):
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        eventually(lambda: mesh.a.status()["connections"]["active"] == 0, what="no connection")
        sockets = [mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) for _ in range(5)]
        for sock in sockets:
            traffic.ask(sock)
        for host in (mesh.a, mesh.b):
            eventually(lambda host=host: host.status()["connections"]["active"] == 5,
                       what="five open connections in status")
        assert mesh.a.status()["tunnels"]["outbound"] >= 1
        assert mesh.b.status()["tunnels"]["inbound"] >= 1
        for sock in sockets:
            sock.close()
        for host in (mesh.a, mesh.b):
            eventually(lambda host=host: host.status()["connections"]["active"] == 0,
                       what="no open connection in status")
