"""Watches an arm's proxies with perf or strace while one case runs."""

import signal
import subprocess
import threading
import time
from pathlib import Path

from .lab import Failed, command, cpu_seconds, family

FREQUENCY = "999"
SMALLEST_PERCENT = "0.7"


class Watch:
    """One host's proxy under perf or strace."""

    def __init__(self, mode, host, process, work):
        self.mode = mode
        self.host = host
        self.process = process
        self.pids = []
        self.file = Path(work) / f"{host.name}.{mode}"
        self.tool = None

    def begin(self):
        self.pids = family(self.process.pid)
        if self.mode == "syscalls":
            # strace slows what it watches: only the process that moves the bytes.
            self.pids = [max(self.pids, key=lambda pid: cpu_seconds([pid]))]
            argv = ["strace", "-f", "-c", "-S", "calls", "-o", str(self.file)]
            argv += [word for pid in self.pids for word in ("-p", str(pid))]
        else:
            # cpu-clock: virtual machines often have no hardware counters.
            argv = ["perf", "record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "-N", "-B",
                    "-o", str(self.file), "-p", ",".join(map(str, self.pids))]
            argv += ["-g"] if self.mode == "graph" else []
        self.tool = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                     text=True)

    def end(self):
        self.tool.send_signal(signal.SIGINT)
        errors = self.tool.communicate(timeout=60)[1]
        if not self.file.exists() or self.file.stat().st_size == 0:
            raise Failed(f"{self.host.name}: nothing recorded: {errors.strip()}")

    def show(self):
        print(f"\n== {self.host.name} (processes {', '.join(map(str, self.pids))})")
        if self.mode == "syscalls":
            print(self.file.read_text())
            return
        for sort in ("dso", "dso,symbol"):
            if self.mode == "graph" and sort == "dso":
                continue
            text = command("perf", "report", "-i", str(self.file), "--stdio", "--no-children", "-q",
                           "--percent-limit", SMALLEST_PERCENT, "--sort", sort)
            lines = [line.rstrip(" -") for line in text.splitlines()]
            print("\n".join(line for line in lines if line) + "\n")


def profile(case, arm, options):
    """Prints a report for each host; the case itself runs in a thread, with its usual warm-up."""
    outcome = {}

    def run():
        try:
            outcome["figures"] = case.run(case, arm, options.warmup, options.seconds + 1)
        except Failed as error:
            outcome["error"] = error

    watches = [Watch(options.profile, host, process, options.work)
               for host, process in zip(arm.hosts[:len(arm.proxies)], proxies_by_host(arm))]
    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(options.warmup + 0.3)
    for watch in watches:
        watch.begin()
    time.sleep(options.seconds)
    for watch in watches:
        watch.end()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    for watch in watches:
        watch.show()
    print(f"{case.name} under observation: {outcome['figures'].values}")
    print(f"in its {options.seconds + 1:g} s: {outcome['figures'].raw}")


def proxies_by_host(arm):
    """The proxy of each host, in the hosts' order."""
    return [process for host in arm.hosts for process in host.processes if process in arm.proxies]
