"""What goes wrong in the soak, when and for whom: drawn from seeded dice, done with iptables and
signals. A failed connection is excused by a fault of its own two hosts only."""

import contextlib
import os
import signal
import time

import programs
from mesh import CLIENT, SECOND
from programs import LATE

# Seconds after a fault's end from which new connections must succeed. What TCP has in flight comes
# again at the end of a pause that has doubled each time, so at the latest after as long as the
# fault took; by then the ping has given up a tunnel that heard nothing (10 s and 20 s).
SETTLED = {"loss": 15, "stopped": 10, "killed worker": 5, "tunnels reset": 10, "no way": 15,
           "killed programs": float("-inf")}  # excuses nothing
PING_GIVES_UP = 30
LONGER_THAN_TIMERS = PING_GIVES_UP + 2
STORE = 4103


class Fault:
    """Concerns two hosts' way to each other, or one host and whoever talks to it."""

    def __init__(self, kind, hosts, detail=""):
        self.kind, self.hosts, self.detail = kind, frozenset(hosts), detail
        self.begun, self.ended = time.monotonic(), None
        self.longest = 0.0  # seconds from its end until the last began that only it excuses

    def __str__(self):
        return f"{self.kind} {'-'.join(sorted(self.hosts))}{self.detail}"

    def settled(self):
        """When new connections must succeed again."""
        if self.ended is None:
            return float("inf")
        took = self.ended - self.begun
        backoff = min(took, PING_GIVES_UP) if self.kind == "no way" else 0
        return self.ended + SETTLED[self.kind] + backoff

    def excuses(self, ends, begun, ended):
        """Whether a connection between `ends`, of which it had begun and ended, may have failed."""
        concerned = self.hosts & ends if len(self.hosts) == 1 else self.hosts == ends
        if not concerned or ended < self.begun or begun > self.settled():
            return False
        return True


class Faults:
    """`hosts` by name; the agents of `agents` are stopped, the workers of `mortal` killed."""

    def __init__(self, hosts, agents, mortal, dice):
        self.hosts, self.agents, self.mortal, self.dice = hosts, agents, mortal, dice
        self.past = []
        self._deck = []
        self._running = []  # (when it ends, its fault, what ends it)
        self._due = []      # (when it begins, for how long, kind)
        self._long = 0

    # -- the schedule -----------------------------------------------------------------------------

    def plan(self, seconds, outlasting):
        """For a load phase of so long, from now on; with a fault that outlasts the tunnels' timers,
        beside which the others come and go."""
        now = time.monotonic()
        if outlasting:
            kind = ("no way", "stopped")[self._long % 2]
            self._long += 1
            self._due.append((now + 0.5, LONGER_THAN_TIMERS, kind))
        at = now + self.dice.uniform(0.5, 1.5)
        while at < now + seconds - 2:
            if not self._deck:
                self._deck = self.dice.sample(sorted(SETTLED), len(SETTLED))
            lasts = self.dice.uniform(1.5, 6)
            self._due.append((at, lasts, self._deck.pop()))
            at += lasts + self.dice.uniform(0.5, 5)
        self._due.sort()

    def step(self):
        """Begins and ends what is due."""
        for entry in [entry for entry in self._running if entry[0] <= time.monotonic()]:
            self._end(entry)
        while self._due and self._due[0][0] <= time.monotonic():
            _, lasts, kind = self._due.pop(0)
            self._begin(kind, lasts)

    def end(self):
        self._due = []
        for entry in list(self._running):
            self._end(entry)

    def stopped(self, name):
        """Its agent is, or was a moment ago."""
        return any(fault.kind == "stopped" and name in fault.hosts and
                   (fault.ended is None or fault.ended + LATE > time.monotonic())
                   for fault in self.past)

    def concern(self, name):
        """Whether a host's connections may still feel a fault; its peer's, too."""
        return any((name in fault.hosts or len(fault.hosts) == 1) and
                   fault.settled() > time.monotonic() for fault in self.past)

    def excuse(self, ends, begun, ended):
        excuses = [fault for fault in self.past if fault.excuses(ends, begun, ended)]
        if len(excuses) == 1 and excuses[0].ended is not None:
            excuses[0].longest = max(excuses[0].longest, begun - excuses[0].ended)
        return bool(excuses)

    def _begin(self, kind, lasts):
        free = set(self.agents) - {name for _, fault, _ in self._running if fault.kind == "stopped"
                                   for name in fault.hosts}
        if kind == "stopped":
            hosts = [self.dice.choice(sorted(free))]
        elif kind == "killed worker":
            hosts = [self.mortal]
        else:
            hosts = self.dice.sample(sorted(self.agents if kind in ("tunnels reset",
                                     "killed programs") else self.hosts), 2)
        make = {"loss": self._loss, "no way": self._no_way, "tunnels reset": self._reset,
                "stopped": self._stop, "killed worker": self._kill,
                "killed programs": self._programs}[kind]
        fault = Fault(kind, hosts)
        self.past.append(fault)
        ends = make(fault, *(self.hosts[name] for name in hosts))
        self._running.append((fault.begun + (lasts if ends else 0), fault, ends))

    def _end(self, entry):
        _, fault, ends = entry
        self._running.remove(entry)
        if ends:
            ends()
        fault.ended = time.monotonic()

    # -- what is done -----------------------------------------------------------------------------

    def _rules(self, *hosts, table, chain, rule):
        """A rule at each of two hosts, for what comes from the other; what takes them out."""
        added = []
        for host, other in (hosts, hosts[::-1]):
            for tool, source in (("iptables", other.v4), ("ip6tables", other.v6)):
                words = [chain, "-i", "eth0", "-s", source, *rule]
                host.run([tool, "-w", "-t", table, "-A", *words])
                added.append((host, [tool, "-w", "-t", table, "-D", *words]))

        def remove():
            for host, argv in added:
                host.run(argv)

        return remove

    def _drop(self, *hosts, extra=()):
        return self._rules(*hosts, table="raw", chain="PREROUTING", rule=[*extra, "-j", "DROP"])

    def _loss(self, fault, *hosts):
        percent = self.dice.randint(1, 20)
        fault.detail = f" {percent} %"
        return self._drop(*hosts, extra=["-m", "statistic", "--mode", "random", "--probability",
                                         f"{percent / 100}"])

    def _no_way(self, _, *hosts):
        return self._drop(*hosts)

    def _reset(self, _, *hosts):
        return self._rules(*hosts, table="filter", chain="INPUT", rule=[
            "-p", "tcp", "--dport", "15008", "-j", "REJECT", "--reject-with", "tcp-reset"])

    def _stop(self, _, host):
        pids = host.pids()  # the supervisor first: what it cannot look at it does not judge
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

        def go_on():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        return go_on

    def _kill(self, _, host):
        for pid in host.workers():
            os.kill(pid, signal.SIGKILL)

    def _programs(self, _, caller, callee):
        """A program's end is the kernel's to tell: nobody else's connections may notice."""
        with contextlib.ExitStack() as running:
            children = [callee.serve(programs.swallow, SECOND, uid=STORE)]
            running.callback(children[0].stop)
            with contextlib.suppress(OSError, AssertionError):
                children.append(caller.serve(programs.pour, callee.v4, SECOND, uid=CLIENT))
                running.callback(children[1].stop)
            time.sleep(self.dice.uniform(0.2, 0.6))
            for child in self.dice.sample(children, len(children)):
                child.stop()
