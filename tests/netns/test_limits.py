"""Limits and timers as a host has them: configured ones act after a reload, overload is shed, told
and recovered from."""

import os
import re
import resource
import signal
import socket
import ssl
import struct
import time

import peers
import pki
import pytest
import traffic
from mesh import CLIENT, CLOSED, ECHO, PEER, SECOND, WEB, Mesh, documents, node
from procs import eventually


@pytest.fixture(scope="module")
def timed():
    """A mesh of this module's own: its Node documents change."""
    with Mesh() as made:
        yield made


def configure(host, **proxy):
    """A reload of the host's Node document; returns once it is in force."""
    def revision():
        return host.metric_sum("meshnode_snapshot_revision")

    before = revision()
    fields = ", ".join(f"{key}: {value}" for key, value in proxy.items())
    host.write("node.yaml", node(host, proxy=f"{{{fields}}}"))
    eventually(lambda: revision() > before, 10, what="the new configuration")


def hits(host, limit):
    return host.metric_sum("meshnode_limit_hits_total", limit=limit)


def is_counted(host, limit, count):
    """The loop that hits a limit counts it after the peer hears of it."""
    eventually(lambda: hits(host, limit) == count, 5, what=f"{limit} counted {count} times")


def silent(sock):
    """Reads to the end and says nothing more."""
    try:
        while sock.recv(1 << 16):
            pass
        time.sleep(60)
    except OSError:
        pass


def reset_after(sock, patience=20):
    """Seconds until the connection is reset."""
    started = time.monotonic()
    sock.settimeout(patience)
    with pytest.raises(ConnectionError):
        assert sock.recv(1) != b"", "an orderly end"
    return time.monotonic() - started


def test_a_reload_changes_timers_for_what_begins_from_then_on(timed):
    with timed.b.serve(traffic.serve_each, ECHO, silent, uid=WEB):
        old = timed.a.dial(timed.b.v4, ECHO, uid=CLIENT)
        old.shutdown(socket.SHUT_WR)
        worker = timed.a.worker()
        configure(timed.a, halfClosedTimeout="1500ms")
        before = hits(timed.a, "half-closed")
        new = timed.a.dial(timed.b.v4, ECHO, uid=CLIENT)
        new.shutdown(socket.SHUT_WR)
        assert 1.4 <= reset_after(new) < 8
        is_counted(timed.a, "half-closed", before + 1)
        old.settimeout(0.2)
        with pytest.raises(TimeoutError):
            old.recv(1)
        assert timed.a.worker() == worker, "a reload is no restart"
        for sock in (old, new):
            sock.close()


def test_a_program_that_does_not_answer_is_given_up_after_the_configured_time(timed):
    configure(timed.b, connectTimeout="1s")
    timed.b.run(["iptables", "-A", "INPUT", "-i", "lo", "-p", "tcp", "--dport", str(CLOSED),
                 "-j", "DROP"])
    before = hits(timed.b, "connect-timeout")
    with timed.a.dial(timed.b.v4, CLOSED, uid=CLIENT) as sock:
        assert 0.9 <= reset_after(sock) < 8
    is_counted(timed.b, "connect-timeout", before + 1)
    assert timed.b.metric_sum("istio_tcp_connections_failed_total", response_flags="CONNECT",
                              reporter="destination") >= 1


def test_sigterm_waits_as_long_as_configured(timed):
    with timed.b.serve(traffic.serve_each, ECHO, silent, uid=WEB):
        with timed.a.dial(timed.b.v4, ECHO, uid=CLIENT) as sock:
            assert timed.a.status()["connections"]["active"] >= 1
            configure(timed.a, drainTimeout="1500ms")
            started = time.monotonic()
            assert timed.a.stop_agent() == 0
            assert 1.4 <= time.monotonic() - started < 6
            assert reset_after(sock) < 5
    timed.a.start_agent()


def tunnel_to(host, mesh, **kwargs):
    """A tunnel from c to `host`, as the client's."""
    pair = mesh.authority.workload("shop", "client")
    context = peers.client_context(mesh.authority.certificate_path, pair)
    return peers.open_tunnel(mesh.c, host.v4, context, pki.server_name("shop", "web"), **kwargs)


def goaway_code(mesh):
    """What the agent on b says to a new tunnel before it ends it."""
    pair = mesh.authority.workload("shop", "client")
    context = peers.client_context(mesh.authority.certificate_path, pair)
    heard = bytearray()
    with context.wrap_socket(mesh.c.dial(mesh.b.v4, peers.HBONE_PORT),
                             server_hostname=pki.server_name("shop", "web")) as tls:
        try:
            while piece := tls.recv(1 << 16):
                heard += piece
        except ConnectionError:
            pass
    codes = [heard[at + 13:at + 17] for at in range(len(heard)) if heard[at + 3:at + 9] ==
             b"\x07\0\0\0\0\0"]
    return int.from_bytes(codes[0], "big")


def limit_problems(host, thing):
    return [p for p in host.problems("limit-reached") if p["object"] == thing]


