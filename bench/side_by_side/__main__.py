"""Rounds: every case, every arm, the order rotated, the CPUs exchanged."""

import argparse
import os
import pwd
import shutil
import signal
import sys
import time
from pathlib import Path

from . import certificates, report
from .arms import ARMS, CLIENT_USER, SERVER_USER
from .cases import CASES
from .lab import Failed, congestion_control
from .profile import profile

MAX_STEAL = 0.05
ATTEMPTS = 3
SETTLE_SECONDS = 0.3
BENCH = Path(__file__).resolve().parent.parent


def parse():
    parser = argparse.ArgumentParser(prog="bench/run.sh")
    parser.add_argument("--work", required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--pin", choices=("hosts", "none"), default="hosts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--connections", type=int)
    parser.add_argument("--haproxy-bufsize", type=int, default=0)
    parser.add_argument("--congestion", default="plain")
    parser.add_argument("--profile", choices=("samples", "graph", "syscalls"))
    parser.add_argument("--out")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.smoke else 5)
    options.seconds = options.seconds or (0.5 if options.smoke else 4.0)
    options.warmup = 0.2 if options.smoke else 1.0
    smoke_out = BENCH.parent / "build" / "bench-smoke"
    options.out = options.out or str(smoke_out if options.smoke else BENCH)
    options.arms = options.arms.split(",")
    for arm in options.arms:
        if arm not in ARMS:
            parser.error(f"--arms: {arm}: not one of {', '.join(ARMS)}")
    options.cases = [case for case in CASES
                     if not options.case or any(case.name.startswith(c) for c in options.case)]
    if options.connections:
        options.cases = [case.with_connections(options.connections) for case in options.cases]
    if not options.cases:
        parser.error(f"--case: none of {', '.join(case.name for case in CASES)} is meant")
    return options


def cpus_of(options, number):
    """One CPU a host, exchanged every round, so that neither host keeps the better one."""
    available = sorted(os.sched_getaffinity(0))[:2]
    if options.pin == "none" or len(available) < 2:
        return (None, None)
    return tuple(available if number % 2 == 0 else reversed(available))


def rotated(arms, by):
    by %= len(arms)
    return arms[by:] + arms[:by]


def measure_set(options, case, arms, order):
    """All arms once, close together; None when the machine was taken from us meanwhile."""
    figures = {}
    for name in order:
        seconds = options.seconds * (2 if case.name == "rate" else 1)
        figures[name] = case.run(case, arms[name], options.warmup, seconds)
        time.sleep(SETTLE_SECONDS)
    stolen = max(f.steal for f in figures.values())
    return figures if options.smoke or stolen <= MAX_STEAL else None


def run_case(options, case, arms, order, number, records):
    """Records one set, repeated while steal spoils it; returns how many were discarded."""
    for attempt in range(ATTEMPTS):
        load = Path("/proc/loadavg").read_text().split()[0]
        figures = measure_set(options, case, arms, order)
        if figures is None:
            continue
        for name in order:
            figure = figures[name]
            records.append({"round": number, "case": case.name, "arm": name,
                            "values": rounded(figure.values), "steal": round(figure.steal, 4),
                            "loadavg": float(load), "raw": rounded(figure.raw)})
        summary = {name: next(iter(f.values.values())) for name, f in figures.items()}
        print(f"round {number + 1}, {case.name}: " + ", ".join(
            f"{name} {report.cell(summary[name])}" for name in options.arms), flush=True)
        return attempt
    print(f"round {number + 1}, {case.name}: discarded, steal over {MAX_STEAL:.0%}", flush=True)
    return ATTEMPTS


def rounded(values):
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}


def run_round(options, number, records):
    """A new start of every arm; returns how many sets of measurements were discarded."""
    arms = {}
    discarded = 0
    try:
        for index, name in enumerate(options.arms):
            # In place before it starts: what half started is stopped too.
            arms[name] = ARMS[name](index, options.work, cpus_of(options, number), options)
            arms[name].start()
        if options.profile:
            for case in options.cases:
                profile(case, arms[options.arms[0]], options)
            return 0
        for turn, case in enumerate(options.cases):
            order = rotated(options.arms, number + turn)
            discarded += run_case(options, case, arms, order, number, records)
    finally:
        for arm in arms.values():
            arm.stop()
    return discarded


def show_logs(work):
    for log in sorted((Path(work) / "logs").glob("*.log")):
        tail = log.read_text(errors="replace").splitlines()[-15:]
        if tail:
            print(f"--- {log.name}\n" + "\n".join(tail), file=sys.stderr)


def describe(options, discarded, began):
    about = report.machine()
    pin = ("one CPU a host (client side on one, server side on the other, exchanged every round)"
           if cpus_of(options, 0)[0] is not None else "none")
    lines = [f"{key}: {value}" for key, value in about.items()]
    lines += [f"pinning: {pin}", f"measured seconds a case: {options.seconds:g} (rate: twice)",
              "TCP congestion control: "
              f"{congestion_control(options.congestion)} (the machine's own: "
              f"{congestion_control('machine')})",
              f"haproxy tune.bufsize: {options.haproxy_bufsize or '16384 (default)'}",
              f"sets discarded for steal over {MAX_STEAL:.0%}: {discarded}",
              f"load average when it began: {began}"]
    settings = {"machine": about, "pin": options.pin,
                "congestion": congestion_control(options.congestion), "seconds": options.seconds,
                "warmup": options.warmup, "rounds": options.rounds, "discarded": discarded}
    return lines, settings


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = parse()
    for user in (CLIENT_USER, SERVER_USER):
        pwd.getpwnam(user)
    records = []
    discarded = 0
    began = " ".join(Path("/proc/loadavg").read_text().split()[:3])
    try:
        certificates.make(Path(options.work) / "certificates")
        if options.profile:
            run_round(options, 0, records)
            return 0
        for number in range(options.rounds):
            discarded += run_round(options, number, records)
            for name in options.arms:
                shutil.rmtree(Path(options.work) / name, ignore_errors=True)
    except Failed as error:
        show_logs(options.work)
        print(f"bench/run.sh: {error}", file=sys.stderr)
        return 1
    lines, settings = describe(options, discarded, began)
    print(report.write(options.out, records, options.arms, options.rounds, lines, settings))
    return 0


sys.exit(main())
