"""Mixed load with faults for an hour: nothing leaks, nothing is stuck, nothing arrives but what was
sent, and what was not touched by a fault does not fail.

Load phases with faults alternate with samples: the faults are taken away, the programs end, and
once the agents have nothing left they are looked at, each time in the same state. MESHNODE_SEED
repeats a run's choices. The agents' configurable timers are shortened so that each is met often.
"""

import os
import random
import re
import shutil
import statistics
import time

import mesh as meshes
import pki
import programs
import pytest
import system
from faults import LONGER_THAN_TIMERS, PING_GIVES_UP, STORE, Faults
from lab import Lab
from mesh import CLIENT, CLOSED, ECHO, OTHER, SECOND, WEB, by_user, documents, entry, workload
from procs import eventually
from programs import HALF_CLOSED, LATE, PATIENCE
from system import SCALE

HOUR = 3600
SECONDS = HOUR * SCALE
CONNECT = 3
IDLE_TUNNEL = 3
PROXY = (f"{{connectTimeout: {CONNECT}s, halfClosedTimeout: {HALF_CLOSED}s, "
         f"idleTunnelTimeout: {IDLE_TUNNEL}s}}")
LOAD = min(30, max(7, SECONDS / 80))  # seconds of a load phase
OUTLASTING = LONGER_THAN_TIMERS + 1   # of one with a fault longer than the tunnels' timers
EVERY = 4                             # one in so many is such a one
GOODBYE = 20                          # seconds until one that is not read is given up
# What has lost its peer unheard is given up by the ping, or as it says goodbye.
DRAINED = PING_GIVES_UP + GOODBYE
# The agent looks every two seconds for what a burst has left free, and twice if it saw the middle.
MEMORY_RETURNED = 4.5
A_SAMPLE = 11                         # seconds that draining and sampling take, mostly
HOURLY_KIB = 1024                     # KiB an hour
SHORT_KIB = 2048                      # KiB in all, of a run shorter than that
# Linux's own, which begin where the agents' for a preserved address end (io/source_port.h).
PORTS = "32768 60999"
AGENTS, MORTAL = ("a", "b", "c"), "c"
TOLD_OF_FAULTS = {"tunnel-failed", "worker-restarted", "peer-refused", "limit-reached"}


