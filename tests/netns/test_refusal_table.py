"""The contract's table of refusals, row by row and from both ends: one line in the access log, one
count in each metric, that of the limit included, and in status, where the table says so, a problem
that names the likely cause. Policies and STRICT are not there yet, so their rows are not either."""

import contextlib
import os
import re
import ssl

import certificates
import frames
import peers
import pki
import pytest
import traffic
from frames import (CONTINUATION, DATA, END_HEADERS, HEADERS, PING, RST, SETTINGS, WINDOW, frame,
                    literal)
from mesh import CLIENT, CLOSED, ECHO, PEER, WEB, by_user, node, workload
from peers import ServerOptions
from procs import eventually

WEB_NAME = pki.server_name("shop", "web")
FAILED = "istio_tcp_connections_failed_total"
UNOPENED = "it ended before its way was open"


class Seen:
    """What log, metrics and status of an agent gain while something is refused."""

    def __init__(self, host, reporter, flag, reason=None, limit=None):
        self.host = host
        self.failed = {"reporter": reporter, "response_flags": flag}
        self.reason = reason
        self.limit = limit
        self.log = len(host.log())
        self.before = self.counts()
        self.told = self.problems()

    def counts(self):
        refused = 0 if self.reason is None else self.host.metric_sum(
            "meshnode_peer_refused_total", reason=self.reason)
        hits = 0 if self.limit is None else self.host.metric_sum(
            "meshnode_limit_hits_total", limit=self.limit)
        return self.host.metric_sum(FAILED, **self.failed), refused, hits

    def problems(self):
        return sum(problem["count"] for problem in self.host.problems()
                   if problem["code"] in ("peer-refused", "limit-reached", "tunnel-failed"))

    def failed_for(self, address, cause):
        return [line for line in self.host.log()[self.log:].splitlines()
                if "connection failed" in line and address in line
                and re.search(cause, line, re.I)]

    def lines(self, address, cause):
        return [line for line in self.failed_for(address, cause) if UNOPENED not in line]

    def gained(self, address, cause):
        """Without the connections of a tunnel that were not open when it ended: they have lines of
        their own."""
        unopened = len(self.failed_for(address, f"{UNOPENED}: .*(?:{cause})"))
        gained = [now - before for now, before in zip(self.counts(), self.before)]
        return gained[0] - unopened, *gained[1:]

    def check(self, address, cause, code, who):
        more = (1, self.reason is not None, self.limit is not None)
        eventually(lambda: self.gained(address, cause) == more, 5,
                   what=f"one more {self.failed}, {self.reason}, {self.limit}: {self.before}")
        lines = eventually(lambda: self.lines(address, cause), 5,
                           what=f"a line in the access log that says {cause}")
        assert len(lines) == 1, lines
        if code is None:
            assert self.problems() == self.told, self.host.problems()
            return
        problem = eventually(lambda: [p for p in self.host.problems(code)
                                      if re.search(cause, p["message"], re.I)], 5,
                             what=f"a {code} that says {cause}; {self.host.problems(code)}")[0]
        assert who in problem["object"] + problem["message"] and problem["hint"], problem
        assert self.host.status()["health"] == "ok", "what a stranger does is no fault of ours"


# -- the end that refuses ----------------------------------------------------------------------

def handshake(pair=certificates.good, version=ssl.TLSVersion.TLSv1_3, alpn=("h2",), name=WEB_NAME):
    def act(mesh):
        context = peers.client_context(mesh.authority.certificate_path,
                                       pair(mesh) if pair else None, version, alpn)
        with pytest.raises((OSError, peers.TunnelLost, peers.h2.exceptions.ProtocolError)) as got:
            with peers.open_tunnel(mesh.c, mesh.b.v4, context, name) as tunnel:
                tunnel.connect(f"{mesh.b.v4}:{ECHO}")
        assert not isinstance(got.value, TimeoutError), got.value
    return act


def plaintext(mesh):
    with mesh.c.dial(mesh.b.v4, 15008) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            traffic.read_to_end(sock)


def sending(*octets, first=None, code=None, within=5):
    """A session that is ended for what it sends, with GOAWAY(code)."""
    def act(mesh):
        heard = bytearray()
        data = b"".join(piece(mesh) if callable(piece) else piece for piece in octets)
        with frames.greet(mesh, frames.PREFACE + frame(SETTINGS) if first is None
                          else first) as tls:
            frames.push(tls, data, 5, heard=heard)
            assert frames.linger(tls, within, heard), "the session is still open"
        if code is not None:
            assert frames.goaway(heard) in (code, None), frames.split(heard)
    return act


