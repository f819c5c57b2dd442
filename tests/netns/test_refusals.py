"""Handshakes that port 15008 refuses, and how status and metrics show them."""

import os
import re
import ssl

import peers
import pki
import pytest
import system
import traffic
from mesh import CLIENT, ECHO, WEB
from procs import eventually

WEB_NAME = pki.server_name("shop", "web")
CLIENT_ID = pki.spiffe("shop", "client")


def good(mesh):
    return mesh.authority.workload("shop", "client")


def wrong_ca(mesh):
    directory = os.path.join(mesh.lab.directory, "wrong-ca")
    if not hasattr(mesh, "other_authority"):
        mesh.other_authority = pki.Authority(directory)
    return mesh.other_authority.workload("shop", "client")


def expired(mesh):
    return mesh.authority.leaf([CLIENT_ID], pki.now() - 2 * pki.HOUR, pki.now() - pki.HOUR)


def not_yet_valid(mesh):
    return mesh.authority.leaf([CLIENT_ID], pki.now() + pki.HOUR, pki.now() + 2 * pki.HOUR)


def two_uris(mesh):
    return mesh.authority.leaf([CLIENT_ID, pki.spiffe("shop", "web")])


def no_uri(mesh):
    return mesh.authority.leaf([])


def other_domain(mesh):
    return mesh.authority.leaf([pki.spiffe("shop", "client", "elsewhere.example")])


def a_ca_as_leaf(mesh):
    return mesh.authority.leaf([CLIENT_ID], authority=True)


def not_spiffe(mesh):
    return mesh.authority.leaf(["https://lab.example/ns/shop/sa/client"])


def odd_case(mesh):
    return mesh.authority.leaf(["spiffe://LAB.example/ns/shop/sa/client"])


# name: (certificate, TLS version, ALPN, what the reason must speak of)
CASES = {
    "wrong CA": (wrong_ca, None, ("h2",), r"verif|trust|issuer|unknown|root|sign|chain"),
    "expired": (expired, None, ("h2",), r"expired"),
    "not yet valid": (not_yet_valid, None, ("h2",), r"not yet|not valid before|future"),
    "two URI SANs": (two_uris, None, ("h2",), r"URI"),
    "no URI SAN": (no_uri, None, ("h2",), r"URI"),
    "other trust domain": (other_domain, None, ("h2",), r"trust domain"),
    "a CA as leaf": (a_ca_as_leaf, None, ("h2",), r"CA|authority"),
    "no SPIFFE id": (not_spiffe, None, ("h2",), r"spiffe|URI"),
    "trust domain in other case": (odd_case, None, ("h2",), r"spiffe|trust domain|URI|lower"),
    "no certificate": (None, None, ("h2",), r"certificate"),
    "TLS 1.2": (good, ssl.TLSVersion.TLSv1_2, ("h2",), r"version|protocol|TLS"),
    "no ALPN": (good, None, (), r"ALPN|h2|protocol"),
    "other ALPN": (good, None, ("http/1.1",), r"ALPN|h2|protocol"),
}


def refused_count(host):
    return host.metric_sum("istio_tcp_connections_failed_total", reporter="destination",
                           response_flags="TLS_FAILURE")


def refusals(host):
    return sum(problem["count"] for problem in host.problems("peer-refused"))


@pytest.mark.parametrize("name", CASES)
def test_a_bad_handshake_is_refused_and_its_reason_shown(mesh, name):
    make, version, alpn, reason = CASES[name]
    context = peers.client_context(mesh.authority.certificate_path,
                                   make(mesh) if make else None,
                                   version or ssl.TLSVersion.TLSv1_3, alpn)
    counted, problems = refused_count(mesh.b), refusals(mesh.b)
    ended = None
    try:
        with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
            tunnel.connect(f"{mesh.b.v4}:{ECHO}")
    except (OSError, peers.TunnelLost, peers.h2.exceptions.ProtocolError) as error:
        ended = error
    assert ended is not None, "the handshake was accepted"
    assert not isinstance(ended, TimeoutError), ended
    eventually(lambda: refusals(mesh.b) == problems + 1, 5, what="one more peer-refused")
    eventually(lambda: refused_count(mesh.b) == counted + 1, 5, what="one more TLS_FAILURE")
    status = mesh.b.status()
    newest = max((p for p in status["problems"] if p["code"] == "peer-refused"),
                 key=lambda p: (p["lastSeen"], bool(re.search(reason, p["message"], re.I))))
    assert re.search(reason, newest["message"], re.I), newest
    assert mesh.c.v4 in newest["object"] + newest["message"], newest
    assert newest["hint"], "the next step is missing"
    assert status["health"] == "ok", "a stranger's bad handshake is no fault of ours"


def test_a_connection_that_says_nothing_is_cut_after_five_seconds(mesh):
    with mesh.c.dial(mesh.b.v4, 15008, timeout=8) as sock:
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass


def test_garbage_is_refused(mesh):
    with mesh.c.dial(mesh.b.v4, 15008, timeout=8) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        try:
            while sock.recv(1 << 12):
                pass
        except ConnectionResetError:
            pass
    assert mesh.b.ready()


def test_after_all_refusals_the_right_certificate_still_works(mesh):
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        context = peers.client_context(mesh.authority.certificate_path, good(mesh))
        with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
            assert tunnel.connect(f"{mesh.b.v4}:{ECHO}")[1].status == 200
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True


def test_without_a_server_name_several_workloads_have_no_answer(mesh):
    context = peers.client_context(mesh.authority.certificate_path, good(mesh))
    with pytest.raises((OSError, peers.TunnelLost)):
        with peers.open_tunnel(mesh.c, mesh.b.v4, context) as tunnel:
            tunnel.connect(f"{mesh.b.v4}:{ECHO}")


@pytest.mark.full
def test_a_flood_of_bad_handshakes_leaves_the_good_ones_alone(mesh):
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        idle = [mesh.c.dial(mesh.b.v4, 15008) for _ in range(system.scaled(500))]
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
        for sock in idle:
            sock.close()
