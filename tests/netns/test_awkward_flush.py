"""Rules flushed by others, in each of the ways that firewalls and people have: repaired within two
seconds, reported, with live connections unharmed; and what left in between, counted at the far end."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import awkward
import pytest
import traffic
from mesh import CLIENT, ECHO, WEB, Mesh
from procs import eventually

REPAIRED_WITHIN = 2
TOOLS = ("iptables", "ip6tables")
OTHERS = "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"


def flush_filter(host):
    host.run(["iptables", "-F"])
    host.run(["ip6tables", "-F"])


def flush_nat(host):
    for tool in TOOLS:
        host.run([tool, "-t", "nat", "-F"])


def flush_nat_and_delete(host):
    """iptables-nft deletes the empty base chains as well, and the kernel's NAT ends with them."""
    for tool in TOOLS:
        host.run([tool, "-t", "nat", "-F"])
        host.run([tool, "-t", "nat", "-X"], check=False)


def restore_filter(host):
    for tool in TOOLS:
        host.run([f"{tool}-restore"], input=OTHERS)


def restore_everything(host):
    empty = "".join(f"*{table}\nCOMMIT\n" for table in ("raw", "mangle", "nat"))
    for tool in TOOLS:
        host.run([f"{tool}-restore"], input=empty + OTHERS)


def flush_ruleset(host):
    host.run(["nft", "flush", "ruleset"])


def flush_routing(host):
    for family in ("-4", "-6"):
        host.run(["ip", family, "rule", "del", "lookup", "15006"])
        host.run(["ip", family, "route", "flush", "table", "15006"])


@pytest.fixture(scope="module")
def mesh(request):
    """One for lesser flushes and one for those that let calls out: the kernel goes on tracking what
    left in plaintext, for two minutes, and would not ask steering about its like."""
    with Mesh() as made:
        made.whole = request.param
        for tool in TOOLS:  # counts the plaintext of enrolled callers where it would arrive
            made.b.run([tool, "-t", "raw", "-A", "PREROUTING", "-i", "eth0", "-p", "tcp", "--dport",
                        str(ECHO), "--syn", "-m", "comment", "--comment", "counted"])
        yield made


def escaped(mesh):
    return sum(int(n) for tool in TOOLS for n in re.findall(
        r"^\[(\d+):\d+\] .*counted", mesh.b.run([f"{tool}-save", "-c", "-t", "raw"]).stdout, re.M))


@pytest.mark.parametrize("flush, mesh", [
    (flush_filter, False), (flush_nat, False), (restore_filter, False), (flush_routing, False),
    (flush_nat_and_delete, True), (restore_everything, True), (flush_ruleset, True)],
    indirect=["mesh"], scope="module")
def test_a_flush_is_repaired_and_lets_nothing_out(mesh, flush):
    """With steering and backstop gone in one stroke, or NAT gone from under connections it had
    steered, nobody is left to say no until the repair; how long that is, is bounded. Any lesser
    flush lets nothing out."""
    a, b, whole = mesh.a, mesh.b, mesh.whole
    if whole:
        time.sleep(1.1)  # calm: rules that change all the time are looked at once a second
    rules, routing, repaired = own_rules(a), a.routing(), repairs(a)
    with b.serve(traffic.greeting_server, ECHO, uid=WEB):
        held = a.dial(b.v4, ECHO, uid=CLIENT)
        traffic.read_line(held)
        before, stop = escaped(mesh), []

        def call_on_and_on():
            while not stop:
                awkward.answer(a, b.v4, ECHO, CLIENT, timeout=0.3)

        with ThreadPoolExecutor(2) as pool:
            callers = [pool.submit(call_on_and_on) for _ in range(2)]
            try:
                flush(a)
                started = time.monotonic()
                last, seen = 0.0, escaped(mesh)
                while time.monotonic() - started < 2.5:
                    now = escaped(mesh)
                    if now != seen:
                        seen, last = now, time.monotonic() - started
                    if own_rules(a) == rules and a.routing() == routing and repairs(a) > repaired:
                        break
                took = time.monotonic() - started
            finally:
                stop.append(True)
            for caller in callers:
                caller.result(5)
        assert took <= REPAIRED_WITHIN and own_rules(a) == rules and a.routing() == routing
        traffic.ask(held)
        held.close()
        print(f"{flush.__name__}: repaired after {took:.2f} s, {seen - before} SYNs escaped, the "
              f"last after {last:.2f} s")
        if not whole:
            assert escaped(mesh) == before, "plaintext of an enrolled caller left the host"
        after = escaped(mesh)
        awkward.tunnel_works(a, b)
        assert escaped(mesh) == after, "closed again"
    assert eventually(lambda: a.problems("capture-repaired"), 3, what="capture-repaired")


def own_rules(host):
    return [line for line in host.rules().splitlines() if "MESHNODE_" in line]


def repairs(host):
    return host.metric_sum("meshnode_capture_repaired_total")