def overloads(host, reporter="destination"):
    return host.metric_sum("istio_tcp_connections_failed_total", response_flags="OVERLOAD",
                           reporter=reporter)


class Overloads:
    """Each refusal for want of something is a line in the access log, with the cause, a count of
    OVERLOAD and one of the limit."""

    def __init__(self, host, limit, cause):
        self.host, self.limit, self.cause = host, limit, cause
        self.log, self.before = len(host.log()), overloads(host)
        self.refused = self.counted()

    def counted(self):
        return self.host.metric_sum("meshnode_peer_refused_total", reason="limit")

    def check(self):
        def same():
            seen = [line for line in self.host.log()[self.log:].splitlines()
                    if "connection failed" in line and re.search(self.cause, line)]
            return len(seen) == overloads(self.host) - self.before >= 1

        eventually(same, 5, what=f"a line in the access log for each: {self.cause}")
        assert self.counted() > self.refused and hits(self.host, self.limit) >= 1


def is_refused(host, address):
    return isinstance(traffic.try_ask(host, address, ECHO, CLIENT), (ConnectionError, EOFError))


def test_a_peers_tunnels_are_bounded(timed):
    configure(timed.b, maxTunnelsPerPeer=2)
    before = hits(timed.b, "tunnels-per-peer")
    with timed.b.serve(traffic.echo_server, ECHO, uid=WEB):
        with tunnel_to(timed.b, timed) as first, tunnel_to(timed.b, timed) as second:
            for tunnel in (first, second):
                assert tunnel.connect(f"{timed.b.v4}:{ECHO}")[1].status == 200
            assert goaway_code(timed) == peers.Errors.ENHANCE_YOUR_CALM
            is_counted(timed.b, "tunnels-per-peer", before + 1)
            assert limit_problems(timed.b, timed.c.v4)
            assert timed.b.status()["health"] == "ok", "a peer's doing is nothing of ours"
            assert traffic.try_ask(timed.a, timed.b.v4, ECHO, CLIENT) is True
        eventually(lambda: timed.b.status()["tunnels"]["inbound"] <= 2, 5, what="their end")
        with tunnel_to(timed.b, timed) as again:
            assert again.connect(f"{timed.b.v4}:{ECHO}")[1].status == 200


def test_problems_beyond_those_that_are_listed_are_counted(timed):
    mistake = ("apiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: wrong}\n"
               "spec: {mistake: 1}\n")
    names = [f"mistakes-{number}.yaml" for number in range(11)]
    before = hits(timed.a, "problems")
    for name in names:
        timed.a.write(name, documents(*[mistake] * 95))
    eventually(lambda: hits(timed.a, "problems") > before, 10, what="the limit")
    assert len(timed.a.problems()) == 1_000 and timed.a.status()["health"] == "degraded"
    for name in names:
        timed.a.write(name, "")
    eventually(lambda: timed.a.status()["health"] == "ok", 10, what="recovery")


