"""Rules: who is captured, who is left alone, and what remains when the agent is gone."""

import os
import shlex
import signal
import socket
import time

import mesh as meshes
import pytest
import system
import traffic
from mesh import CLIENT, ECHO, OTHER, SECOND, UNDECLARED, WEB, Mesh, workload
from procs import eventually

SSH = 22


def firewall(host):
    """An admin's own rules in every table, which must survive to the byte."""
    for tool in ("iptables", "ip6tables"):
        for table, chain, rule in (
                ("filter", "INPUT", ["-p", "tcp", "--dport", "3306", "-j", "DROP"]),
                ("filter", "OUTPUT", ["-p", "tcp", "--dport", "25", "-j", "REJECT"]),
                ("nat", "OUTPUT", ["-p", "tcp", "--dport", "81", "-j", "REDIRECT", "--to-ports",
                                   "82"]),
                ("mangle", "PREROUTING", ["-p", "udp", "--dport", "5", "-j", "MARK", "--set-mark",
                                          "0x9000"]),
                ("raw", "PREROUTING", ["-p", "udp", "--dport", "6", "-j", "ACCEPT"])):
            host.run([tool, "-t", table, "-A", chain, *rule])


def works(host, address, port, uid=0):
    return traffic.try_ask(host, address, port, uid, timeout=5) is True


def refused(host, address, port, uid=0):
    """Refused, not left hanging, and certainly not served."""
    outcome = traffic.try_ask(host, address, port, uid, timeout=4)
    return isinstance(outcome, (OSError, EOFError)) and not isinstance(outcome, TimeoutError)


def closed(host, address, port, uid=0):
    """Refused or left waiting, but not served."""
    return traffic.try_ask(host, address, port, uid, timeout=1.5) is not True


class Bystanders:
    """Connections that are none of the mesh's business, held open, and tried anew at each step."""

    def __init__(self, mesh):
        a, b, c = mesh.a, mesh.b, mesh.c
        self.calls = [(host, address, port, uid)
                      for host, target, port, uid in (
                          (c, b, SSH, 0), (a, b, SSH, OTHER), (b, a, SSH, 0), (a, a, SSH, OTHER),
                          (a, b, UNDECLARED, CLIENT), (a, b, UNDECLARED, OTHER),
                          (a, c, ECHO + 100, CLIENT), (a, c, ECHO + 100, OTHER))
                      for address in (target.v4, target.v6)]
        self.held = [host.dial(address, port, uid) for host, address, port, uid in self.calls]
        self.enrolled = a.dial(b.v4, ECHO, CLIENT)
        self.check("before")

    def check(self, when, unserved=False):
        """With `unserved` no agent serves the standing rules: new calls of the enrolled are
        refused, whatever their destination, and nobody else's are."""
        for sock, call in zip(self.held, self.calls):
            try:
                traffic.ask(sock, b"held")
            except (OSError, EOFError) as error:
                raise AssertionError(f"{when}: held {self._say(call)}: {error!r}") from error
        for host, address, port, uid in self.calls:
            if unserved and uid == CLIENT:
                assert refused(host, address, port, uid), when
                continue
            outcome = traffic.try_ask(host, address, port, uid)
            call = self._say((host, address, port, uid))
            assert outcome is True, f"{when}: new {call}: {outcome!r}"

    @staticmethod
    def _say(call):
        return f"{call[0].name} to {call[1]}:{call[2]} as {call[3]}"

    def close(self):
        for sock in self.held:
            sock.close()
        self.enrolled.close()


def servers(mesh):
    return [mesh.a.serve(traffic.echo_server, SSH), mesh.b.serve(traffic.echo_server, SSH),
            mesh.b.serve(traffic.echo_server, UNDECLARED, uid=OTHER),
            mesh.c.serve(traffic.echo_server, ECHO + 100),
            mesh.b.serve(traffic.echo_server, ECHO, uid=WEB)]


