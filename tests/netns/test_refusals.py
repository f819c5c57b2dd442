"""Handshakes that port 15008 refuses, and what they leave alone; test_refusal_table.py has how each
of them shows."""

import certificates
import peers
import pki
import pytest
import system
import traffic
from mesh import CLIENT, ECHO, WEB

WEB_NAME = pki.server_name("shop", "web")


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
        context = peers.client_context(mesh.authority.certificate_path, certificates.good(mesh))
        with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
            assert tunnel.connect(f"{mesh.b.v4}:{ECHO}")[1].status == 200
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True


def test_without_a_server_name_several_workloads_have_no_answer(mesh):
    context = peers.client_context(mesh.authority.certificate_path, certificates.good(mesh))
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
