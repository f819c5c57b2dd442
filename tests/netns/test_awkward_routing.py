"""Hosts whose routing is not a plain one: reverse path filters, VPNs, missing families, missing
routes."""

import awkward
import pytest
from mesh import Mesh


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
    awkward.whole_path(mesh, (awkward.V4,))