def test_what_is_not_enrolled_is_untouched_before_during_and_after():
    with Mesh(start=False) as mesh:
        agents = (mesh.a, mesh.b)
        for host in agents:
            firewall(host)
        rules = {host.name: host.rules() for host in agents}
        routing = {host.name: host.routing() for host in agents}
        running = servers(mesh)
        bystanders = Bystanders(mesh)
        try:
            for host in agents:
                host.start_agent()
            bystanders.check("during")
            traffic.ask(bystanders.enrolled, b"an enrolled connection older than the agent")
            assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)

            for host in agents:
                host.kill_agent()
            bystanders.check("after kill -9", unserved=True)
            assert refused(mesh.a, mesh.b.v4, ECHO, CLIENT), "closed means closed"
            assert refused(mesh.a, mesh.b.v6, ECHO, CLIENT)
            assert closed(mesh.c, mesh.b.v4, ECHO) and closed(mesh.c, mesh.b.v6, ECHO)
            assert closed(mesh.b, mesh.b.v4, ECHO, OTHER), "local callers included"

            for host in agents:
                host.meshnode("capture", "remove")
            bystanders.check("after capture remove")
            for address in (mesh.b.v4, mesh.b.v6):
                for host, uid in ((mesh.a, CLIENT), (mesh.c, 0), (mesh.b, OTHER)):
                    assert works(host, address, ECHO, uid)
            for host in agents:
                assert host.rules() == rules[host.name]
                assert host.routing() == routing[host.name]
                host.meshnode("capture", "remove")  # once more is no error
                assert host.rules() == rules[host.name]
        finally:
            bystanders.close()
            for server in running:
                server.stop()


def test_sigterm_removes_the_rules_and_a_restart_brings_them_back():
    with Mesh(start=False) as mesh:
        for host in (mesh.a, mesh.b):
            firewall(host)
        rules, routing = mesh.a.rules(), mesh.a.routing()
        running = servers(mesh)
        bystanders = Bystanders(mesh)
        try:
            for _ in range(2):
                mesh.a.start_agent()
                mesh.b.start_agent()
                captured = mesh.a.rules()
                assert captured != rules
                bystanders.check("with the agents")
                assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)
                assert mesh.a.stop_agent() == 0
                assert mesh.b.stop_agent() == 0
                assert mesh.a.rules() == rules and mesh.a.routing() == routing
                bystanders.check("after SIGTERM")
                assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)
        finally:
            bystanders.close()
            for server in running:
                server.stop()


def test_an_agent_started_after_kill_9_takes_over(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        rules = mesh.a.rules()
        mesh.a.kill_agent()
        assert mesh.a.rules() == rules, "the door stays closed"
        mesh.a.start_agent()
        assert mesh.a.rules() == rules, "the same rules, and none twice"
        assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)


def test_a_port_22_session_survives_every_death_of_the_agent(own_mesh):
    mesh = own_mesh
    with mesh.a.serve(traffic.echo_server, SSH):
        with mesh.c.dial(mesh.a.v4, SSH) as session:
            for _ in range(system.scaled(100, 3)):
                mesh.a.kill_agent()
                traffic.ask(session)
                mesh.a.start_agent()
                traffic.ask(session)


def test_capture_show_prints_what_is_applied(own_mesh):
    shown = own_mesh.a.meshnode("capture", "show").stdout
    for word in ("15001", "15006", "shop/client", "shop/web"):
        assert word in shown, shown


@pytest.mark.parametrize("how", ["nat", "mangle", "filter", "all", "one", "routing"])
def test_flushed_rules_are_repaired_within_two_seconds_and_reported(own_mesh, how):
    mesh, host = own_mesh, own_mesh.a
    rules, routing = host.rules(), host.routing()
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        held = mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT)
        traffic.ask(held)
        if how == "routing":
            for tool in (["-4"], ["-6"]):
                host.run(["ip", *tool, "rule", "del", "pref", "50"])
        elif how == "one":
            lines = [line for line in host.run(["iptables-save", "-t", "nat"]).stdout.splitlines()
                     if line.startswith("-A") and "DNAT" in line]
            host.run(["iptables", "-t", "nat", "-D", *shlex.split(lines[0])[1:]])
        else:
            for table in ("nat", "mangle", "filter") if how == "all" else (how,):
                for tool in ("iptables", "ip6tables"):
                    host.run([tool, "-t", table, "-F"])
        # The repair may be quicker than a look; capture-repaired below says that it was needed.
        started = time.monotonic()
        eventually(lambda: host.rules() == rules and host.routing() == routing, 4, 0.02,
                   what="the same rules again")
        took = time.monotonic() - started
        assert took <= 2, f"repair took {took:.1f} s"
        assert eventually(lambda: host.problems("capture-repaired"), 3, what="capture-repaired")
        traffic.ask(held)
        held.close()
        assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)


