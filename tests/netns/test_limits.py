"""Limits and timers as a host has them: configured ones act after a reload, overload is shed, told
and recovered from."""

import socket
import time

import pytest
import traffic
from mesh import CLIENT, CLOSED, ECHO, WEB, Mesh, node
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
        assert hits(timed.a, "half-closed") == before + 1
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
    with timed.a.dial(timed.b.v4, CLOSED, uid=CLIENT) as sock:
        assert 0.9 <= reset_after(sock) < 8
    assert timed.b.metric_sum("istio_tcp_connections_failed_total", response_flags="CONNECT",
                              reporter="destination") >= 1


def test_sigterm_waits_as_long_as_configured(timed):
    with timed.b.serve(traffic.serve_each, ECHO, silent, uid=WEB):
        with timed.a.dial(timed.b.v4, ECHO, uid=CLIENT) as sock:
            traffic_open = timed.a.status()["connections"]["active"]
            assert traffic_open >= 1
            configure(timed.a, drainTimeout="1500ms")
            started = time.monotonic()
            assert timed.a.stop_agent() == 0
            assert 1.4 <= time.monotonic() - started < 6
            assert reset_after(sock) < 5
    timed.a.start_agent()
