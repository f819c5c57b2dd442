"""What the tests need to know of the machine, and of how they are run."""

import mmap
import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("MESHNODE_BIN", os.path.join(ROOT, "build/release/meshnode"))
SCALE = float(os.environ.get("MESHNODE_SCALE", "0.03"))
PYTHON = "/usr/bin/python3"
TRUST_DOMAIN = "lab.example"


def _sanitized():
    with open(BINARY, "rb") as program, mmap.mmap(
            program.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        return octets.find(b"__asan_init") >= 0


# Its memory and its speed say nothing of the product.
SANITIZED = os.path.exists(BINARY) and _sanitized()


def scaled(count, least=1):
    """A stated count, cut down by MESHNODE_SCALE."""
    return max(least, int(count * SCALE))


def sh(argv, check=True, **kwargs):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=kwargs.pop("timeout", 60), **kwargs)
    if check and done.returncode != 0:
        raise AssertionError(
            f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def cgroup2_mount():
    with open("/proc/mounts") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == "cgroup2":
                return fields[1]
    raise RuntimeError("no cgroup2 mount in /proc/mounts")


def start_time(pid):
    """Tells two processes with one pid apart; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def children_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            return [int(word) for word in children.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_worker(pid, path):
    """A child that is about to become iptables is of the same program for a moment."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as words:
            return (os.path.samefile(f"/proc/{pid}/exe", path)
                    and words.read().split(b"\0")[1:2] == [b"worker"])
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_in(namespaces):
    inodes = {}
    for name in namespaces:
        try:
            inodes[os.stat(f"/run/netns/{name}").st_ino] = name
        except FileNotFoundError:
            pass
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                inode = os.stat(f"/proc/{entry}/ns/net").st_ino
                with open(f"/proc/{entry}/comm") as comm:
                    command = comm.read().strip()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if inode in inodes:
                found.append((int(entry), inodes[inode], command))
    return found
