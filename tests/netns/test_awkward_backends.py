"""iptables-legacy in the place of iptables-nft, end to end, and both at once."""

import time

import awkward
import pytest
from awkward import legacy, works
from mesh import ECHO, Mesh
from procs import eventually

REPAIRED_WITHIN = 2


def rules_of(host, backend):
    """Both families' lines that name us."""
    return [line for family in ("iptables", "ip6tables")
            for line in host.run([f"{family}-{backend}-save"]).stdout.splitlines()
            if "MESHNODE_" in line]


@pytest.fixture
def mesh():
    with Mesh(start=False) as made:
        yield made


def test_the_whole_path_with_legacy(mesh):
    for host in (mesh.a, mesh.b):
        legacy(host)
        host.start_agent()
        assert rules_of(host, "legacy") and not rules_of(host, "nft")
    awkward.whole_path(mesh)
    assert "MESHNODE_CALLERS" in mesh.a.meshnode("capture", "show").stdout

    before = rules_of(mesh.a, "legacy")
    for table in ("nat", "mangle", "filter", "raw"):
        mesh.a.run(["iptables-legacy", "-t", table, "-F"])
        mesh.a.run(["ip6tables-legacy", "-t", table, "-F"])
    # The kernel tells nobody of legacy rules: they are looked at every second.
    flushed = time.monotonic()
    eventually(lambda: rules_of(mesh.a, "legacy") == before, 4, what="the same rules again")
    took = time.monotonic() - flushed
    print(f"repaired after {took:.2f} s")
    assert took <= REPAIRED_WITHIN
    eventually(lambda: mesh.a.problems("capture-repaired"), 4, what="capture-repaired")
    awkward.whole_path(mesh)

    mesh.a.kill_agent()
    mesh.a.meshnode("capture", "remove")
    assert mesh.b.stop_agent() == 0
    for host in (mesh.a, mesh.b):
        assert not rules_of(host, "legacy"), "nothing is left"


def test_rules_of_both_backends(mesh):
    """The host's own firewall in the one, ours in the other: both are heard, and status says so."""
    legacy(mesh.b)
    for host, own in ((mesh.a, "legacy"), (mesh.b, "nft")):
        host.run([f"iptables-{own}", "-A", "INPUT", "-p", "tcp", "--dport", "7", "-j", "DROP"])
        host.start_agent()
    awkward.whole_path(mesh)
    # iptables-legacy does not look for rules of the other; iptables-nft does.
    problem = eventually(lambda: mesh.a.problems("capture-conflict"), 8, what="the problem")[0]
    assert problem["object"] == "iptables backend" and "legacy" in problem["message"]
    mesh.b.run(["iptables-nft", "-A", "INPUT", "-p", "tcp", "--dport", str(ECHO), "-j", "DROP"])
    assert not works(mesh.c, mesh.b.v4, ECHO, timeout=1), "a drop of the other backend is heard"
    assert "MESHNODE_" not in "\n".join(rules_of(mesh.b, "nft"))


def test_a_change_of_backend_leaves_nothing_behind(mesh):
    """An agent that starts with another iptables than the last takes the old rules' place."""
    mesh.a.start_agent()
    mesh.a.kill_agent()
    assert rules_of(mesh.a, "nft")
    legacy(mesh.a)
    mesh.b.start_agent()
    mesh.a.start_agent()
    assert rules_of(mesh.a, "legacy")
    mesh.a.stop_agent()
    assert not rules_of(mesh.a, "legacy") and not rules_of(mesh.a, "nft")
