"""Certificates that end, are renewed under load, and clocks that are set."""

import datetime
import glob
import os
import time

import peers
import pki
import pytest
import system
import traffic
from load import Load
from mesh import CLIENT, ECHO, NS, WEB, Mesh
from procs import eventually

DAY = 86_400
# The agent looks every two seconds; a tunnel's end takes one more.
NOTICED_WITHIN = 6


def renew(mesh, host, account, lifetime=None):
    """By `meshnode ca issue`, or for less than the minute it gives at the least."""
    if lifetime is None:
        mesh.authority.install(host.certs, NS, account)
        return
    pair = mesh.authority.leaf([pki.spiffe(NS, account)],
                               not_after=pki.now() + datetime.timedelta(seconds=lifetime))
    mesh.authority.install_pair(host.certs, NS, account, pair)


def tunnels(mesh):
    return mesh.a.status()["tunnels"]["outbound"] + mesh.b.status()["tunnels"]["inbound"]


def served(mesh):
    return traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT)


def is_refused(mesh):
    return isinstance(served(mesh), OSError)


def raw_tunnel(mesh, pair=None):
    """From c to the web workload of b, without streams."""
    context = peers.client_context(mesh.authority.certificate_path,
                                   pair or mesh.authority.workload(NS, "client"))
    return peers.open_tunnel(mesh.c, mesh.b.v4, context, pki.server_name(NS, "web"))


def new_tunnel_is_refused(mesh):
    try:
        with raw_tunnel(mesh):
            return False
    except OSError:
        return True


def serial_shown(mesh):
    """Of the certificate that b shows to a new tunnel."""
    with raw_tunnel(mesh) as tunnel:
        return tunnel.tls.getpeercert()["serialNumber"]


def opened(mesh):
    return mesh.a.metric_sum("meshnode_tunnels_opened_total", direction="outbound")


def ended_for_certificates(host):
    return host.metric_sum("meshnode_limit_hits_total", limit="certificate-end")


@pytest.mark.parametrize("account", ["client", "web"])
def test_a_tunnel_ends_with_its_certificate_and_its_streams_live_on(account):
    with Mesh(start=False) as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        host, peer = (mesh.a, mesh.b) if account == "client" else (mesh.b, mesh.a)
        peer.start_agent()
        renew(mesh, host, account, lifetime=6)
        ends = time.time() + 6
        host.start_agent()
        held = [mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) for _ in range(4)]
        for sock in held:
            traffic.ask(sock)
        assert served(mesh) is True and tunnels(mesh) > 0
        time.sleep(max(0, ends - time.time()))
        eventually(lambda: is_refused(mesh), NOTICED_WITHIN, what="refusal")
        for sock in held:
            traffic.ask(sock)
        problem = eventually(lambda: host.problems("certificate-rejected"), NOTICED_WITHIN,
                             what="the reason in status")[0]
        assert account in problem["object"] and "not now" in problem["message"], problem
        assert problem["hint"] and host.status()["health"] == "degraded"
        # A live stream keeps its tunnel; without one it is gone soon.
        assert tunnels(mesh) > 0
        for sock in held:
            sock.close()
        eventually(lambda: tunnels(mesh) == 0, NOTICED_WITHIN, what="end of all tunnels")
        renew(mesh, host, account)
        eventually(lambda: served(mesh) is True, NOTICED_WITHIN, what="service by itself")
        eventually(lambda: host.status()["health"] == "ok", NOTICED_WITHIN, what="health")


def test_a_renewed_certificate_of_the_caller_is_used_by_the_next_connection():
    with Mesh() as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        with mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) as old:
            traffic.ask(old)
            before = mesh.a.metric_sum("meshnode_tunnels_opened_total", direction="outbound")
            renew(mesh, mesh.a, "client")
            time.sleep(0.5)
            assert served(mesh) is True
            after = mesh.a.metric_sum("meshnode_tunnels_opened_total", direction="outbound")
            assert after == before + 1, "the pooled tunnel was used on"
            traffic.ask(old)


