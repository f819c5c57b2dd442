"""Hosts with containers behind a bridge, and the rules that Docker makes for them: DNAT of
published ports or its userland proxy, masquerading, and a FORWARD chain that drops."""

import socket
import threading

import awkward
import pytest
import system
import traffic
from awkward import V4, answer, bypassed, plaintext, refused, tunnelled, works
from mesh import CLIENT, CLOSED, ECHO, OTHER, SECOND, UNDECLARED, Mesh, node
from procs import ServerChild, eventually

SUBNET, GATEWAY, ADDRESS = "172.30.0.0/24", "172.30.0.1", "172.30.0.2"
INSIDE = 80         # the container's own port
PUBLISHED = 8080    # of the host, declared by nobody
TAKEN = CLOSED      # of the host, declared by the workload `web` as well
RELAYED = SECOND    # declared, and served by Docker's userland proxy


def relay(channel, port, address, inside):
    """docker-proxy: accepts on the host and hands on to the container."""
    def hand_on(sock):
        with socket.create_connection((address, inside), timeout=5) as inner:
            threading.Thread(target=pump, args=(sock, inner), daemon=True).start()
            pump(inner, sock)

    traffic.serve_each(channel, port, hand_on)


def pump(source, sink):
    while data := source.recv(1 << 16):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


class Container:
    """A namespace behind a bridge of `host`, with Docker's chains around it."""

    def __init__(self, mesh, host):
        self.host = host
        self.namespace = f"{host.namespace}c"
        mesh.lab.namespaces.append(self.namespace)
        system.sh(["ip", "netns", "add", self.namespace])
        for argv in (["link", "add", "docker0", "type", "bridge"],
                     ["link", "set", "docker0", "addrgenmode", "none"],
                     ["addr", "add", f"{GATEWAY}/24", "dev", "docker0"],
                     ["link", "set", "docker0", "up"],
                     ["link", "add", "veth1", "type", "veth", "peer", "name", "eth0", "netns",
                      self.namespace],
                     ["link", "set", "veth1", "master", "docker0", "up"]):
            host.run(["ip", *argv])
        for argv in (["link", "set", "lo", "up"], ["link", "set", "eth0", "up"],
                     ["addr", "add", f"{ADDRESS}/24", "dev", "eth0"],
                     ["route", "add", "default", "via", GATEWAY]):
            system.sh(["ip", "-n", self.namespace, *argv])
        host.sysctl("net.ipv4.ip_forward", "1")
        self.sockets = type(host.sockets)(self.namespace)
        self.dial = type(host).dial.__get__(self)
        host.run(["iptables-restore", "--noflush"], input=RULES)

    def publish(self, port):
        self.host.run(["iptables-restore", "--noflush"], input=(
            f"*filter\n-A DOCKER -d {ADDRESS}/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport "
            f"{INSIDE} -j ACCEPT\nCOMMIT\n*nat\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport "
            f"{port} -j DNAT --to-destination {ADDRESS}:{INSIDE}\nCOMMIT\n"))

    def serve(self, function, *args):
        return ServerChild(self.namespace, function, args)


