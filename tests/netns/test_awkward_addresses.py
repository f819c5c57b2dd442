"""Hosts without one of the families, without routes, and hosts whose address changes."""

import errno

import awkward
import mesh as meshes
import pytest
import system
import traffic
from awkward import V4, V6, answer, tunnelled, works
from mesh import CLIENT, ECHO, OTHER, VIP4, WEB, Mesh, node
from procs import eventually

# socket(AF_INET6) fails as on a kernel that was started with ipv6.disable=1, for the agent and
# whatever it runs: one filter (seccomp(2)) that a program keeps over exec.
WITHOUT_IPV6 = """
import ctypes, os, struct, sys
NUMBERS = {"x86_64": 41, "aarch64": 198}
def op(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
filter = (op(0x20, 0, 0, 0) + op(0x15, 0, 3, NUMBERS[os.uname().machine]) + op(0x20, 0, 0, 16)
          + op(0x15, 0, 1, 10) + op(0x06, 0, 0, 0x00050000 | 97) + op(0x06, 0, 0, 0x7fff0000))
held = ctypes.create_string_buffer(filter)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 6, ctypes.addressof(held)))
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
"""


def without(host, family):
    if family == V6:
        host.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
        host.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
    else:
        host.run(["ip", "-4", "addr", "flush", "dev", "eth0"])


@pytest.fixture
def mesh():
    with Mesh(start=False) as made:
        yield made


@pytest.mark.parametrize("how", ["sysctl", "kernel"])
def test_hosts_without_ipv6(mesh, how):
    for host in (mesh.a, mesh.b):
        without(host, V6)
        if how == "kernel":
            host.launcher = [system.PYTHON, "-c", WITHOUT_IPV6]
        host.start_agent()
    # The servers listen on both families, so that they need what the host has not.
    with mesh.b.serve(traffic.greeting_server, ECHO, "0.0.0.0", uid=WEB):
        awkward.tunnel_works(mesh.a, mesh.b, (V4,))
        awkward.plaintext_works(mesh.c, mesh.b, (V4,))
        for address in (mesh.b.v4, "127.0.0.1"):
            assert answer(mesh.b, address, ECHO, OTHER) == address
    assert mesh.b.status()["health"] == "ok"
    assert mesh.b.stop_agent() == 0
    assert "MESHNODE" not in mesh.b.rules()


def test_ipv6_that_comes_while_the_agent_runs(mesh):
    for host in (mesh.a, mesh.b):
        without(host, V6)
        host.start_agent()
    for host in (mesh.a, mesh.b):
        for scope in ("all", "default", "eth0", "lo"):
            host.sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", "0")
        host.run(["ip", "addr", "replace", f"{host.v6}/64", "dev", "eth0", "nodad"])
        eventually(lambda: "MESHNODE" in host.run(["ip6tables-save"]).stdout, 6, what="rules")
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        # That the address is its own a host sees within two seconds.
        eventually(lambda: awkward.tunnel_works(mesh.a, mesh.b, (V6,)) is None, 5, 0.2,
                   what="a tunnel over IPv6")
        awkward.plaintext_works(mesh.c, mesh.b, (V6,))


def test_hosts_with_ipv6_only(mesh):
    for host in (mesh.a, mesh.b):
        without(host, V4)
        host.write("node.yaml", node(host, address=f'"{host.v6}"'))
        host.start_agent()
    awkward.whole_path(mesh, (V6,))


def test_without_a_default_route_neighbours_are_reached_and_virtual_addresses_are_not(mesh):
    for host in (mesh.a, mesh.b):
        for family in ("-4", "-6"):
            host.run(["ip", family, "route", "del", "default"])
        host.write("mesh.yaml", meshes.documents(
            mesh.common, meshes.service("web", [VIP4], 80, ECHO)))
        host.start_agent()
    awkward.whole_path(mesh)
    for uid in (CLIENT, OTHER):
        failure = answer(mesh.a, VIP4, 80, uid)
        assert isinstance(failure, OSError) and failure.errno == errno.ENETUNREACH, failure
    mesh.a.run(["ip", "route", "add", f"{VIP4}/32", "dev", "eth0"])
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB), \
            mesh.a.serve(traffic.greeting_server, ECHO, uid=WEB):
        assert works(mesh.a, VIP4, 80, CLIENT), "any route to it will do"


def test_a_host_changes_its_address_while_it_runs(mesh):
    """First the address, then the files, as it happens; no restart anywhere."""
    a, b, new = mesh.a, mesh.b, "10.77.0.22"
    a.start_agent()
    b.start_agent()
    with b.serve(traffic.greeting_server, ECHO, uid=WEB):
        awkward.tunnel_works(a, b)
        # Or the kernel takes the second address of a subnet away with the first.
        b.sysctl("net.ipv4.conf.eth0.promote_secondaries", "1")
        b.run(["ip", "addr", "add", f"{new}/24", "dev", "eth0"])
        b.run(["ip", "addr", "del", f"{b.v4}/24", "dev", "eth0"])
        # On the files' word alone the old address is dialled still, and nobody has it.
        assert not works(a, b.v4, ECHO, CLIENT, timeout=1)
        eventually(lambda: b.problems("node-address-elsewhere"), 8, what="the problem")
        assert answer(mesh.c, new, ECHO) == mesh.c.v4, "plaintext is captured at the new one"
        awkward.tunnel_works(a, b, (V6,))

        text = mesh.common.replace(f'"{b.v4}"', f'"{new}"')
        assert text != mesh.common
        b.write("node.yaml", node(b, address=new))
        for host in (a, b):
            host.write("mesh.yaml", text)
        before = tunnelled(a)
        eventually(lambda: answer(a, new, ECHO, CLIENT) == a.v4 and tunnelled(a) > before, 8,
                   what="a tunnel to the new address")
    # And from there, as a caller.
    with a.serve(traffic.greeting_server, ECHO, uid=WEB):
        before = tunnelled(b)
        assert answer(b, a.v4, ECHO, CLIENT) == new
        assert tunnelled(b) == before + 1
