"""Whole hosts as network namespaces, real iptables, real programs. Needs root.

  /usr/bin/python3 -m pytest tests/netns                      the quick slice
  MESHNODE_SCALE=1 /usr/bin/python3 -m pytest tests/netns     every stated count in full
MESHNODE_BIN names the binary, MESHNODE_REPEAT=2 runs each test twice in a row, and
MESHNODE_KEEP_LOGS=1 keeps the agents' logs in /tmp/meshnode-logs-*.
"""

import glob
import os
import signal
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import mesh as meshes  # noqa: E402
import system  # noqa: E402


def pytest_configure(config):
    # A watchdog's SIGTERM ends the run as Ctrl-C does: what was made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "full: takes minutes; runs with MESHNODE_SCALE=1 only")
    if os.geteuid() != 0:
        raise pytest.UsageError("tests/netns: needs root, for network namespaces; run it with sudo")


def pytest_collection_modifyitems(items):
    if system.SCALE < 1:
        skip = pytest.mark.skip(reason="MESHNODE_SCALE is below 1")
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(skip)


def pytest_generate_tests(metafunc):
    repeat = int(os.environ.get("MESHNODE_REPEAT", "1"))
    if repeat > 1:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(repeat))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of the log of each agent it used."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            for host in getattr(getattr(value, "lab", value), "hosts", {}).values():
                if host.log():
                    report.sections.append((f"agent log of {host.name}", host.log()[-5000:]))


@pytest.fixture(scope="session", autouse=True)
def nothing_left():
    yield
    prefix = f"/run/netns/mn{os.getpid() % 100000}x"
    assert not glob.glob(prefix + "*"), "a lab was not closed"


@pytest.fixture(scope="module")
def mesh():
    with meshes.Mesh() as made:
        yield made


@pytest.fixture
def own_mesh():
    """A mesh of the test's own, for those that break things."""
    with meshes.Mesh() as made:
        yield made
