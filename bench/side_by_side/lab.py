"""Two hosts as network namespaces, and the processes on them."""

import os
import pwd
import signal
import subprocess
from pathlib import Path

NETNS = Path("/run/netns")
STOP_SECONDS = 10
NICE = -15


class Failed(Exception):
    """An arm or a tool did not do its part; the message says which and where to look."""


def command(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Host:
    """A network namespace, the CPU its processes are bound to (None: any), and its processes."""

    def __init__(self, name, address, cpu, logs, congestion):
        self.name = name
        self.address = address
        self.cpu = cpu
        self.logs = Path(logs)
        self.processes = []
        command("ip", "netns", "add", name)
        self.run("ip", "link", "set", "lo", "up")
        # Short connections by the thousand must not run out of ports before the case ends.
        self.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=20000 65000",
                 "net.ipv4.tcp_tw_reuse=1",
                 f"net.ipv4.tcp_congestion_control={congestion}",
                 "net.ipv6.conf.default.accept_dad=0")

    def prefix(self, user=None, bound=True):
        # Ahead of what else runs on the machine, all arms alike.
        argv = ["nsenter", f"--net={NETNS / self.name}", "nice", "-n", str(NICE)]
        if bound and self.cpu is not None:
            argv += ["taskset", "-c", str(self.cpu)]
        if user is not None:
            entry = pwd.getpwnam(user)
            argv += ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}",
                     "--clear-groups"]
        return argv

    def run(self, *argv):
        return command(*self.prefix(), *argv)

    def start(self, label, *argv, user=None, stdin=None, stdout=None, env=None):
        """Starts a process that lives until stop(); its output goes to a log of its own."""
        log = open(self.logs / f"{self.name}-{label}.log", "ab")
        process = subprocess.Popen(
            [*self.prefix(user), *argv], stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or log, stderr=log, env={**os.environ, **(env or {})},
            start_new_session=True)
        log.close()
        process.label = label
        self.processes.append(process)
        return process

    def check(self):
        for process in self.processes:
            if process.poll() is not None:
                raise Failed(f"{self.name}: {process.label} ended with {process.returncode}")

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                for pid in family(process.pid):
                    os.kill(pid, signal.SIGKILL)
                process.wait()
        self.processes = []
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


def connect(left, right):
    """A veth pair between two hosts, as eth0 on both."""
    command("ip", "-n", left.name, "link", "add", "eth0", "type", "veth",
            "peer", "name", "eth0", "netns", right.name)
    for host in (left, right):
        command("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
        command("ip", "-n", host.name, "link", "set", "eth0", "up")


def family(pid):
    """A process and its descendants of the same program, the eldest first; none when it is gone.
    Programs that an agent runs for a moment, as iptables-save, are not there to be watched."""
    pids = []
    waiting = [pid]
    while waiting:
        one = waiting.pop(0)
        try:
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            if os.readlink(f"/proc/{one}/exe") != os.readlink(f"/proc/{pid}/exe"):
                continue
        except OSError:
            continue
        pids.append(one)
        for task in tasks:
            try:
                waiting += [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                continue
    return pids


def pss_bytes(pids):
    """Proportional set size: shared pages are divided among those that share them."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def cpu_seconds(pids):
    """User and system time of all threads these processes ever had, and of their ended children."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def congestion_control(wanted):
    """What the hosts use: `wanted`, or for "plain" the machine's own unless that paces (bbr). A new
    namespace takes only the machine's own, and reno, which every kernel allows."""
    own = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    if wanted == "plain":
        return own if own in ("cubic", "reno") else "reno"
    return own if wanted == "machine" else wanted


def machine_ticks():
    """(steal, total) of all CPUs since boot, in ticks."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)