def test_deleted_chains_are_repaired(own_mesh):
    host = own_mesh.a
    rules = host.rules()
    for tool in ("iptables", "ip6tables"):
        for table in ("nat", "mangle", "filter"):
            # At once: a repair may come between flushing and deleting.
            host.run([f"{tool}-restore"], input=f"*{table}\nCOMMIT\n")
    eventually(lambda: host.rules() == rules, 2, what="the same rules again")


def tunnelled(host, workload_name):
    return host.metric_sum("istio_tcp_connections_opened_total", reporter="source",
                           source_workload=workload_name, connection_security_policy="mutual_tls")


@pytest.fixture
def cgroup_mesh():
    with Mesh(start=False) as mesh:
        path, below = mesh.lab.cgroup("batch")
        mesh.cgroup = path
        mesh.below = below
        for host in (mesh.a, mesh.b):
            mesh.authority.install(host.certs, meshes.NS, "batch")
        mesh.a.write("batch.yaml", workload("batch", f"{{cgroup: {below}}}", account="batch"))
        mesh.a.start_agent()
        mesh.b.start_agent()
        yield mesh


def call_from_cgroup(mesh, cgroup, address=None):
    def client():
        with socket.create_connection((address or mesh.b.v4, ECHO), timeout=5) as sock:
            return traffic.ask(sock)

    return mesh.a.call(client, uid=OTHER, cgroup=cgroup)


def test_a_workload_is_known_by_its_cgroup_and_those_below(cgroup_mesh):
    mesh = cgroup_mesh
    below = os.path.join(mesh.cgroup, "job-1")
    os.mkdir(below)
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        for cgroup in (mesh.cgroup, below):
            for address in (mesh.b.v4, mesh.b.v6):
                before = tunnelled(mesh.a, "batch")
                assert call_from_cgroup(mesh, cgroup, address)
                assert tunnelled(mesh.a, "batch") == before + 1
        before = tunnelled(mesh.a, "batch")
        assert works(mesh.a, mesh.b.v4, ECHO, OTHER)
        assert tunnelled(mesh.a, "batch") == before, "outside the cgroup is outside the mesh"


def test_a_recreated_cgroup_is_bound_again(cgroup_mesh):
    mesh = cgroup_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        assert call_from_cgroup(mesh, mesh.cgroup)
        for _ in range(2):
            inode = os.stat(mesh.cgroup).st_ino
            os.rmdir(mesh.cgroup)
            os.mkdir(mesh.cgroup)
            assert os.stat(mesh.cgroup).st_ino != inode

            def bound():
                before = tunnelled(mesh.a, "batch")
                assert call_from_cgroup(mesh, mesh.cgroup)
                return tunnelled(mesh.a, "batch") == before + 1

            eventually(bound, 4, 0.2, what="capture of the new cgroup")


def test_a_cgroup_that_is_gone_or_comes_late_disturbs_nobody(cgroup_mesh):
    mesh = cgroup_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        os.rmdir(mesh.cgroup)
        time.sleep(2.5)
        assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)
        state = {w["name"]: w for w in mesh.a.status()["workloads"]}
        assert state["batch"]["captured"] is False and state["client"]["captured"] is True
        mesh.a.stop_agent()
        mesh.a.start_agent()
        assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)
        os.mkdir(mesh.cgroup)

        def bound():
            before = tunnelled(mesh.a, "batch")
            assert call_from_cgroup(mesh, mesh.cgroup)
            return tunnelled(mesh.a, "batch") == before + 1

        eventually(bound, 4, 0.2, what="capture of the late cgroup")


def test_a_workload_taken_out_of_the_files_is_set_free(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        before = tunnelled(mesh.a, "client")
        assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)
        assert tunnelled(mesh.a, "client") == before + 1
        mesh.a.write("workloads.yaml", workload("web", meshes.by_user(WEB), meshes.PORTS))
        eventually(lambda: "4102" not in mesh.a.rules(), 5, what="rules without the client")
        assert len(mesh.a.status()["workloads"]) == 1
        assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)
        assert tunnelled(mesh.a, "client") == before + 1


