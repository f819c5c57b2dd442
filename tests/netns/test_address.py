"""Workloads told by an address of the host: several on one host, each with its own identity, also
for peers that send no server name."""

import socket

import lab
import mesh as meshes
import peers
import pki
import pytest
import system
import traffic
import wire
from mesh import (CLIENT, ECHO, NS, OTHER, UNDECLARED, WEB, by_user, documents, enrol, entry,
                  set_excludes, workload)
from procs import eventually

OWN = "10.78.0.50"  # of a network of its own, so no other address is preferred to it


@pytest.fixture(scope="module")
def pair():
    """b has two addresses: `web` (a user) shares them, `own` has the second to itself."""
    with lab.Lab("a", "b", "c") as made:
        a, b = made.a, made.b
        b.add_address(OWN)
        made.authority = pki.Authority(f"{made.directory}/ca")
        common = documents(entry("web-b", b.v4, [ECHO]),
                           entry("own-b", OWN, [ECHO], app="own", account="own"),
                           entry("web-a", a.v4, [ECHO], app="web", account="web"))
        enrol(a, made.authority, workload("client", by_user(CLIENT)), workload(
            "web", by_user(WEB), [ECHO]), accounts=("client", "web"))
        enrol(b, made.authority, workload("web", by_user(WEB), [ECHO]),
              workload("own", f"{{address: {OWN}}}", [ECHO]), accounts=("web", "own"))
        for host in (a, b):
            host.write("mesh.yaml", common)
            host.start_agent()
        with b.serve(traffic.greeting_server, ECHO, b.v4, uid=WEB), \
                b.serve(traffic.greeting_server, ECHO, OWN, uid=OTHER), \
                a.serve(traffic.greeting_server, ECHO, uid=WEB):
            yield made


def principal(account):
    return f"spiffe://{system.TRUST_DOMAIN}/ns/{NS}/sa/{account}"


def opened(host, **labels):
    return host.metric_sum("istio_tcp_connections_opened_total", **labels)


def asks(host, address, uid, source=None):
    with host.dial(address, ECHO, uid=uid, source=source) as sock:
        seen = traffic.read_line(sock)
        traffic.ask(sock)
        return seen


def test_each_address_is_another_identity(pair):
    for address, account in ((pair.b.v4, "web"), (OWN, "own")):
        before = opened(pair.b, reporter="destination", destination_principal=principal(account))
        with wire.Capture(pair) as capture:
            assert asks(pair.a, address, CLIENT) == f"you are {pair.a.v4}"
        assert not capture.packets(f"port {ECHO}"), "nothing in the clear"
        assert opened(pair.b, reporter="destination", source_principal=principal("client"),
                      destination_principal=principal(account)) == before + 1


def test_what_leaves_from_the_address_is_the_workload(pair):
    before = opened(pair.a, reporter="destination", source_principal=principal("own"))
    assert asks(pair.b, pair.a.v4, OTHER, source=OWN) == f"you are {OWN}"
    assert opened(pair.a, reporter="destination", source_principal=principal("own")) == before + 1
    # A user's program stays what it is, whatever it binds to.
    before = opened(pair.a, reporter="destination", source_principal=principal("web"))
    assert asks(pair.b, pair.a.v4, WEB, source=OWN) == f"you are {OWN}"
    assert opened(pair.a, reporter="destination", source_principal=principal("web")) == before + 1


def test_a_local_caller_is_not_the_workload_it_dials(pair):
    """The kernel gives an unbound socket the dialled local address for its source."""
    before = opened(pair.b, source_principal=principal("own"))
    total = pair.b.status()["connections"]["total"]
    assert asks(pair.b, OWN, OTHER) == f"you are {OWN}"
    eventually(lambda: pair.b.status()["connections"]["total"] == total + 1, 5, what="the capture")
    assert opened(pair.b, source_principal=principal("own")) == before


def test_plaintext_is_captured_at_both_addresses(pair):
    for address, account in ((pair.b.v4, "web"), (OWN, "own")):
        before = opened(pair.b, reporter="destination", source_principal="unknown",
                        destination_principal=principal(account))
        assert asks(pair.c, address, 0) == f"you are {pair.c.v4}"
        assert opened(pair.b, reporter="destination", source_principal="unknown",
                      destination_principal=principal(account)) == before + 1


@pytest.mark.parametrize("name", [None, "web", "own"])
def test_the_certificate_shown_is_of_the_address_or_of_the_name(pair, name):
    context = peers.client_context(pair.authority.certificate_path,
                                   pair.authority.workload(NS, "client"))
    for address, account in ((pair.b.v4, "web"), (OWN, "own")):
        server_name = name and pki.server_name(NS, name)
        with peers.open_tunnel(pair.c, address, context, server_name) as tunnel:
            assert peers.identities(tunnel.tls) == [principal(name or account)]
            # Only what that certificate answers for can be asked for.
            for target, owner in ((pair.b.v4, "web"), (OWN, "own")):
                answered = tunnel.connect(f"{target}:{ECHO}")[1].status
                assert answered == (200 if owner == (name or account) else 400), (target, name)