RULES = f"""*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s {SUBNET} ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh() as made:
        made.container = Container(made, made.b)
        for port in (PUBLISHED, TAKEN):
            made.container.publish(port)
        running = [made.container.serve(traffic.greeting_server, INSIDE),
                   made.container.serve(traffic.greeting_server, ECHO),
                   made.b.serve(relay, RELAYED, ADDRESS, INSIDE),
                   made.c.serve(traffic.greeting_server, UNDECLARED),
                   *awkward.servers(made.b), *awkward.servers(made.a)]
        try:
            yield made
        finally:
            for server in running:
                server.stop()


def test_a_published_port_that_nobody_declares_is_as_before(mesh):
    a, b, c = mesh.a, mesh.b, mesh.c
    before = bypassed(b), plaintext(b)
    assert answer(c, b.v4, PUBLISHED) == c.v4
    assert answer(a, b.v4, PUBLISHED, CLIENT) == a.v4, "an enrolled caller, direct"
    for uid in (OTHER, CLIENT):
        assert answer(b, b.v4, PUBLISHED, uid) == b.v4, "a caller on the container's own host"
    assert (bypassed(b), plaintext(b)) == before


def test_a_published_port_that_a_workload_declares_does_not_lead_around_the_agent(mesh):
    b, c = mesh.b, mesh.c
    assert not works(c, b.v4, TAKEN, timeout=1.2), "the container was reached around the agent"
    found = {problem["object"]: problem["message"]
             for problem in eventually(lambda: b.problems("capture-conflict"), 8,
                                       what="capture-conflict")}
    assert list(found) == [f"iptables nat DOCKER port {TAKEN}"]
    assert "shop/web" in found[f"iptables nat DOCKER port {TAKEN}"]
    before = plaintext(b)
    assert answer(b, b.v4, TAKEN, OTHER) == b.v4, "a caller on this host comes through the agent"
    assert plaintext(b) == before + 1


def test_the_userland_proxys_port_is_a_port_like_any_other(mesh):
    a, b, c = mesh.a, mesh.b, mesh.c
    before = plaintext(b), tunnelled(a)
    assert answer(c, b.v4, RELAYED) == GATEWAY, "docker-proxy's own address, as ever"
    assert answer(a, b.v4, RELAYED, CLIENT) == GATEWAY
    assert (plaintext(b), tunnelled(a)) == (before[0] + 1, before[1] + 1)


def test_containers_get_out_as_before(mesh):
    a, b, c, container = mesh.a, mesh.b, mesh.c, mesh.container
    before = plaintext(a), bypassed(b)
    assert answer(container, c.v4, UNDECLARED) == b.v4, "masqueraded"
    assert answer(container, a.v4, ECHO) == b.v4, "to a declared port of another host"
    assert plaintext(a) == before[0] + 1
    assert answer(container, a.v4, UNDECLARED) == b.v4
    assert bypassed(b) == before[1]


@pytest.fixture(params=[0, 1], ids=["bridge-nf-0", "bridge-nf-1"])
def bridge_nf(mesh, request):
    name = "net.bridge.bridge-nf-call-iptables"
    try:
        mesh.b.sysctl(name, str(request.param))
    except FileNotFoundError:
        pytest.skip("NOT TESTED: this kernel has no br_netfilter, so bridges are as with 0")
    return request.param


def test_a_container_calls_its_own_host(mesh, bridge_nf):
    """Through the agent where the kernel lets TPROXY have bridged packets; otherwise refused,
    counted and reported rather than let around."""
    b, container = mesh.b, mesh.container
    for address in (b.v4, GATEWAY):
        assert answer(container, address, UNDECLARED) == ADDRESS
        before = plaintext(b), bypassed(b)
        if bridge_nf:
            assert refused(container, address, ECHO)
            assert (plaintext(b), bypassed(b)) == (before[0], before[1] + 1)
        else:
            assert answer(container, address, ECHO) == ADDRESS
            assert (plaintext(b), bypassed(b)) == (before[0] + 1, before[1])
    if bridge_nf:
        problem = eventually(lambda: b.problems("capture-bypassed"), 12, what="the problem")[0]
        assert problem["object"] == "shop/web"


def test_an_excluded_subnet_of_containers_calls_its_host_as_ever(mesh, bridge_nf):
    b, container = mesh.b, mesh.container
    applied = b.log().count("rules applied")
    b.write("node.yaml", node(b, capture=f"{{excludeCidrs: [{SUBNET}]}}"))
    eventually(lambda: b.log().count("rules applied") > applied, 5, what="new rules")
    try:
        before = plaintext(b), bypassed(b)
        assert answer(container, b.v4, ECHO) == ADDRESS
        assert (plaintext(b), bypassed(b)) == before
    finally:
        b.write("node.yaml", node(b))
        eventually(lambda: b.log().count("rules applied") > applied + 1, 5, what="old rules")


def test_programs_of_the_host_call_a_container(mesh, bridge_nf):
    b = mesh.b
    assert answer(b, ADDRESS, INSIDE, OTHER) == GATEWAY
    # The agent dials for the enrolled, and any address of the host's is as good.
    assert answer(b, ADDRESS, INSIDE, CLIENT) == GATEWAY
    assert answer(b, ADDRESS, ECHO, CLIENT) == GATEWAY, "a declared port, of somebody else"


def test_outside_and_tunnels_do_not_notice_the_bridge(mesh, bridge_nf):
    a, b, c = mesh.a, mesh.b, mesh.c
    awkward.tunnel_works(a, b, (V4,))
    awkward.plaintext_works(c, b, (V4,))
    awkward.local_works(b, (V4,))
