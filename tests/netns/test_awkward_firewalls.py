"""The host's own firewall: what it admits works, what it denies stays denied, and a port 15008
that it does not admit is named as the likely cause. ufw is the real program; firewalld's rules are
of its shape, in an nftables table of its own; the third is a few plain lines of iptables."""

import contextlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import awkward
import pytest
import traffic
from awkward import refused
from mesh import CLIENT, ECHO, OTHER, SECOND, THIRD, UNDECLARED, WEB, Mesh, node
from procs import eventually

ALLOWED, DENIED, REJECTED, HBONE = ECHO, SECOND, THIRD, 15008


class Plain:
    """INPUT and FORWARD drop, and the usual exceptions."""

    def __init__(self, host):
        self.host = host
        self._lines(
            [["-P", "INPUT", "DROP"], ["-P", "FORWARD", "DROP"], ["-A", "INPUT", "-i", "lo", "-j",
                                                                  "ACCEPT"],
             ["-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"],
             ["-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j",
              "ACCEPT"],
             ["-A", "INPUT", "-p", "tcp", "--dport", str(REJECTED), "-j", "REJECT",
              "--reject-with", "tcp-reset"]])
        self.host.run(["ip6tables", "-A", "INPUT", "-p", "ipv6-icmp", "-j", "ACCEPT"])

    def allow(self, port):
        self._lines([["-A", "INPUT", "-p", "tcp", "--dport", str(port), "-j", "ACCEPT"]])

    def restart(self):
        """Somebody's firewall script: everything of the filter table anew."""
        for tool in ("iptables", "ip6tables"):
            text = self.host.run([f"{tool}-save", "-t", "filter"]).stdout
            kept = [line for line in text.splitlines() if "MESHNODE" not in line]
            self.host.run([f"{tool}-restore"], input="\n".join(kept) + "\n")

    def _lines(self, lines):
        for tool in ("iptables", "ip6tables"):
            for line in lines:
                self.host.run([tool, *line])


class Ufw:
    """The program itself, with a configuration and a /run of this host's own."""

    def __init__(self, host):
        self.host = host
        self.etc = os.path.join(host.directory, "ufw")
        shutil.copytree("/etc/ufw", self.etc)
        self.defaults = os.path.join(host.directory, "default-ufw")
        shutil.copy("/etc/default/ufw", self.defaults)
        self._ufw("reject", f"{REJECTED}/tcp")
        self._ufw("--force", "enable")

    def allow(self, port):
        self._ufw("allow", f"{port}/tcp")

    def restart(self):
        self._ufw("reload")

    def _ufw(self, *argv):
        script = (f"mount --bind {self.etc} /etc/ufw && mount --bind {self.defaults} "
                  "/etc/default/ufw && mount -t tmpfs tmpfs /run && exec ufw \"$@\"")
        self.host.run(["unshare", "--mount", "sh", "-c", script, "ufw", *argv])