def asking(status, *headers):
    """A request that is answered, its tunnel left alone."""
    def act(mesh):
        context = peers.client_context(mesh.authority.certificate_path, certificates.good(mesh))
        with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
            number = tunnel.request([(k, v.format(b=mesh.b.v4)) for k, v in headers])
            stream = tunnel.streams[number]
            tunnel.wait(lambda: stream.headers is not None or stream.reset is not None, 15)
            assert status == (stream.status if stream.reset is None else "reset"), vars(stream)
            tunnel.h2.ping(b"still up")
            tunnel.flush()
            tunnel.wait(lambda: tunnel.pongs == 1)
    return act


ACK = 1
def unreachable(mesh):
    """A host that lets nobody at a port of its own, and a second's patience with it."""
    rule = ["INPUT", "-i", "lo", "-p", "tcp", "--dport", str(CLOSED), "-j", "DROP"]
    mesh.b.run(["iptables", "-A", *rule])
    try:
        with in_force(mesh.b, "node.yaml", node(mesh.b, proxy="{connectTimeout: 1s}")):
            asking(503, CONNECT, (":authority", f"{{b}}:{CLOSED}"))(mesh)
    finally:
        mesh.b.run(["iptables", "-D", *rule])


def removed(mesh):
    """A CONNECT in a tunnel to a workload that has been removed since."""
    context = peers.client_context(mesh.authority.certificate_path, certificates.good(mesh))
    with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
        assert tunnel.connect(f"{mesh.b.v4}:{ECHO}")[1].status == 200
        with in_force(mesh.b, "workloads.yaml", workload("client", by_user(CLIENT))):
            assert tunnel.connect(f"{mesh.b.v4}:{ECHO}")[1].status == 503


@contextlib.contextmanager
def in_force(host, name, text):
    """Another document for a while."""
    def put(new):
        known = host.metric_sum("meshnode_snapshot_revision")
        host.write(name, new)
        eventually(lambda: host.metric_sum("meshnode_snapshot_revision") > known, 10,
                   what="the new configuration")

    with open(os.path.join(host.config, name)) as file:
        before = file.read()
    put(text)
    try:
        yield
    finally:
        put(before)


CONNECT = (":method", "CONNECT")
AUTHORITY = (":authority", f"{{b}}:{ECHO}")
LONG = [(f"x-{n}", "z" * 1000) for n in range(17)]
RESETS = b"".join(frame(HEADERS, END_HEADERS, 2 * n + 1, literal(b":method", b"CONNECT") +
                        literal(b":authority", b"10.77.0.2:1")) +
                  frame(RST, 0, 2 * n + 1, bytes(4)) for n in range(1_200))
STREAMS = [frame(HEADERS, END_HEADERS, 2 * n + 1, frames.connect_block(f"10.77.0.2:{ECHO}"))
           for n in range(201)]
SLOW = "slow header fields"
BAD, MUCH = "peer-refused", "limit-reached"