def agent_without_streams(channel, pair, root):
    """Says that it takes no streams, and refuses the one that was on its way."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(root)
    context.load_cert_chain(pair.certificate_path, pair.key_path)
    context.set_alpn_protocols(["h2"])

    def one(sock):
        tls = context.wrap_socket(sock, server_side=True)
        tls.sendall(b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0\0")
        heard = bytearray()
        while piece := tls.recv(1 << 16):
            heard += piece
            del heard[:24 if heard.startswith(b"PRI") else 0]
            while len(heard) >= 9 + int.from_bytes(heard[:3], "big"):
                if heard[3] == 1:
                    tls.sendall(b"\0\0\4\3\0" + heard[5:9] + struct.pack(">I", 7))
                del heard[:9 + int.from_bytes(heard[:3], "big")]

    traffic.serve_each(channel, peers.HBONE_PORT, one)


def test_a_far_agent_that_takes_no_streams_is_asked_once(timed):
    pair = timed.authority.workload("shop", "peer")
    with timed.d.serve(agent_without_streams, pair, timed.authority.certificate_path):
        before = timed.a.metric_sum("meshnode_tunnels_opened_total", direction="outbound")
        with timed.a.dial(timed.d.v4, PEER, uid=CLIENT) as sock:
            sock.settimeout(1)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            after = timed.a.metric_sum("meshnode_tunnels_opened_total", direction="outbound")
            assert after == before + 1


def test_connections_beyond_the_descriptors_wait_and_are_served(own_mesh):
    a, b, c = own_mesh.a, own_mesh.b, own_mesh.c
    resource.prlimit(b.supervisor, resource.RLIMIT_NOFILE, (300, 300))
    old = b.worker()
    os.kill(old, signal.SIGKILL)
    eventually(lambda: b.workers() not in ([], [old]) and b.ready(), 10, what="a new worker")
    worker = b.worker()
    with b.serve(traffic.echo_server, ECHO, uid=WEB):
        assert traffic.try_ask(a, b.v4, ECHO, CLIENT) is True  # its tunnel stays
        # 80 % of 300, less what is kept free: 236 sockets, two a connection.
        plain = [c.dial(b.v4, ECHO) for _ in range(200)]
        traffic.ask(plain[0])
        eventually(lambda: hits(b, "descriptors") > 0, 5, what="the limit")
        told = Overloads(b, "descriptors", "no descriptor is left for this connection")
        late = plain[-1]
        late.sendall(b"hello")
        late.settimeout(0.5)
        with pytest.raises(TimeoutError):
            late.recv(5)
        assert is_refused(a, b.v4)
        told.check()
        assert b.status()["health"] == "degraded" and limit_problems(b, "descriptors")
        for sock in plain[:150]:
            sock.close()
        late.settimeout(10)
        assert late.recv(5) == b"hello"
        assert traffic.try_ask(a, b.v4, ECHO, CLIENT) is True
        assert b.worker() == worker
        for sock in plain:
            sock.close()


def fill_tunnel(tunnel, numbers):
    """The streams' whole windows, until the far end objects."""
    data = b"d" * 16_384

    def frame(stream):
        return len(data).to_bytes(3, "big") + bytes(2) + struct.pack(">I", stream) + data

    round_of_all = b"".join(frame(number) for number in numbers)
    try:
        for _ in range((4 << 20) // len(data)):
            tunnel.tls.sendall(round_of_all)
    except OSError:
        pass


def deaf(_):
    time.sleep(60)


def test_memory_that_is_used_up_sheds_new_work_and_then_the_greediest(timed):
    """Peers fill 14 tunnels for a program that does not read: 224 MiB, of 128 allowed."""
    b = timed.b
    worker, authority = b.worker(), f"{b.v4}:{SECOND}"
    with b.serve(traffic.echo_server, ECHO, uid=WEB), \
            b.serve(traffic.serve_each, SECOND, deaf, uid=WEB):
        configure(b, maxMemory="128Mi")
        assert traffic.try_ask(timed.a, b.v4, ECHO, CLIENT) is True
        before = hits(b, "memory")
        told = Overloads(b, "memory", "memory is nearly used up; see proxy.maxMemory")
        tunnels = [tunnel_to(b, timed) for _ in range(14)]
        streams = [[tunnel.connect(authority)[0] for _ in range(4)] for tunnel in tunnels]
        for tunnel, numbers in zip(tunnels, streams):
            fill_tunnel(tunnel, numbers)
        eventually(lambda: limit_problems(b, "memory"), 5, what="the problem")
        assert b.status()["health"] == "degraded"
        assert is_refused(timed.a, b.v4)
        told.check()
        with open(f"/proc/{worker}/status") as status:
            most = int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1))
        print(f"at most {most} KiB, {hits(b, 'memory') - before} refused or cut")
        assert most < 192 * 1024
        for tunnel in tunnels:
            tunnel.tls.close()
        eventually(lambda: b.status()["health"] == "ok", 10, what="recovery")
        assert traffic.try_ask(timed.a, b.v4, ECHO, CLIENT) is True
        assert b.worker() == worker, "the worker died"


def fill_connection_table(address, share):
    """One-way datagrams, each an entry of its own, until `share` of the table is used."""
    def number(name):
        with open(f"/proc/sys/net/netfilter/nf_conntrack_{name}") as file:
            return int(file.read())

    most = number("max")
    senders = []
    while number("count") < share * most:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        senders.append(sender)
        assert len(senders) < 100, "the table does not fill"
        for port in range(1, 65_536):
            sender.sendto(b"", (address, port))
            if port % 512 == 0 and number("count") >= share * most:
                break
    return number("count"), most


def empty_connection_table():
    """What `conntrack -F` does: IPCTNL_MSG_CT_DELETE without attributes."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.send(struct.pack("=IHHIIBBH", 20, 0x102, 5, 1, 0, 0, 0, 0))
        return struct.unpack_from("=i", netlink.recv(4096), 16)[0]


def test_a_nearly_full_connection_table_sheds_and_recovers(own_mesh):
    """The real table: it counts by network namespace, and its limit is the machine's."""
    a, b = own_mesh.a, own_mesh.b
    nobody = "10.77.0.99"
    b.run(["ip", "neigh", "add", nobody, "lladdr", "02:00:00:00:00:99", "dev", "eth0"])
    worker = b.worker()
    told = Overloads(b, "conntrack", "connection table is nearly full; see .*nf_conntrack_max")
    with b.serve(traffic.echo_server, ECHO, uid=WEB):
        with a.dial(b.v4, ECHO, uid=CLIENT) as old:
            traffic.ask(old)
            used, most = b.call(fill_connection_table, nobody, 0.96, timeout=120)
            print(f"{used} of {most} entries")
            eventually(lambda: limit_problems(b, "conntrack"), 5, what="the problem")
            assert b.status()["health"] == "degraded"
            # Told from 90 % on, refused from 95 %.
            eventually(lambda: is_refused(a, b.v4), 5, what="refusal")
            told.check()
            traffic.ask(old)
            assert b.call(empty_connection_table) == 0
            eventually(lambda: b.status()["health"] == "ok", 5, what="recovery")
            assert traffic.try_ask(a, b.v4, ECHO, CLIENT) is True
        assert b.worker() == worker