def test_what_a_node_excludes_is_left_alone_at_the_address_too(pair):
    def total():
        return pair.b.status()["connections"]["total"]

    for text in (f"{{excludePorts: [{ECHO}]}}", f"{{excludeCidrs: [{pair.c.v4}/32]}}"):
        set_excludes(pair.b, text)
        with pair.c.serve(traffic.greeting_server, ECHO):
            before = total()
            assert asks(pair.c, OWN, 0) == f"you are {pair.c.v4}"
            assert asks(pair.b, pair.c.v4, OTHER, source=OWN) == f"you are {OWN}"
            assert total() == before, "the agent was asked"
        assert asks(pair.a, OWN, CLIENT) == f"you are {pair.a.v4}"
        assert total() == before + 1, "a tunnel comes in as ever"
    set_excludes(pair.b, "{}")
    with pair.c.serve(traffic.greeting_server, ECHO):
        assert asks(pair.c, OWN, 0) == f"you are {pair.c.v4}"
        assert asks(pair.b, pair.c.v4, OTHER, source=OWN) == f"you are {OWN}"
    eventually(lambda: total() == before + 3, 5, what="capture, as before")


def test_an_undeclared_listener_at_the_address_is_reported(pair):
    with pair.b.serve(traffic.greeting_server, UNDECLARED, OWN, uid=OTHER), \
            pair.b.serve(traffic.greeting_server, UNDECLARED, pair.b.v4, uid=OTHER):
        found = eventually(lambda: pair.b.problems("undeclared-listener"), 8, what="the problem")
        assert [p["object"] for p in found] == ["shop/own"], "the other is nobody's"
        assert f"{OWN}:{UNDECLARED}, which no Workload declares" in found[0]["message"]


def test_the_main_address_of_the_host_needs_force(pair):
    b = pair.b
    path = b.write("main.yaml", workload("main", f"{{address: {b.v4}}}", [9999], account="own"))
    try:
        found = eventually(lambda: [p for p in b.problems("capture-incomplete")
                                    if p["object"] == "shop/main"], 5, what="the problem")
        assert "force: true" in found[0]["message"]
    finally:
        system.sh(["rm", path])
    eventually(lambda: not [p for p in b.status()["workloads"] if p["name"] == "main"], 5)


def test_an_address_that_moves_away_takes_its_workload_along(pair):
    b = pair.b
    change = ["ip", "-n", b.namespace, "addr"]
    system.sh([*change, "del", f"{OWN}/24", "dev", "eth0"])
    try:
        found = eventually(lambda: b.problems("workload-address-elsewhere"), 6, what="the problem")
        assert OWN in found[0]["message"] and b.status()["health"] == "ok"
        assert asks(pair.a, b.v4, CLIENT) == f"you are {pair.a.v4}", "the other one is untouched"
    finally:
        system.sh([*change, "add", f"{OWN}/24", "dev", "eth0"])
    before = opened(b, reporter="destination", source_principal=principal("client"),
                    destination_principal=principal("own"))

    def back():
        sock = pair.a.dial(OWN, ECHO, uid=CLIENT, timeout=2)
        with sock:
            return traffic.read_line(sock) == f"you are {pair.a.v4}"

    eventually(back, 6, what="the workload at its address again")
    assert opened(b, reporter="destination", source_principal=principal("client"),
                  destination_principal=principal("own")) > before


def test_several_that_share_an_address_need_a_default(pair):
    """The third workload of b shares b.v4 with web: a peer without server name meets neither."""
    b = pair.b
    pair.authority.install(b.certs, NS, "third")
    context = peers.client_context(pair.authority.certificate_path,
                                   pair.authority.workload(NS, "client"))

    def shown():
        try:
            with peers.open_tunnel(pair.c, b.v4, context, None) as tunnel:
                return peers.identities(tunnel.tls)
        except OSError:
            return []

    for marked, expected in ((False, []), (True, [principal("third")])):
        extra = {"default": "true"} if marked else {}
        path = b.write("third.yaml", workload("third", by_user(4177), [9990], **extra))
        eventually(lambda expected=expected: shown() == expected, 6,
                   what=f"{expected} for a peer without a server name")
        if not marked:
            assert eventually(lambda: b.problems("default-workload-missing"), 5)
    system.sh(["rm", path])
    eventually(lambda: shown() == [principal("web")], 6, what="the only one that shares it")