# name: (what happens, response_flags, reason of meshnode_peer_refused_total, problem, cause, and of
# a limit its name in meshnode_limit_hits_total)
REFUSING = {
    "no certificate": (handshake(None), "TLS_FAILURE", "tls", BAD,
                       "no certificate; is it an agent of this mesh"),
    "another root": (handshake(certificates.wrong_ca), "TLS_FAILURE", "tls", BAD,
                     "unknown issuer.*(another mesh|new root)"),
    "expired": (handshake(certificates.expired), "TLS_FAILURE", "tls", BAD,
                "expired at .* renew it, or a clock is off"),
    "not yet valid": (handshake(certificates.not_yet_valid), "TLS_FAILURE", "tls", BAD,
                      "not yet valid.* a clock is off"),
    "a surplus SAN": (handshake(certificates.two_uris), "TLS_FAILURE", "tls", BAD,
                      "2 URI SANs; it needs exactly one"),
    "no SAN": (handshake(certificates.no_uri), "TLS_FAILURE", "tls", BAD,
               "no URI SAN; it needs exactly one"),
    "another trust domain": (handshake(certificates.other_domain), "TLS_FAILURE", "tls", BAD,
                             r"another trust domain.*compare spec\.trustDomain"),
    "trust domain in other case": (handshake(certificates.odd_case), "TLS_FAILURE", "tls", BAD,
                                   "trust domain|lower"),
    "no SPIFFE id": (handshake(certificates.not_spiffe), "TLS_FAILURE", "tls", BAD, "spiffe"),
    "a CA as leaf": (handshake(certificates.a_ca_as_leaf), "TLS_FAILURE", "tls", BAD,
                     "certificate authority's, not a workload's"),
    "wrong key usage": (handshake(certificates.server_only), "TLS_FAILURE", "tls", BAD,
                        "extended key usage lacks clientAuth"),
    "TLS 1.2": (handshake(version=ssl.TLSVersion.TLSv1_2), "TLS_FAILURE", "tls", BAD,
                "does not offer TLS 1.3; is it"),
    "no ALPN": (handshake(alpn=()), "TLS_FAILURE", "tls", BAD, "ALPN h2; a port scan or"),
    "other ALPN": (handshake(alpn=("http/1.1",)), "TLS_FAILURE", "tls", BAD, "ALPN h2; a port"),
    "unknown server name": (handshake(name="nobody.shop.sa.lab.example"), "TLS_FAILURE", "tls",
                            BAD, "nobody"),
    "no TLS": (plaintext, "TLS_FAILURE", "tls", BAD, "plain HTTP, not TLS"),
    "no preface": (sending(first=b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
                   "H2_HANDSHAKE_FAILURE", "protocol", BAD, "HTTP/2 preface"),
    "an oversized frame": (sending(frame(DATA, 0, 1, b"", length=(1 << 20) + 1), code=6),
                           "H2_HANDSHAKE_FAILURE", "protocol", BAD, "FRAME_SIZE_ERROR", "frame"),
    "broken HPACK": (sending(frame(HEADERS, 5, 1, b"\xff" * 6), code=9), "H2_HANDSHAKE_FAILURE",
                     "protocol", BAD, "COMPRESSION_ERROR"),
    "a window too large": (sending(frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), code=3),
                           "H2_HANDSHAKE_FAILURE", "protocol", BAD, "FLOW_CONTROL_ERROR",
                           "window"),
    "data without a stream": (sending(frame(DATA, 0, 5, b"x"), code=1), "H2_HANDSHAKE_FAILURE",
                              "protocol", BAD, "PROTOCOL_ERROR: DATA: stream in idle"),
    "a path": (asking("reset", CONNECT, AUTHORITY, (":path", "/")), "H2_HANDSHAKE_FAILURE",
               "protocol", BAD, "malformed request"),
    "no authority": (asking("reset", CONNECT), "H2_HANDSHAKE_FAILURE", "protocol", BAD,
                     "malformed request"),
    "no CONNECT": (asking(400, (":method", "GET"), (":scheme", "https"), AUTHORITY,
                          (":path", "/")), "H2_HANDSHAKE_FAILURE", "protocol", BAD,
                   "the method is not CONNECT"),
    "no endpoint": (asking(400, CONNECT, (":authority", "{b}:22")), "CONNECT", "authority", None,
                    "no declared endpoint"),
    "a closed port": (asking(503, CONNECT, (":authority", f"{{b}}:{CLOSED}")), "CONNECT",
                      "unavailable", None, "refused"),
    "an unreachable port": (unreachable, "CONNECT", "unavailable", None, "timed out|no answer",
                            "connect-timeout"),
    "a workload that has gone": (removed, "CONNECT", "unavailable", None,
                                 "no workload of this host any more"),
    "a long header list": (asking(503, CONNECT, AUTHORITY, *LONG), "OVERLOAD", "limit", MUCH,
                           "header list of more than 16 KiB", "header-list"),
    "a hopeless header list": (
        sending(frame(HEADERS, 0, 1, literal(b":method", b"CONNECT")) + frame(
            CONTINUATION, 0, 1, b"\x40\x06cookie\x7f\x81\x18" + b"c" * 3_200 + b"\xbe" * 30),
                code=11), "OVERLOAD", "limit", MUCH, "header list of more than 16 KiB",
        "header-list"),
    "endless CONTINUATION": (sending(frame(HEADERS, 0, 1, b""),
                                     frame(CONTINUATION, 0, 1) * 100, code=11), "OVERLOAD",
                             "limit", MUCH, "CONTINUATION", "flood"),
    "too many streams": (sending(frame(SETTINGS, ACK), *STREAMS, code=11), "OVERLOAD", "limit",
                         MUCH, "more than 200 streams at once", "streams"),
    SLOW: (sending(frame(HEADERS, 0, 1, b""), code=11, within=14), "OVERLOAD", "limit", MUCH,
           "header fields took longer than 10 s", "slow-headers"),
    "too many resets": (sending(RESETS, code=11), "OVERLOAD", "limit", MUCH, "streams reset",
                        "resets"),
    "a flood of pings": (sending(frame(PING, payload=bytes(8)) * 2_000, code=11), "OVERLOAD",
                         "limit", MUCH, "frames without content", "flood"),
}


@pytest.fixture
def served(mesh):
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        yield


@pytest.mark.parametrize("row", [pytest.param(row, marks=pytest.mark.full) if row == SLOW else row
                                 for row in REFUSING])
