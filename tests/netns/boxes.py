"""A workload in a network namespace of its own behind host b: a container, as the host sees it."""

import os
import socket

import lab
import mesh as meshes
import pki
import system
import traffic
from mesh import CLIENT, ECHO, WEB, by_user, documents, enrol, entry, workload
from procs import Child, ServerChild, eventually

NET4, NET6 = "10.90.0", "fd77:90:"
GATE4, BOX4 = f"{NET4}.1", f"{NET4}.2"
GATE6, BOX6 = f"{NET6}:1", f"{NET6}:2"


class Box:
    """A namespace behind a veth pair of `host`, which forwards for it, as a container engine does;
    its address is routed, not translated."""

    def __init__(self, made, host, name="box"):
        self.lab, self.host, self.name = made, host, f"{made.prefix}{name}"
        made.namespaces.append(self.name)
        self.make()
        # A router asks for neighbours from a link-local address.
        system.sh(["ip", "-n", host.namespace, "addr", "add", "fe80::77/64", "dev", "eth0",
                   "nodad"])
        host.sysctl("net.ipv4.ip_forward", "1")
        host.sysctl("net.ipv6.conf.all.forwarding", "1")
        for other in made.hosts.values():
            if other is not host:
                system.sh(["ip", "-n", other.namespace, "route", "add", f"{NET4}.0/24", "via",
                           host.v4])
                system.sh(["ip", "-n", other.namespace, "-6", "route", "add", f"{NET6}:/64", "via",
                           host.v6])

    @property
    def path(self):
        return f"/run/netns/{self.name}"

    def make(self):
        system.sh(["ip", "netns", "add", self.name])
        outside, inside = self.host.namespace, self.name
        system.sh(["ip", "-n", outside, "link", "add", "to-box", "type", "veth", "peer", "name",
                   "eth0", "netns", inside])
        for ns, device, v4, v6, link in ((outside, "to-box", GATE4, GATE6, "fe80::1"),
                                         (inside, "eth0", BOX4, BOX6, "fe80::2")):
            system.sh(["ip", "-n", ns, "link", "set", device, "addrgenmode", "none"])
            system.sh(["ip", "-n", ns, "link", "set", device, "up"])
            system.sh(["ip", "-n", ns, "addr", "add", f"{v4}/24", "dev", device])
            for address in (v6, link):
                system.sh(["ip", "-n", ns, "addr", "add", f"{address}/64", "dev", device,
                           "nodad"])
        system.sh(["ip", "-n", inside, "link", "set", "lo", "up"])
        system.sh(["ip", "-n", inside, "route", "add", "default", "via", GATE4])
        system.sh(["ip", "-n", inside, "-6", "route", "add", "default", "via", GATE6])

    def remove(self):
        system.sh(["ip", "netns", "del", self.name])
        system.sh(["ip", "-n", self.host.namespace, "link", "del", "to-box"], check=False)

    def serve(self, function, *args):
        return ServerChild(self.name, function, args)

    def call(self, function, *args):
        with Child(self.name, function, args) as child:
            return child.result(30)

    def run(self, argv):
        return system.sh(["ip", "netns", "exec", self.name, *argv]).stdout

    def rules(self):
        return "".join(self.run([tool]) for tool in ("iptables-save", "ip6tables-save"))

    def own_rules(self):
        return [line for line in self.rules().splitlines()
                if line.startswith("-A") and "MESHNODE_" in line]

    def routing(self):
        return "".join(system.sh(["ip", "-n", self.name, *argv]).stdout
                       for argv in (["rule"], ["-6", "rule"], ["route", "show", "table", "all"],
                                    ["-6", "route", "show", "table", "all"]))


def make_world(match=None, prepare=lambda host: None):
    """`prepare`: of a host, before its agent starts."""
    made = lab.Lab("a", "b", "c")
    try:
        a, b = made.a, made.b
        made.box = Box(made, b)
        made.authority = pki.Authority(os.path.join(made.directory, "ca"))
        made.common = documents(
            entry("web-a", a.v4, [ECHO]), entry("web-a6", a.v6, [ECHO]),
            entry("web-b", b.v4, [ECHO]),
            entry("box-4", BOX4, [ECHO], app="box", account="box"),
            entry("box-6", BOX6, [ECHO], app="box", account="box"),
            meshes.service("box", ["10.99.0.7"], 80, ECHO, app="box"))
        enrol(a, made.authority, workload("web", by_user(WEB), [ECHO]),
              workload("client", by_user(CLIENT)), accounts=("web", "client"))
        enrol(b, made.authority, workload("web", by_user(WEB), [ECHO]),
              workload("client", by_user(CLIENT)),
              workload("box", match or f"{{netns: {made.box.path}}}", [ECHO]),
              accounts=("web", "client", "box"))
        made.before = made.box.rules(), made.box.routing()
        # Told by it, the agent alone may set its mark inside.
        made.agent_cgroup, _ = made.cgroup("agent")
        for host in (a, b):
            host.write("mesh.yaml", made.common)
            prepare(host)
            host.start_agent(cgroup=made.agent_cgroup if host is b else None)
        eventually(lambda: captured(b), 10, what="capture inside the namespace")
        return made
    except BaseException:
        made.close()
        raise


def captured(host, name="box"):
    return next(w for w in host.status()["workloads"] if w["name"] == name)["captured"]


def talk(address, port, mark=0, bind=None):
    """In a child: what the server says of us, after an echo."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if bind:
            sock.bind((bind, 0))
        sock.connect((address, port))
        seen = traffic.read_line(sock)
        traffic.ask(sock)
        return seen
