"""What must work on every host, however it is set up, and how a call that does not ends."""

import re
import socket

import traffic
from mesh import CLIENT, ECHO, OTHER, UNDECLARED, WEB

V4, V6 = socket.AF_INET, socket.AF_INET6
BOTH = (V4, V6)

# What update-alternatives does, in a mount namespace of the agent's own.
LEGACY = ("mount -t tmpfs tmpfs /etc/alternatives && for name in iptables iptables-save "
          "iptables-restore ip6tables ip6tables-save ip6tables-restore; do ln -s "
          "/usr/sbin/$(echo $name | sed s/tables/tables-legacy/) /etc/alternatives/$name; done && "
          "exec \"$@\"")


def legacy(host):
    host.launcher = ["unshare", "--mount", "sh", "-c", LEGACY, "legacy"]


def answer(host, address, port, uid=0, timeout=5):
    """The address that a greeting server says the caller has, or how the call failed."""
    try:
        with host.dial(address, port, uid=uid, timeout=timeout) as sock:
            greeting = traffic.read_line(sock)
            if not greeting.startswith("you are "):
                return EOFError(greeting or "closed without a greeting")
            traffic.ask(sock)
            return greeting.removeprefix("you are ")
    except (OSError, EOFError) as error:
        return error


def works(host, address, port, uid=0, timeout=5):
    return isinstance(answer(host, address, port, uid, timeout), str)


def refused(host, address, port, uid=0, timeout=4):
    """Answered with a refusal."""
    return not isinstance(answer(host, address, port, uid, timeout), (str, TimeoutError))


def silent(host, address, port, uid=0):
    """Not answered at all, as by a DROP."""
    return isinstance(answer(host, address, port, uid, timeout=1.2), TimeoutError)


def tunnelled(host):
    """Connections of this host's callers that left through a tunnel."""
    return host.metric_sum("istio_tcp_connections_opened_total", reporter="source",
                           connection_security_policy="mutual_tls")


def plaintext(host):
    """Connections that came to a declared port without a tunnel, through the agent."""
    return host.metric_sum("meshnode_plaintext_inbound_total")


def bypassed(host):
    """Packets that a backstop has rejected, as the rules themselves count them."""
    return sum(int(packets) for tool in ("iptables-save", "ip6tables-save")
               for packets in re.findall(r"^\[(\d+):\d+\] .*\"meshnode bypass ",
                                         host.run([tool, "-c", "-t", "filter"]).stdout, re.M))


def servers(host):
    """A declared and an undeclared port, both greeting."""
    return (host.serve(traffic.greeting_server, ECHO, uid=WEB),
            host.serve(traffic.greeting_server, UNDECLARED, uid=OTHER))


def tunnel_works(caller, callee, families=BOTH):
    """From an enrolled program to an enrolled one, which sees the caller's address."""
    for family in families:
        before = tunnelled(caller)
        to, mine = callee.address(family), caller.address(family)
        assert answer(caller, to, ECHO, CLIENT) == mine, f"the source of a tunnel to {to}"
        assert tunnelled(caller) == before + 1, f"{to} was not reached through a tunnel"


def plaintext_works(stranger, callee, families=BOTH):
    """From a host without an agent, through the callee's agent."""
    for family in families:
        before = plaintext(callee)
        to, mine = callee.address(family), stranger.address(family)
        assert answer(stranger, to, ECHO) == mine, f"the source of plaintext to {to}"
        seen = plaintext(callee) - before
        assert seen == 1, f"plaintext to {to} was seen {seen} times by the agent, not once"


def local_works(host, families=BOTH):
    """From a program of no workload to a declared port of its own host."""
    for family in families:
        loopback = "127.0.0.1" if family == V4 else "::1"
        for to in (host.address(family), loopback):
            before = plaintext(host)
            assert answer(host, to, ECHO, OTHER) == to
            assert plaintext(host) == before + 1, f"a local call to {to} went around the agent"


def others_work(stranger, callee, families=BOTH):
    """What is not declared is none of the agent's business."""
    for family in families:
        before = plaintext(callee)
        to = callee.address(family)
        assert answer(stranger, to, UNDECLARED) == stranger.address(family)
        assert plaintext(callee) == before


def whole_path(mesh, families=BOTH):
    """Every way, and no backstop was ever met."""
    every_way(mesh, families)
    assert bypassed(mesh.a) == 0 and bypassed(mesh.b) == 0, "a backstop was met"


def every_way(mesh, families=BOTH):
    """Every way through `mesh.b` and out of `mesh.a`, with servers of its own."""
    declared, undeclared = servers(mesh.b)
    with declared, undeclared:
        tunnel_works(mesh.a, mesh.b, families)
        plaintext_works(mesh.c, mesh.b, families)
        local_works(mesh.b, families)
        others_work(mesh.c, mesh.b, families)