def test_a_workload_may_have_64_ports():
    ports = list(range(9080, 9080 + 64))
    with Mesh(start=False) as mesh:
        entries = [meshes.entry(f"all-{family}", address, ports)
                   for family, address in (("4", mesh.b.v4), ("6", mesh.b.v6))]
        mesh.b.write("workloads.yaml", workload("web", meshes.by_user(WEB), ports))
        for host in (mesh.a, mesh.b):
            host.write("mesh.yaml", meshes.documents(*entries))
            host.start_agent()
        for port in (ports[0], ports[15], ports[63]):
            with mesh.b.serve(traffic.greeting_server, port, uid=WEB):
                for address, source in ((mesh.b.v4, mesh.a.v4), (mesh.b.v6, mesh.a.v6)):
                    before = tunnelled(mesh.a, "client")
                    with mesh.a.dial(address, port, uid=CLIENT) as sock:
                        assert traffic.read_line(sock) == f"you are {source}"
                    assert tunnelled(mesh.a, "client") == before + 1
                    with mesh.c.dial(address, port) as sock:
                        assert traffic.read_line(sock).startswith("you are ")


def test_the_backstops_reject_what_escapes_the_steering(own_mesh):
    """With steering gone for a moment, an enrolled call is refused and never plaintext."""
    mesh, host = own_mesh, own_mesh.a
    os.kill(host.supervisor, signal.SIGSTOP)
    try:
        for tool in ("iptables", "ip6tables"):
            host.run([tool, "-t", "nat", "-F"])
        with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
            assert refused(host, mesh.b.v4, ECHO, CLIENT)
            assert refused(host, mesh.b.v6, ECHO, CLIENT)
    finally:
        os.kill(host.supervisor, signal.SIGCONT)
    os.kill(mesh.b.supervisor, signal.SIGSTOP)
    try:
        for tool in ("iptables", "ip6tables"):
            for table in ("mangle", "nat"):
                mesh.b.run([tool, "-t", table, "-F"])
        with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
            assert refused(mesh.c, mesh.b.v4, ECHO) and refused(mesh.c, mesh.b.v6, ECHO)
            assert refused(mesh.b, mesh.b.v4, ECHO, OTHER)
    finally:
        os.kill(mesh.b.supervisor, signal.SIGCONT)
    eventually(lambda: mesh.b.status()["captureBypass"] and
               sum(mesh.b.status()["captureBypass"].values()) > 0, 8,
               what="backstop hits in status")


def hang_up(sock):
    sock.recv(5)
    traffic.reset(sock)


def refusals(address, calls):
    """Of so many calls to a program that resets each: how many could not even connect."""
    refused = 0
    for _ in range(calls):
        try:
            with socket.create_connection((address, ECHO), timeout=10) as sock:
                sock.sendall(b"hello")
                sock.recv(1)
        except ConnectionRefusedError:
            refused += 1
        except ConnectionResetError:
            pass
    return refused


@pytest.mark.parametrize("callee", ["same node", "direct"])
def test_what_was_reset_does_not_stand_in_the_way_of_the_next_call(own_mesh, callee):
    """Tracking knows a reset connection of ours for ten seconds: a program with its 4-tuple would
    be past capture, and refused. With ports from one range some of these calls meet it."""
    host = own_mesh.b if callee == "same node" else own_mesh.c
    with host.serve(traffic.serve_each, ECHO, hang_up, uid=WEB):
        assert own_mesh.b.call(refusals, host.v4, 4000, uid=CLIENT, timeout=60) == 0


def test_an_admins_firewall_keeps_its_meaning(own_mesh):
    """A drop for one source and port holds, and an allowed port under default drop stays open."""
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB), \
            mesh.b.serve(traffic.echo_server, SECOND, uid=WEB):
        mesh.b.run(["iptables", "-I", "INPUT", "1", "-p", "tcp", "-s", mesh.c.v4, "--dport",
                    str(SECOND), "-j", "REJECT", "--reject-with", "tcp-reset"])
        assert refused(mesh.c, mesh.b.v4, SECOND), "the admin's reject was walked around"
        assert works(mesh.c, mesh.b.v4, ECHO)
        mesh.b.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", str(ECHO), "-j", "ACCEPT"])
        mesh.b.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "15008", "-j", "ACCEPT"])
        mesh.b.run(["iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate",
                    "ESTABLISHED,RELATED", "-j", "ACCEPT"])
        mesh.b.run(["iptables", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT"])
        mesh.b.run(["iptables", "-P", "INPUT", "DROP"])
        assert works(mesh.c, mesh.b.v4, ECHO), "an allowed port became unreachable"
        assert works(mesh.a, mesh.b.v4, ECHO, CLIENT)