class Firewalld:
    """A table `inet firewalld` with its chains at its priorities, beside our rules."""

    def __init__(self, host):
        self.host = host
        self.ports = []
        self.restart()

    def allow(self, port):
        self.ports.append(port)
        self.host.run(["nft", "add", "rule", "inet", "firewalld", "filter_IN_public_allow",
                       "tcp", "dport", str(port), "ct", "state", "{ new, untracked }", "accept"])

    def restart(self):
        """A reload: the table goes and comes in one transaction."""
        allowed = "".join(f"tcp dport {port} ct state {{ new, untracked }} accept\n"
                          for port in self.ports)
        self.host.run(["nft", "-f", "-"], input=f"""
            table inet firewalld
            delete table inet firewalld
            table inet firewalld {{
              chain mangle_PREROUTING {{
                type filter hook prerouting priority mangle + 10; policy accept;
              }}
              chain nat_PREROUTING {{
                type nat hook prerouting priority dstnat + 10; policy accept;
              }}
              chain nat_POSTROUTING {{
                type nat hook postrouting priority srcnat + 10; policy accept;
              }}
              chain filter_PREROUTING {{
                type filter hook prerouting priority filter + 10; policy accept;
                icmpv6 type {{ nd-router-advert, nd-neighbor-solicit }} accept
                meta nfproto ipv6 fib saddr . mark . iif oif missing drop
              }}
              chain filter_INPUT {{
                type filter hook input priority filter + 10; policy accept;
                ct state {{ established, related }} accept
                ct status dnat accept
                iifname "lo" accept
                ct state invalid drop
                jump filter_INPUT_ZONES
                reject with icmpx admin-prohibited
              }}
              chain filter_FORWARD {{
                type filter hook forward priority filter + 10; policy accept;
                ct state {{ established, related }} accept
                ct status dnat accept
                iifname "lo" accept
                ct state invalid drop
                reject with icmpx admin-prohibited
              }}
              chain filter_OUTPUT {{
                type filter hook output priority filter + 10; policy accept;
                ct state {{ established, related }} accept
                oifname "lo" accept
              }}
              chain filter_INPUT_ZONES {{
                goto filter_IN_public
              }}
              chain filter_IN_public {{
                jump filter_IN_public_deny
                jump filter_IN_public_allow
                meta l4proto {{ icmp, ipv6-icmp }} accept
              }}
              chain filter_IN_public_deny {{
                tcp dport {{ {REJECTED} }} reject with icmpx admin-prohibited
              }}
              chain filter_IN_public_allow {{
                {allowed}
              }}
            }}""")


def needs(program):
    return pytest.mark.skipif(not shutil.which(program),
                              reason=f"no {program}: scripts/setup.sh test installs it")


@pytest.fixture(params=[Plain, pytest.param(Ufw, marks=needs("ufw")),
                        pytest.param(Firewalld, marks=needs("nft"))],
                ids=["plain", "ufw", "firewalld"])
def guarded(request):
    """A mesh whose host b had its firewall before it had an agent, as hosts do."""
    with Mesh(start=False) as mesh:
        # Or the kernel refuses to say "refused" more than once a second.
        mesh.b.sysctl("net.ipv4.icmp_ratelimit", "0")
        mesh.b.sysctl("net.ipv6.icmp.ratelimit", "0")
        mesh.firewall = request.param(mesh.b)
        mesh.firewall.allow(ALLOWED)
        mesh.servers = [mesh.b.serve(traffic.greeting_server, port, uid=WEB)
                        for port in (ALLOWED, DENIED, REJECTED)]
        mesh.servers.append(mesh.b.serve(traffic.greeting_server, UNDECLARED, uid=OTHER))
        try:
            yield mesh
        finally:
            for server in mesh.servers:
                server.stop()


def outcomes(mesh):
    """How calls from a stranger end, at every port and in both families.

    A rejection that comes while connect() holds the socket does not end the call (tcp(7),
    LockDroppedIcmps): the one for the second SYN, a second later, does."""
    calls = [(address, port) for address in (mesh.b.v4, mesh.b.v6)
             for port in (ALLOWED, DENIED, REJECTED, UNDECLARED)]
    with ThreadPoolExecutor(len(calls)) as pool:
        answers = pool.map(lambda call: awkward.answer(
            mesh.c, *call, timeout=5 if call[1] == ALLOWED else 2.5), calls)
        return {call: str(answer) for call, answer in zip(calls, answers)}


def test_a_firewall_means_what_it_meant(guarded):
    mesh, firewall = guarded, guarded.firewall
    before = outcomes(mesh)
    served = {port for (_, port), how in before.items() if how in (mesh.c.v4, mesh.c.v6)}
    assert served == {ALLOWED}
    mesh.a.start_agent()
    mesh.b.start_agent()
    assert outcomes(mesh) == before, "with an agent, strangers meet the same answers"

    firewall.allow(HBONE)
    awkward.tunnel_works(mesh.a, mesh.b)
    awkward.plaintext_works(mesh.c, mesh.b)
    awkward.local_works(mesh.b)
    assert outcomes(mesh) == before

    firewall.restart()
    eventually(lambda: rules_in_place(mesh.b), 4, what="our rules after the firewall's restart")
    assert outcomes(mesh) == before
    awkward.tunnel_works(mesh.a, mesh.b)
    awkward.plaintext_works(mesh.c, mesh.b)
    mesh.b.stop_agent()
    assert outcomes(mesh) == before, "nothing of ours is left in the way"


