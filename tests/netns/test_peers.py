"""The tools themselves: the two HBONE peers against each other, and the lab."""

import os
import ssl

import lab
import peers
import pki
import pytest
import traffic


@pytest.fixture(scope="module")
def two():
    with lab.Lab("a", "b") as made:
        made.authority = pki.Authority(os.path.join(made.directory, "ca"))
        yield made


def test_client_and_server_of_the_tests_understand_each_other(two):
    server_pair = two.authority.workload("shop", "web")
    client_pair = two.authority.workload("shop", "client")
    root = two.authority.certificate_path
    with two.b.serve(peers.hbone_server, server_pair, root, peers.ServerOptions(piece=1)) as server:
        context = peers.client_context(root, client_pair)
        with peers.open_tunnel(two.a, two.b.v4, context, pki.server_name("shop", "web")) as tunnel:
            assert peers.identities(tunnel.tls) == [pki.spiffe("shop", "web")]
            number, stream = tunnel.connect("10.77.0.2:9080")
            assert stream.status == 200
            tunnel.send(number, b"x" * 300, end_stream=True)
            assert tunnel.wait_data(number, 300) == b"x" * 300
            tunnel.wait(lambda: stream.ended)
            assert set(stream.pieces) <= {0, 1}
        kinds = [server.event() for _ in range(3)]
        request = next(event for event in kinds if event["kind"] == "request")
        assert request["sni"] == "web.shop.sa.lab.example"
        assert request["identities"] == [pki.spiffe("shop", "client")]
        assert request["alpn"] == "h2" and request["version"] == "TLSv1.3"


def test_server_of_the_tests_wants_a_certificate(two):
    root = two.authority.certificate_path
    pair = two.authority.workload("shop", "web")
    with two.b.serve(peers.hbone_server, pair, root, peers.ServerOptions()) as server:
        tunnel = None
        with pytest.raises((ssl.SSLError, ConnectionError, peers.TunnelLost)):
            tunnel = peers.open_tunnel(two.a, two.b.v4, peers.client_context(root))
            tunnel.connect("10.77.0.2:9080")
        assert server.event()["kind"] == "handshake-failed"


def test_a_program_runs_as_its_user_in_its_namespace(two):
    assert two.a.call(lambda: (os.getuid(), os.getgroups()), uid=4101) == (4101, [])
    assert two.a.run(["id", "-u"], uid=4101).stdout.strip() == "4101"
    with two.b.serve(traffic.greeting_server, 9080, uid=4101):
        for address in (two.b.v4, two.b.v6):
            with two.a.dial(address, 9080, uid=4102) as sock:
                seen = two.a.v4 if "." in address else two.a.v6
                assert traffic.read_line(sock) == f"you are {seen}"
