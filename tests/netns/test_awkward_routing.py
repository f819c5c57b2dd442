"""Hosts whose routing is not a plain one: reverse path filters, VPNs, missing families, missing
routes."""

import awkward
import mesh as meshes
import pytest
import system
from awkward import BOTH, V4, V6, answer, tunnelled
from mesh import CLIENT, ECHO, OTHER, UNDECLARED, Mesh
from procs import eventually


@pytest.fixture(scope="module")
def mesh():
    with Mesh() as made:
        yield made


@pytest.mark.parametrize("of_interface", [0, 1, 2])
@pytest.mark.parametrize("of_all", [0, 1, 2])
def test_any_reverse_path_filter(mesh, of_all, of_interface):
    """The larger of the two holds for an interface, loopback included."""
    for host in (mesh.a, mesh.b):
        host.sysctl("net.ipv4.conf.all.rp_filter", str(of_all))
        for interface in ("lo", "eth0", "default"):
            host.sysctl(f"net.ipv4.conf.{interface}.rp_filter", str(of_interface))
    awkward.whole_path(mesh, (V4,))


class Vpn:
    """What `wg-quick up` makes for AllowedIPs 0.0.0.0/0 and ::/0 on each host, in its order and
    with its names; the device is one end of a veth pair, as this kernel may have no WireGuard. The
    other ends meet on a bridge, so that the hosts reach each other there as well."""

    MARK = TABLE = "51820"
    ADDRESSES = {V4: "10.8.0.{}", V6: "fd08::{}"}

    def __init__(self, mesh):
        self.addresses = {}
        system.sh(["ip", "-n", mesh.lab.bridge, "link", "add", "br1", "type", "bridge"])
        system.sh(["ip", "-n", mesh.lab.bridge, "link", "set", "br1", "up"])
        for index, host in enumerate(mesh.lab.hosts.values(), 1):
            self.addresses[host.name] = {family: text.format(index)
                                         for family, text in self.ADDRESSES.items()}
            self._up(mesh, host)

    def _up(self, mesh, host):
        own = self.addresses[host.name]
        system.sh(["ip", "link", "add", "wg0", "netns", host.namespace, "type", "veth", "peer",
                   "name", f"wg-{host.name}", "netns", mesh.lab.bridge])
        system.sh(["ip", "-n", mesh.lab.bridge, "link", "set", f"wg-{host.name}", "master", "br1",
                   "up"])
        host.run(["ip", "link", "set", "wg0", "addrgenmode", "none"])
        host.run(["ip", "-4", "addr", "add", f"{own[V4]}/24", "dev", "wg0"])
        host.run(["ip", "-6", "addr", "add", f"{own[V6]}/64", "dev", "wg0", "nodad"])
        host.run(["ip", "link", "set", "wg0", "up"])
        for family, all_of_it in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
            host.run(["ip", family, "rule", "add", "not", "fwmark", self.MARK, "table",
                      self.TABLE])
            host.run(["ip", family, "rule", "add", "table", "main", "suppress_prefixlength", "0"])
            host.run(["ip", family, "route", "add", all_of_it, "dev", "wg0", "table", self.TABLE])
        host.sysctl("net.ipv4.conf.all.src_valid_mark", "1")
        for tool, address in (("iptables", own[V4]), ("ip6tables", own[V6])):
            note = "-m comment --comment \"wg-quick(8) rule for wg0\""
            host.run([f"{tool}-restore", "-n"], input=(
                f"*raw\n-I PREROUTING ! -i wg0 -d {address} -m addrtype ! --src-type LOCAL -j DROP"
                f" {note}\nCOMMIT\n*mangle\n-I POSTROUTING -m mark --mark {self.MARK} -p udp -j "
                f"CONNMARK --save-mark {note}\n-I PREROUTING -p udp -j CONNMARK --restore-mark "
                f"{note}\nCOMMIT\n"))


@pytest.fixture(params=["vpn-first", "agent-first"])
def vpn_mesh(request):
    """Each host's address in the VPN is one of the mesh's as well."""
    with Mesh(start=False) as mesh:
        if request.param == "vpn-first":
            mesh.vpn = Vpn(mesh)
        entries = [meshes.entry(f"vpn-{family}", text.format(2))
                   for family, text in (("4", Vpn.ADDRESSES[V4]), ("6", Vpn.ADDRESSES[V6]))]
        for host in (mesh.a, mesh.b):
            host.sysctl("net.ipv4.conf.all.rp_filter", "1")
            host.write("mesh.yaml", meshes.documents(mesh.common, *entries))
            host.start_agent()
        if request.param == "agent-first":
            mesh.vpn = Vpn(mesh)
            eventually(lambda: "10.8.0.2" in str(mesh.b.routing()), 3, what="the VPN")
        yield mesh


def test_wg_quick_takes_everything_and_the_mesh_stays_on_the_lan(vpn_mesh):
    awkward.whole_path(vpn_mesh)


def test_the_mesh_may_run_through_the_vpn(vpn_mesh):
    a, b, c, vpn = vpn_mesh.a, vpn_mesh.b, vpn_mesh.c, vpn_mesh.vpn
    declared, undeclared = awkward.servers(b)
    with declared, undeclared:
        for family in BOTH:
            to = vpn.addresses["b"][family]
            # That an address is its own a host sees within two seconds.
            eventually(lambda to=to: isinstance(answer(a, to, ECHO, CLIENT), str), 6, 0.2,
                       what=f"a tunnel to {to}")
            before = tunnelled(a), awkward.plaintext(b)
            assert answer(c, to, ECHO) == vpn.addresses["c"][family]
            assert awkward.plaintext(b) == before[1] + 1
            assert answer(a, to, ECHO, CLIENT) == vpn.addresses["a"][family]
            assert tunnelled(a) == before[0] + 1
            assert answer(a, to, UNDECLARED, CLIENT) == vpn.addresses["a"][family]
            assert answer(b, to, ECHO, OTHER) == to
