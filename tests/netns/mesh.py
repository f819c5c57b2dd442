"""The mesh most tests use, as the YAML a user would write."""

import os
import time

import lab
import pki
import system
from procs import eventually

NS = "shop"
WEB, CLIENT, OTHER = 4101, 4102, 4199
PORTS = [9080, 9081, 9082, 9083]
ECHO, SECOND, THIRD, CLOSED = PORTS
PEER = 7070         # declared on d
UNDECLARED = 7000   # declared nowhere
VIP4, VIP6 = "10.99.0.1", "fd77:99::1"
OWN_PORTS = {15001, 15006, 15008, 15012, 15020, 15021, 15053}


def node(host, **spec):
    fields = {"address": host.v4, "trustDomain": system.TRUST_DOMAIN,
              "identity": f"{{source: files, directory: {host.certs}}}", **spec}
    lines = "".join(f"  {key}: {value}\n" for key, value in fields.items())
    return (f"apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {{name: {host.name}}}\n"
            f"spec:\n{lines}")


def set_excludes(host, text, spaces=0):
    """Rewrites the Node document and waits until the rules say so, of the host and of `spaces`
    network namespaces."""
    applied = host.log().count("rules applied")
    host.write("node.yaml", node(host, capture=text))
    eventually(lambda: host.log().count("rules applied") > applied + spaces, 5, what="new rules")


def lasts(host, code):
    """A problem that is over stays listed, and was last seen when it ended. Of one problem."""
    seen = []
    for pause in (0, 1.1):  # times are told in seconds
        time.sleep(pause)
        seen += [problem["lastSeen"] for problem in host.problems(code)]
    assert len(seen) == 2, seen
    return seen[0] != seen[1]


def workload(name, match, ports=(), account=None, **extra):
    declared = ", ".join(f"{{name: p{port}, port: {port}}}" for port in ports)
    lines = "".join(f"  {key}: {value}\n" for key, value in extra.items())
    return (f"apiVersion: meshnode.io/v1\nkind: Workload\n"
            f"metadata: {{name: {name}, namespace: {NS}, labels: {{app: {name}, version: v1}}}}\n"
            f"spec:\n  match: {match}\n  serviceAccount: {account or name}\n"
            f"  ports: [{declared}]\n{lines}")


def by_user(uid):
    return f'{{user: "{uid}"}}'


def entry(name, address, ports=PORTS, app="web", account="web", tunnel=True):
    labels = f"{{app: {app}, version: v1" + (
        ", networking.istio.io/tunnel: http}" if tunnel else "}")
    declared = ", ".join(f"p{port}: {port}" for port in ports)
    return (f"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
            f"metadata: {{name: {name}, namespace: {NS}, labels: {labels}}}\n"
            f"spec:\n  address: {quoted(address)}\n  ports: {{{declared}}}\n"
            f"  labels: {labels}\n  serviceAccount: {account}\n")


def service(name, addresses, port, target, app="web"):
    listed = ", ".join(quoted(address) for address in addresses)
    return (f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NS}}}\n"
            f"spec:\n  clusterIP: {quoted(addresses[0])}\n  clusterIPs: [{listed}]\n"
            f"  selector: {{app: {app}}}\n"
            f"  ports: [{{name: p{target}, port: {port}, targetPort: {target}}}]\n")


def service_entry(name, address, port, target, source):
    """`source` is the workloadSelector or the endpoints, as YAML."""
    return (f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"
            f"metadata: {{name: {name}, namespace: {NS}}}\n"
            f"spec:\n  hosts: [{name}.example]\n  addresses: [{quoted(address)}]\n"
            f"  ports: [{{number: {port}, name: tcp, protocol: TCP, targetPort: {target}}}]\n"
            f"  location: MESH_INTERNAL\n  resolution: STATIC\n  {source}\n")


def quoted(text):
    return f'"{text}"'


def documents(*texts):
    return "---\n".join(texts)


def enrol(host, authority, *workloads, accounts=(), **spec):
    """The files of one host: its node, its own workloads, their certificates."""
    for account in accounts:
        authority.install(host.certs, NS, account)
    host.write("node.yaml", node(host, **spec))
    host.write("workloads.yaml", documents(*workloads))


class Mesh:
    """Hosts a and b enrolled: `client` on a calls `web` on b. Both hosts run both workloads.

    c is a stranger without an agent. d has none either, but is known as a mesh endpoint: an HBONE
    server of the tests plays its agent.
    """

    def __init__(self, start=True):
        self.lab = lab.Lab("a", "b", "c", "d")
        try:
            self.a, self.b, self.c, self.d = (self.lab.hosts[name] for name in "abcd")
            self.authority = pki.Authority(os.path.join(self.lab.directory, "ca"))
            # The same file on all hosts, as the contract allows.
            self.common = documents(
                entry("web-b-4", self.b.v4), entry("web-b-6", self.b.v6),
                entry("web-a-4", self.a.v4), entry("web-a-6", self.a.v6),
                entry("plain-c", self.c.v4, [9080], app="plain", account="plain", tunnel=False),
                entry("peer-d-4", self.d.v4, [PEER], app="peer", account="peer"),
                entry("peer-d-6", self.d.v6, [PEER], app="peer", account="peer"))
            for host in (self.a, self.b):
                enrol(host, self.authority,
                      workload("web", by_user(WEB), PORTS), workload("client", by_user(CLIENT)),
                      accounts=("web", "client"))
                host.write("mesh.yaml", self.common)
                if start:
                    host.start_agent()
        except BaseException:
            self.lab.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.close()
