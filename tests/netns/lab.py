"""A lab of hosts: each a network namespace on a bridge that lives in a namespace of its own.

Nothing touches the machine's own network. Whatever a lab makes, close() removes, and then it
checks that nothing is left.
"""

import os
import shutil
import signal
import tempfile
import time

from host import Host
from procs import eventually
from system import cgroup2_mount, processes_in, sh


class Lab:
    """`names` become hosts .1, .2, ... in that order, as attributes of the lab."""

    def __init__(self, *names):
        self.prefix = f"mn{os.getpid() % 100000}x{_next_number()}-"
        self.directory = tempfile.mkdtemp(prefix="mn-")
        os.chmod(self.directory, 0o755)
        self.namespaces = []
        self.cgroups = []
        self.hosts = {}
        self.bridge = f"{self.prefix}br"
        try:
            sh(["ip", "netns", "add", self.bridge])
            self.namespaces.append(self.bridge)
            sh(["ip", "-n", self.bridge, "link", "add", "br0", "type", "bridge"])
            sh(["ip", "-n", self.bridge, "link", "set", "br0", "up"])
            for index, name in enumerate(names, 1):
                host = Host(self, name, index)
                self.hosts[name] = host
                setattr(self, name, host)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def cgroup(self, name):
        """Makes a cgroup; the path on disk and the one below the mount."""
        below = f"{self.prefix}{name}"
        path = os.path.join(cgroup2_mount(), below)
        os.makedirs(path, exist_ok=True)
        if path not in self.cgroups:
            self.cgroups.append(path)
        return path, below

    def close(self):
        left = []
        for host in self.hosts.values():
            if host._agent is not None:
                host.kill_agent()
        # A helper program of a killed agent, like iptables-restore, may need a moment to end.
        deadline = time.monotonic() + 3
        while processes_in(self.namespaces) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid, namespace, command in processes_in(self.namespaces):
            left.append(f"process {pid} ({command}) in {namespace}")
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for path in reversed(self.cgroups):
            eventually(lambda path=path: _remove_cgroup(path), 5, what=f"removal of {path}")
        for namespace in reversed(self.namespaces):
            sh(["ip", "netns", "del", namespace], check=False)
            if os.path.exists(f"/run/netns/{namespace}"):
                left.append(f"namespace {namespace}")
        self.namespaces = []
        if os.environ.get("MESHNODE_KEEP_LOGS"):
            kept = f"/tmp/meshnode-logs-{self.prefix}"
            os.makedirs(kept, exist_ok=True)
            for name, host in self.hosts.items():
                if os.path.exists(host.log_path):
                    shutil.copy(host.log_path, os.path.join(kept, f"{name}.log"))
        shutil.rmtree(self.directory, ignore_errors=True)
        if os.path.exists(self.directory):
            left.append(self.directory)
        assert not left, "left behind: " + "; ".join(left)


_numbers = 0


def _next_number():
    global _numbers
    _numbers += 1
    return _numbers


def _remove_cgroup(path):
    if os.path.isdir(path):
        for root, directories, _ in os.walk(path, topdown=False):
            for directory in directories:
                os.rmdir(os.path.join(root, directory))
        os.rmdir(path)
    return True