@pytest.fixture
def dice():
    seed = int(os.environ.get("MESHNODE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"MESHNODE_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def lab():
    """a, b and c run the same workloads, each as caller and callee; s is a stranger without an
    agent. With a binary of their own, whose pages no other test's agents share."""
    with Lab(*AGENTS, "s") as made:
        authority = pki.Authority(os.path.join(made.directory, "ca"))
        binary = shutil.copy(system.BINARY, made.directory)
        agents = [made.hosts[name] for name in AGENTS]
        made.s.sysctl("net.ipv4.ip_local_port_range", PORTS)
        everybody = documents(*(
            entry(f"{app}-{host.name}-{family}", address, ports, app=app, account=app)
            for host in agents for family, address in ((4, host.v4), (6, host.v6))
            for app, ports in (("web", [ECHO, CLOSED]), ("store", [SECOND]))))
        for host in agents:
            host.binary = binary
            host.sysctl("net.ipv4.ip_local_port_range", PORTS)
            meshes.enrol(host, authority,
                         workload("web", by_user(WEB), [ECHO, CLOSED], default="true"),
                         workload("store", by_user(STORE), [SECOND]),
                         workload("client", by_user(CLIENT)),
                         accounts=("web", "store", "client"), proxy=PROXY)
            host.write("mesh.yaml", everybody)
            host.start_agent()
        yield made


class Watch:
    """Ages of the agents' sockets, as the kernel tells them, against the agents' timers."""

    def __init__(self):
        self.dialling = {}

    def look(self, host, disturbed):
        """What is older than its timer. `disturbed`: something of it may wait for a peer that no
        longer hears, which is the ping's to find out, and does not count as silent."""
        now, stuck, dialling = time.monotonic(), [], {}
        for state, sending, near, far, text in sockets_of(host):
            heard, said = (_seconds_since(what, text) for what in ("lastrcv", "lastsnd"))
            tunnel = "15008" in (near.rsplit(":", 1)[1], far.rsplit(":", 1)[1])
            if state == "SYN-SENT":
                age = now - dialling.setdefault((near, far), self.dialling.get(
                    (host.name, near, far), now))
                most = CONNECT
            elif tunnel:
                age = heard
                most = PING_GIVES_UP + (0 if state == "ESTAB" else GOODBYE)
            elif state in ("CLOSE-WAIT", "FIN-WAIT-2") and not sending:
                age = min(heard, said)
                most = PING_GIVES_UP if disturbed else HALF_CLOSED
            else:
                continue
            if age > most + LATE:
                stuck.append(f"{host.name}: {state} {near} {far} for {age:.0f} s, not {most}")
        self.dialling = {key: value for key, value in self.dialling.items() if key[0] != host.name}
        self.dialling.update({(host.name, *key): value for key, value in dialling.items()})
        return stuck


def _seconds_since(what, text):
    found = re.search(rf"\b{what}:(\d+)", text)
    return int(found.group(1)) / 1000 if found else 0.0


def sockets_of(host):
    """[(state, octets to send, near, far, all of it)] of what the agent's processes hold."""
    listed = host.run(["ss", "-HtnpiOa", "state", "connected"]).stdout.splitlines()
    found = []
    for line in listed:
        if "meshnode" in line:
            state, _, sending, near, far = line.split()[:5]
            found.append((state, int(sending), near, far, line))
    return found


def pss_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return int(re.search(r"^Pss:\s+(\d+) kB", rollup.read(), re.M).group(1))


def open_descriptors(pid):
    """The least of three looks: while the supervisor runs a tool it has pipes to it."""
    counts = []
    for _ in range(3):
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.2)
    return min(counts)


def theil_sen(points):
    """KiB an hour: the median of the slopes between any two."""
    return statistics.median((later[1] - one[1]) / (later[0] - one[0]) * HOUR
                             for at, one in enumerate(points) for later in points[at + 1:])


class Soak:
    def __init__(self, lab, dice):
        self.lab, self.hosts, self.dice = lab, lab.hosts, dice
        self.agents = [lab.hosts[name] for name in AGENTS]
        self.faults = Faults(self.hosts, AGENTS, MORTAL, dice)
        self.watch = Watch()
        self.wrong = []
        self.memory = {}       # process: [(when, KiB)]
        self.descriptors = {}  # process: of each sample
        self.done = {}         # (from, to, kind): completed connections
        self.failures = 0
        self.drained = []
        self.workers = {host.name: host.worker() for host in self.agents}
        self.servers = [host.serve(programs.server, uid=WEB) for host in self.agents]
        targets = {host.name: (host.v4, host.v6) for host in self.agents}
        self.callers = {name: host.serve(programs.caller, targets, dice.getrandbits(60),
                                         uid=OTHER if name == "s" else CLIENT)
                        for name, host in self.hosts.items()}
        self.began = time.monotonic()

    def close(self):
        for child in (*self.callers.values(), *self.servers):
            child.stop()

    def tell(self, what, *things):
        print(f"{time.monotonic() - self.began:6.0f} s  {what}", *things, flush=True)

    def complain(self, what):
        self.wrong.append(what)
        self.tell("WRONG:", what)

    def tell_callers(self, what, **arguments):
        """Their answers by host; with arguments, only those who are given one."""
        told = {name: child for name, child in self.callers.items() if name in (arguments or
                                                                               self.callers)}
        for name, child in told.items():
            child.send((what, *([arguments[name]] if arguments else [])))
        return {name: child.event(4 * PATIENCE) for name, child in told.items()}

    # -- load -------------------------------------------------------------------------------------

    def load(self, seconds, outlasting):
        first = len(self.faults.past)
        self.tell_callers("begin")
        self.faults.plan(seconds, outlasting)
        until, look = time.monotonic() + seconds, 0.0
        while time.monotonic() < until:
            self.faults.step()
            if time.monotonic() >= look:
                for host in self.agents:
                    if not self.faults.stopped(host.name):
                        for stuck in self.watch.look(host, self.faults.concern(host.name)):
                            self.complain(stuck)
                look = time.monotonic() + 2
            time.sleep(0.1)
        self.faults.end()
        for name, answer in self.tell_callers("end").items():
            self.judge(name, *answer)
        for child in self.servers:
            for broken in child.drain_events():
                self.complain(broken)
        self.tell("faults:", "; ".join(map(str, self.faults.past[first:])))

    def judge(self, name, done, failed, broken):
        for (to, kind), count in done.items():
            self.done[name, to, kind] = self.done.get((name, to, kind), 0) + count
        for what in broken:
            self.complain(f"{name}: {what}")
        self.failures += len(failed)
        for begun, ended, to, kind, error in failed:
            if not self.faults.excuse({name, to}, begun, ended):
                self.complain(f"{kind} from {name} to {to} failed without a fault: {error}, "
                              f"{begun - self.began:.1f} to {ended - self.began:.1f} s")

    # -- samples ----------------------------------------------------------------------------------

    def sample(self):
        begun = time.monotonic()
        for host in self.agents:
            left = DRAINED - (time.monotonic() - begun)
            try:
                eventually(lambda host=host: nothing_left(host), max(left, LATE), 0.1,
                           what=f"{host.name}: the end of everything")
            except AssertionError as error:
                self.complain(f"{error}: {sockets_of(host)}")
        self.drained.append(time.monotonic() - begun)
        # What the allocator keeps of a load phase differs: so that it does not count, the same
        # burst ends every phase, after which the agents give it back.
        for name in AGENTS:
            for wrong in self.tell_callers("burst", s=name)["s"]:
                self.complain(wrong)
        time.sleep(MEMORY_RETURNED)
        self.look_at_processes()
        self.tell(f"drained in {self.drained[-1]:.1f} s, {sum(self.done.values())} done, "
                  f"{self.failures} failed")

    def look_at_processes(self):
        shown = []
        for host in self.agents:
            worker = host.worker()
            if host.name != MORTAL and worker != self.workers[host.name]:
                self.complain(f"{host.name}: the worker is another one")
            shown.append(f"{host.name}:")
            for what, pid in (("supervisor", host.supervisor), (f"worker {worker}", worker)):
                key = f"{host.name} {what}"
                kib, count = pss_kib(pid), open_descriptors(pid)
                self.memory.setdefault(key, []).append((time.monotonic(), kib))
                self.descriptors.setdefault(key, []).append(count)
                shown.append(f"{kib} KiB {count} fds")
            for name in ("bypassed", "repaired"):
                counted = host.metric_sum(f"meshnode_capture_{name}_total")
                shown.append(f"{name} {counted:.0f}")
        for host in self.agents:
            problems = host.status()["problems"]
            if not {problem["code"] for problem in problems} <= TOLD_OF_FAULTS:
                self.complain(f"{host.name}: {problems}")
        self.tell(*shown)

    # -- the end ----------------------------------------------------------------------------------

    def check_growth(self):
        """Both processes of the hosts whose workers live on, and the supervisor of the others.

        An hour: less than 1 MiB. Shorter runs cannot tell that from the noise of single samples,
        which differ by a MiB: there it is 2 MiB in all, less than what the 600 connections take if
        they are never freed that an agent carries in one load phase of the shortest run.
        """
        for host in self.agents:
            series = [self.memory[f"{host.name} supervisor"]]
            if host.name != MORTAL:
                series.append(self.memory[f"{host.name} worker {self.workers[host.name]}"])
            points = [(of_all[0][0], sum(kib for _, kib in of_all)) for of_all in zip(*series)]
            points = points[max(1, len(points) // 6):]
            slope, span = theil_sen(points), points[-1][0] - points[0][0]
            allowed = HOURLY_KIB if SCALE >= 1 else SHORT_KIB * HOUR / span
            self.tell(f"{host.name}: {slope:.0f} KiB/h, {slope * span / HOUR:.0f} KiB in "
                      f"{span:.0f} s of {len(points)} samples")
            if slope >= allowed:
                self.complain(f"{host.name} grows by {slope:.0f} KiB/h: {points}")

    def check_descriptors(self):
        for process, counts in self.descriptors.items():
            if max(counts) > counts[0]:
                self.complain(f"{process}: descriptors {counts}")

    def check_everything_was_tried(self):
        kinds = [programs.short, *(kind for kind, _, _ in programs.KINDS)]
        never = [(name, kind.__name__) for name in self.hosts for kind in kinds
                 if not any(self.done.get((name, to, kind.__name__)) for to in AGENTS)]
        assert not never, f"not once completed: {never}"

    def check_end(self):
        """SIGTERM, and nothing is left."""
        for host in self.agents:
            assert host.stop_agent() == 0
            assert "MESHNODE" not in host.rules()
            assert sockets_of(host) == [] and host.leftover_agents() == []

    def figures(self):
        self.tell(f"{sum(self.done.values())} connections, {self.failures} more failed under "
                  f"{len(self.faults.past)} faults; drained in {max(self.drained):.1f} s at most")
        for kind in sorted({fault.kind for fault in self.faults.past}):
            longest = max(fault.longest for fault in self.faults.past if fault.kind == kind)
            self.tell(f"{kind}: the last failed connection began {longest:.1f} s after its end")


def nothing_left(host):
    held = sockets_of(host)
    assert held == [], held
    values = {name: host.metric_sum(name) for name in ("istio_tcp_sockets_open",
                                                       "meshnode_tunnels")}
    assert set(values.values()) == {0}, values
    return True


def test_mixed_load_with_faults_leaves_nothing_behind(lab, dice):
    soak = Soak(lab, dice)
    try:
        soak.look_at_processes()
        for number in range(1_000):
            outlasting = number % EVERY == 0
            soak.load(max(LOAD, OUTLASTING) if outlasting else LOAD, outlasting)
            soak.sample()
            if number and time.monotonic() - soak.began + LOAD + A_SAMPLE > SECONDS:
                break
        soak.figures()
        soak.check_growth()
        soak.check_descriptors()
        soak.check_everything_was_tried()
        assert soak.wrong == []
        soak.check_end()
    finally:
        soak.close()