def rules_in_place(host):
    first = [line for line in host.run(["iptables", "-S", "INPUT"]).stdout.splitlines()
             if line.startswith("-A")][:1]
    return first and "MESHNODE_INPUT" in first[0]


@pytest.mark.parametrize("how", ["DROP", "REJECT"])
def test_a_firewall_that_does_not_admit_tunnels_is_named_as_the_cause(how):
    with Mesh() as mesh, mesh.b.serve(traffic.greeting_server, ALLOWED, uid=WEB):
        mesh.b.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "15008", "-j", how])
        assert refused(mesh.a, mesh.b.v4, ALLOWED, CLIENT, timeout=12), "no way around"
        problem = eventually(lambda: mesh.a.problems("tunnel-failed"), 3, what="tunnel-failed")[0]
        assert problem["object"] == f"{mesh.b.v4}:15008"
        assert "firewall" in problem["hint"] and "15008" in problem["hint"], problem
        likely = "most likely a firewall does not admit port 15008"
        assert (likely in problem["message"]) == (how == "DROP"), problem
        mesh.b.run(["iptables", "-D", "INPUT", "-p", "tcp", "--dport", "15008", "-j", how])
        awkward.tunnel_works(mesh.a, mesh.b)


@contextlib.contextmanager
def rule(host, *words):
    host.run(["iptables", "-A", *words])
    try:
        yield
    finally:
        host.run(["iptables", "-D", *words])


@pytest.fixture(scope="module")
def impatient():
    """A mesh that gives up a dial after a second."""
    with Mesh(start=False) as mesh:
        for host in (mesh.a, mesh.b):
            host.write("node.yaml", node(host, proxy="{connectTimeout: 1s}"))
            host.start_agent()
        with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB), \
                mesh.c.serve(traffic.greeting_server, ECHO):
            yield mesh


def test_output_rules_on_a_port_are_not_heard_for_tunnels_those_on_an_address_are(impatient):
    a, b, c = impatient.a, impatient.b, impatient.c
    with rule(a, "OUTPUT", "-d", b.v4, "-j", "DROP"), rule(a, "OUTPUT", "-d", c.v4, "-j", "DROP"):
        assert refused(a, b.v4, ECHO, CLIENT, timeout=9), "not heard for a tunnel"
        assert refused(a, c.v4, ECHO, CLIENT), "not heard for what goes direct"
    with rule(a, "OUTPUT", "-p", "tcp", "--dport", str(ECHO), "-j", "DROP"):
        awkward.tunnel_works(a, b, (awkward.V4,))
        assert refused(a, c.v4, ECHO, CLIENT), "not heard for what goes direct"
        assert awkward.silent(a, c.v4, ECHO, OTHER), "nor for programs that are not captured"
    assert awkward.works(a, c.v4, ECHO, CLIENT)


def test_a_port_that_input_denies_is_reached_through_a_tunnel_unless_it_is_denied_on_lo(impatient):
    a, b, c = impatient.a, impatient.b, impatient.c
    denied = ["-p", "tcp", "--dport", str(ECHO), "-j", "DROP"]
    with rule(b, "INPUT", "-i", "eth0", *denied):
        assert awkward.silent(c, b.v4, ECHO), "a stranger is let in"
        awkward.tunnel_works(a, b, (awkward.V4,))
    with rule(b, "INPUT", *denied):
        assert awkward.silent(c, b.v4, ECHO), "a stranger is let in"
        assert refused(a, b.v4, ECHO, CLIENT), "a rule that holds on lo was not heard"
    awkward.tunnel_works(a, b, (awkward.V4,))
    awkward.plaintext_works(c, b, (awkward.V4,))