def test_what_this_host_refuses_shows_in_log_metrics_and_status(mesh, served, row):
    act, flag, reason, code, cause, *limit = REFUSING[row]
    worker = mesh.b.worker()
    seen = Seen(mesh.b, "destination", flag, reason, *limit)
    act(mesh)
    seen.check(mesh.c.v4, cause, code, mesh.c.v4)
    assert mesh.b.worker() == worker, "the worker died"


# -- the end that is refused -------------------------------------------------------------------

def far(pair=None, root=None, **options):
    """Host d's HBONE server, behaving badly."""
    @contextlib.contextmanager
    def start(mesh):
        shown = pair(mesh) if pair else mesh.authority.workload("shop", "peer")
        trusted = root(mesh) if root else mesh.authority.certificate_path
        with mesh.d.serve(peers.hbone_server, shown, trusted, ServerOptions(**options)):
            yield
    return start


@contextlib.contextmanager
def firewall(mesh):
    rule = ["INPUT", "-p", "tcp", "--dport", "15008", "-j", "REJECT", "--reject-with", "tcp-reset"]
    mesh.d.run(["iptables", "-A", *rule])
    with far()(mesh):
        try:
            yield
        finally:
            mesh.d.run(["iptables", "-D", *rule])


def peer(**dates):
    return lambda mesh: mesh.authority.leaf([pki.spiffe("shop", "peer")], **dates)


# name: (the far end, response_flags, reason, problem, cause)
REFUSED = {
    "a firewall": (firewall, "CONNECT", None, "tunnel-failed", "firewall block port 15008"),
    "TLS 1.2": (far(version=ssl.TLSVersion.TLSv1_2), "TLS_FAILURE", None, "tunnel-failed",
                r"TLS 1\.3; is it an HBONE agent"),
    "no ALPN": (far(alpn=()), "TLS_FAILURE", None, "tunnel-failed", "ALPN h2.*HBONE agent"),
    "another root there": (far(pair=certificates.wrong_ca), "TLS_FAILURE", None, "tunnel-failed",
                           "unknown issuer|is spiffe"),
    "another root trusted there": (far(root=certificates.other_root), "TLS_FAILURE", None,
                                   "tunnel-failed", "unknown_ca.*another mesh"),
    "expired there": (far(pair=peer(not_before=pki.now() - 2 * pki.HOUR,
                                    not_after=pki.now() - pki.HOUR)), "TLS_FAILURE", None,
                      "tunnel-failed", "expired at.* a clock is off"),
    "not yet valid there": (far(pair=peer(not_before=pki.now() + pki.HOUR,
                                          not_after=pki.now() + 2 * pki.HOUR)), "TLS_FAILURE",
                            None, "tunnel-failed", "not yet valid.* a clock is off"),
    "a surplus SAN there": (far(pair=lambda mesh: mesh.authority.leaf(
        [pki.spiffe("shop", "peer"), pki.spiffe("shop", "web")])), "TLS_FAILURE", None,
                            "tunnel-failed", "2 URI SANs"),
    "another trust domain there": (far(pair=certificates.other_domain), "TLS_FAILURE", None,
                                   "tunnel-failed", "another trust domain|is spiffe"),
    "another identity there": (far(pair=certificates.good), "TLS_FAILURE", None, "tunnel-failed",
                               "the peer is spiffe://.*, not spiffe://"),
    "noise instead of HTTP/2": (far(noise=b"SSH-2.0-OpenSSH_9.2\r\n" * 10),
                                "H2_HANDSHAKE_FAILURE", "protocol", "tunnel-failed",
                                "broke HTTP/2"),
    "400": (far(status=400), "CONNECT", None, None, "compare the Workload there"),
    "401": (far(status=401), "DENY", None, None, "a policy there denies it"),
    "503": (far(status=503), "CONNECT", None, None, "nothing listens at that port"),
    "no HBONE answer": (far(status=404), "CONNECT", None, None, "is it an HBONE agent"),
    "a malformed request, it says": (far(refuse_with=1), "H2_HANDSHAKE_FAILURE", None, None,
                                     "PROTOCOL_ERROR"),
    "a limit there": (far(complain=11), "OVERLOAD", None, "tunnel-failed",
                      "ENHANCE_YOUR_CALM.*a limit of its was exceeded"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_refused_caller_sees_why_in_log_metrics_and_status(mesh, row):
    start, flag, reason, code, cause = REFUSED[row]
    eventually(lambda: mesh.a.status()["tunnels"]["outbound"] == 0, what="loss of old tunnels")
    with start(mesh):
        seen = Seen(mesh.a, "source", flag, reason)
        assert traffic.first_answer(mesh.a, mesh.d.v4, PEER, CLIENT, b"x") == "rst"
        seen.check(mesh.d.v4, cause, code, mesh.d.v4)