def test_a_renewed_certificate_is_shown_at_once_and_old_tunnels_end_at_their_expiry():
    lifetime = 6
    with Mesh(start=False) as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        ends = int(time.time()) + lifetime
        brief = mesh.authority.leaf([pki.spiffe(NS, "client")], not_after=pki.now() +
                                    datetime.timedelta(seconds=lifetime))
        for host, account in ((mesh.a, "client"), (mesh.b, "web")):
            renew(mesh, host, account, lifetime)
            host.start_agent()
        with Load(mesh, held=4, stranger=False) as load, raw_tunnel(mesh, brief) as idle:
            time.sleep(max(0, ends - lifetime + 2 - time.time()))
            old, before = serial_shown(mesh), opened(mesh)
            renew(mesh, mesh.b, "web")
            eventually(lambda: serial_shown(mesh) != old, 1, what="the new certificate")
            new = serial_shown(mesh)
            renew(mesh, mesh.a, "client")
            eventually(lambda: opened(mesh) > before, 1, what="a tunnel with the new one")
            idle.wait(lambda: idle.closed, ends + NOTICED_WITHIN - time.time())
            assert time.time() >= ends and idle.goaway.error_code == peers.Errors.NO_ERROR
            for host in (mesh.a, mesh.b):
                eventually(lambda host=host: ended_for_certificates(host) > 0, NOTICED_WITHIN,
                           what="the old tunnels' end begun")
            assert mesh.a.status()["tunnels"]["outbound"] > opened(mesh) - before, "its streams"
            assert serial_shown(mesh) == new
            print(load.all_served(), "connections; those held lived beyond their certificate")
            eventually(lambda: mesh.a.status()["tunnels"]["outbound"] == opened(mesh) - before,
                       NOTICED_WITHIN, what="the end of the old tunnels, and of no other")
        for host in (mesh.a, mesh.b):
            assert host.status()["health"] == "ok" and host.problems("tunnel-failed") == []


def test_renewals_under_load_fail_no_handshake_and_cut_no_connection():
    renewals = system.scaled(400, 16)
    with Mesh() as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        with Load(mesh, held=8) as load:
            for number in range(renewals):
                renew(mesh, *((mesh.a, "client") if number % 2 else (mesh.b, "web")))
                time.sleep(0.05)
            print(load.all_served(), "connections,", renewals, "renewals")
        for host in (mesh.a, mesh.b):
            eventually(lambda host=host: host.status()["health"] == "ok", NOTICED_WITHIN)
            assert host.metric_sum("meshnode_peer_refused_total") == 0
            assert host.problems("tunnel-failed") == []


class Clock:
    """The wall clock of a host's agent, which the test sets; its monotonic one runs on."""

    def __init__(self, host):
        library = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        assert library, "faketime is missing; run scripts/setup.sh test"
        self._path = os.path.join(host.directory, "clock")
        self.set(0)
        self.environment = {
            "LD_PRELOAD": library[0], "FAKETIME_TIMESTAMP_FILE": self._path,
            "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}

    def set(self, seconds):
        with open(self._path + ".new", "w") as out:
            out.write(f"{seconds:+d}\n")
        os.rename(self._path + ".new", self._path)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_is_set_refuses_until_it_is_right_and_cuts_nothing(jump, monkeypatch):
    with Mesh(start=False) as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        clock = Clock(mesh.b)
        mesh.a.start_agent()
        with monkeypatch.context() as patch:
            for name, value in clock.environment.items():
                patch.setenv(name, value)
            mesh.b.start_agent()
        workers = mesh.a.worker(), mesh.b.worker()
        with mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) as held:
            traffic.ask(held)
            assert served(mesh) is True
            clock.set(jump)
            eventually(lambda: new_tunnel_is_refused(mesh), NOTICED_WITHIN, what="refusal")
            # Set back, no certificate in an open tunnel has ended: it may be used on.
            if jump > 0:
                eventually(lambda: is_refused(mesh), NOTICED_WITHIN, what="refusal")
            problem = eventually(lambda: mesh.b.problems("certificate-rejected"),
                                 NOTICED_WITHIN, what="the reason in status")[0]
            assert "clock" in problem["hint"], problem
            time.sleep(3)
            assert new_tunnel_is_refused(mesh)
            traffic.ask(held)
            clock.set(0)
            eventually(lambda: not new_tunnel_is_refused(mesh), NOTICED_WITHIN, what="service")
            assert served(mesh) is True
            eventually(lambda: mesh.b.status()["health"] == "ok", NOTICED_WITHIN, what="health")
            traffic.ask(held)
        assert (mesh.a.worker(), mesh.b.worker()) == workers
