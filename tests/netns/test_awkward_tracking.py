"""Hosts whose own rules come in between: before ours, without connection tracking, in zones, or
with a source translation of everything."""

import awkward
import pytest
import traffic
from awkward import bypassed, plaintext, refused, silent, works
from mesh import CLIENT, ECHO, OTHER, SECOND, UNDECLARED, WEB, Mesh
from procs import eventually

TOOLS = ("iptables", "ip6tables")


@pytest.fixture(scope="module")
def mesh():
    with Mesh() as made:
        yield made


@pytest.fixture
def rules(mesh):
    """Adds rules of the host's own, and takes them out at the end."""
    added = []

    def add(host, table, chain, *rule, first=False):
        for tool in TOOLS:
            host.run([tool, "-t", table, *(["-I", chain, "1"] if first else ["-A", chain]), *rule])
            added.append((host, tool, table, chain, rule))

    yield add
    for host, tool, table, chain, rule in added:
        host.run([tool, "-t", table, "-D", chain, *rule])


def conflict(host, rule):
    """The problem that quotes the rule, once the agent has seen it."""
    return eventually(lambda: [problem for problem in host.problems("capture-conflict")
                               if f"`{rule}`" in problem["message"]], 8, what=rule)[0]


def test_untracked_plaintext_and_tunnels_come_in(mesh, rules):
    for port in (ECHO, 15008):
        rules(mesh.b, "raw", "PREROUTING", "-i", "eth0", "-p", "tcp", "--dport", str(port), "-j",
              "NOTRACK")
    awkward.every_way(mesh)


def test_untracked_calls_of_a_workload_are_refused_and_explained(mesh, rules):
    rules(mesh.a, "raw", "OUTPUT", "-p", "tcp", "--dport", str(ECHO), "-j", "NOTRACK")
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        before = plaintext(mesh.b)
        for address in (mesh.b.v4, mesh.b.v6):
            assert refused(mesh.a, address, ECHO, CLIENT), "no way around the tunnel"
            assert works(mesh.a, address, ECHO, OTHER), "others are left alone"
        assert plaintext(mesh.b) == before + 2
    problem = conflict(mesh.a, f"-p tcp -m tcp --dport {ECHO} -j NOTRACK")
    assert problem["object"].endswith("tables raw OUTPUT")
    assert problem["hint"]


def test_without_tracking_on_loopback_tunnels_work_and_local_callers_are_refused(mesh, rules):
    rules(mesh.b, "raw", "OUTPUT", "-o", "lo", "-j", "NOTRACK")
    rules(mesh.b, "raw", "PREROUTING", "-i", "lo", "-j", "NOTRACK")
    declared, undeclared = awkward.servers(mesh.b)
    with declared, undeclared:
        awkward.tunnel_works(mesh.a, mesh.b)
        awkward.plaintext_works(mesh.c, mesh.b)
        assert refused(mesh.b, "127.0.0.1", ECHO, OTHER)
        assert works(mesh.b, "127.0.0.1", UNDECLARED, OTHER)
    assert conflict(mesh.b, "-o lo -j NOTRACK")


@pytest.mark.parametrize("of", ["-o eth0", ""], ids=["of-an-interface", "of-everything"])
def test_a_tracking_zone_is_reported(mesh, rules, of):
    """Steering leads over lo, and so out of it."""
    for host in (mesh.a, mesh.b):
        rules(host, "raw", "PREROUTING", *of.replace("-o", "-i").split(), "-j", "CT", "--zone", "5")
        rules(host, "raw", "OUTPUT", *of.split(), "-j", "CT", "--zone", "5")
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        before = plaintext(mesh.b)
        assert not works(mesh.a, mesh.b.v4, ECHO, CLIENT, timeout=1)
        assert plaintext(mesh.b) == before, "and not in plaintext either"
    assert conflict(mesh.a, f"{of} -j CT --zone 5".strip())


def test_everything_masqueraded(mesh, rules):
    """A rule without an interface concerns lo as well; what we steer there keeps its source."""
    for host in (mesh.a, mesh.b):
        rules(host, "nat", "POSTROUTING", "-j", "MASQUERADE")
    declared, undeclared = awkward.servers(mesh.b)
    with declared, undeclared:
        awkward.tunnel_works(mesh.a, mesh.b)
        awkward.plaintext_works(mesh.c, mesh.b)
        awkward.others_work(mesh.c, mesh.b)


def test_a_drop_in_mangle_prerouting_is_obeyed_wherever_it_stands(mesh, rules):
    """Ours is the last rule there, also when the host's own came later."""
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB), \
            mesh.b.serve(traffic.greeting_server, SECOND, uid=WEB):
        for first in (True, False):
            rules(mesh.b, "mangle", "PREROUTING", "-p", "tcp", "--dport",
                  str(ECHO if first else SECOND), "-j", "DROP", first=first)
        assert silent(mesh.c, mesh.b.v4, ECHO) and silent(mesh.c, mesh.b.v6, ECHO)
        # Behind ours, a rule is heard once ours has been put behind it again.
        eventually(lambda: silent(mesh.c, mesh.b.v4, SECOND) and silent(mesh.c, mesh.b.v6, SECOND),
                   8, what="the later rule's effect")


@pytest.mark.parametrize("chain", ["OUTPUT", "INPUT"])
@pytest.mark.parametrize("table", ["nat", "filter", "mangle"])
def test_an_accept_in_front_of_everything(mesh, rules, table, chain):
    """Ours come first again within a second, and until then nothing enrolled leaks from nat and
    filter at once."""
    rules(mesh.a, table, chain, "-p", "tcp", "-j", "ACCEPT", first=True)
    rules(mesh.b, table, chain, "-p", "tcp", "-j", "ACCEPT", first=True)
    eventually(lambda: first_is_ours(mesh.a, table, chain) and first_is_ours(mesh.b, table, chain),
               4, what="our rules in front")
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        awkward.tunnel_works(mesh.a, mesh.b)
        awkward.plaintext_works(mesh.c, mesh.b)
        awkward.local_works(mesh.b)


def first_is_ours(host, table, chain):
    """True as well where we have no rule in that chain."""
    for tool in TOOLS:
        lines = [line for line in host.run([tool, "-t", table, "-S", chain]).stdout.splitlines()
                 if line.startswith("-A")]
        if any("MESHNODE" in line for line in lines) and "MESHNODE" not in lines[0]:
            return False
    return True
