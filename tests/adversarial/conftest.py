"""Peers that attack, row by row of docs/adversarial.md; the helpers are those of tests/netns.

  MESHNODE_SCALE=1 /usr/bin/python3 -m pytest tests/adversarial      the whole amounts
"""

import importlib.util
import os
import sys

import pytest

NETNS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "netns")
sys.path.insert(0, NETNS)
_spec = importlib.util.spec_from_file_location("netns_conftest", os.path.join(NETNS, "conftest.py"))
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)
# Its fixtures and hooks hold here as they do there.
globals().update({name: value for name, value in vars(_shared).items()
                  if not name.startswith("__")})

import mesh as meshes  # noqa: E402
import traffic  # noqa: E402
from honest import MARK  # noqa: E402
from mesh import CLIENT, ECHO, WEB  # noqa: E402
from procs import eventually  # noqa: E402
from wire import Capture  # noqa: E402

# Tunnels between a and b that come and go by themselves.
OWN_DESCRIPTORS = 6


def descriptors(host):
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in host.pids())


def sanitizer_reports(host):
    """What a sanitizer has said of the agent; a plain build says nothing."""
    return [line for line in host.log().splitlines()
            if "Sanitizer" in line or "runtime error:" in line]


@pytest.fixture(scope="module")
def mesh():
    """Of what the honest client says, nothing may be read on the wire."""
    with meshes.Mesh() as made:
        honest = f"tcp and host {made.a.v4} and host {made.b.v4}"
        with Capture(made.lab, honest, octets=1600) as wire:
            yield made
        assert wire.count(b"\x17\x03\x03") > 0, "the capture shows no TLS record at all"
        assert wire.count(MARK) == 0, "an honest client's words were on the wire in plaintext"


@pytest.fixture
def unharmed(mesh):
    """After the test: the same worker, no descriptor more, still serving, healthy, and no
    sanitizer has anything to say."""
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT, text=MARK) is True
        eventually(lambda: mesh.b.status()["connections"]["active"] == 0)
        worker, before = mesh.b.worker(), descriptors(mesh.b)
        yield
        assert sanitizer_reports(mesh.a) + sanitizer_reports(mesh.b) == []
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT, text=MARK) is True
        assert mesh.b.worker() == worker, "the worker died"
        eventually(lambda: descriptors(mesh.b) <= before + OWN_DESCRIPTORS, 10,
                   what=f"as few descriptors as before, {before}")
        assert mesh.b.status()["health"] == "ok"
