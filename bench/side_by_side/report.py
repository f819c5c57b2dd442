"""Medians, ratios, and the two files that keep them."""

import json
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path

from .cases import CASES

LEGEND = """
Medians of {rounds} interleaved rounds. The last column is the median over rounds of meshnode divided by
HAProxy in the same round. More is better for `Gbit/s` and `requests/s` (a ratio above 1 favours
meshnode); less is better for everything else (a ratio below 1 does). `proxies` is user and system time
of all proxy processes of both hosts, `machine` is everything the machine did, softirq, origin and
generator included. `added` is the difference from direct in the same round. How it was measured, and
what is and isn't alike: [README.md](README.md).
"""

# What meshnode is to reach: the start of a metric's name, whether its figure or its ratio to
# HAProxy counts, and the bound.
TARGETS = [
    ("Gbit/s", "ratio", "at least", 1.25),
    ("CPU s, proxies, per", "ratio", "at most", 0.75),
    ("p50 ms, added", "ratio", "at most", 0.75),
    ("p90 ms, added", "ratio", "at most", 0.75),
    ("PSS MiB a host, before", "figure", "at most", 11.44),  # 12 MB
    ("PSS KiB a connection", "figure", "at most", 32),
]
MISSED = """
Why a missed one is missed, by profile and arithmetic:
[decision 0012](../docs/decisions/0012-what-a-user-space-pair-can-reach.md).
"""


def collect(records):
    """{(case, metric): {arm: [value a round]}}, rounds in step across arms."""
    table = {}
    for record in records:
        for metric, value in record["values"].items():
            row = table.setdefault((record["case"], metric), {})
            row.setdefault(record["arm"], {})[record["round"]] = value
    return table


def with_added(table):
    """A row of latency differences from direct under each keep-alive latency row."""
    out = {}
    for (case, metric), row in table.items():
        out[case, metric] = row
        if not metric.endswith(" ms") or "direct" not in row:
            continue
        added = {}
        for arm, values in row.items():
            if arm != "direct":
                added[arm] = {r: v - row["direct"][r] for r, v in values.items()
                              if r in row["direct"]}
        if added:
            out[case, f"{metric}, added"] = added
    return out


def median(values):
    known = [v for v in values.values() if v is not None]
    return statistics.median(known) if known else None


def ratio(row):
    pairs = [(v, row["haproxy"].get(r)) for r, v in row.get("meshnode", {}).items()
             if "haproxy" in row]
    known = [a / b for a, b in pairs if a is not None and b]
    return statistics.median(known) if known else None


def cell(value):
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def markdown(records, arms, rounds, about):
    lines = ["# Side by side", "", *(f"- {line}" for line in about), "",
             LEGEND.format(rounds=rounds).strip(), "",
             "| case | metric | " + " | ".join(arms) + " | meshnode/haproxy |",
             "|---|---|" + "---:|" * (len(arms) + 1)]
    table = with_added(collect(records))
    for case in CASES:
        for (name, metric), row in table.items():
            if name != case.name:
                continue
            cells = [cell(median(row.get(arm, {}))) for arm in arms]
            between = ratio(row)
            cells.append("–" if between is None else f"{between:.2f}")
            lines.append(f"| {case.title} | {metric} | " + " | ".join(cells) + " |")
    rows = against_targets(table)
    if rows:
        lines += ["", "## Against the targets", "",
                  "| case | metric | target | reached | |", "|---|---|---|---:|---|", *rows]
        if any("missed" in row for row in rows):
            lines += ["", MISSED.strip()]
    return "\n".join(lines) + "\n"


def against_targets(table):
    """A row for each measured metric that has a target; [] when none was measured."""
    rows = []
    for case in CASES:
        for (name, metric), row in table.items():
            for start, kind, bound, value in TARGETS:
                if name != case.name or not metric.startswith(start):
                    continue
                reached = ratio(row) if kind == "ratio" else median(row.get("meshnode", {}))
                if reached is None:
                    continue
                met = reached >= value if bound == "at least" else reached <= value
                of = " of HAProxy's" if kind == "ratio" else ""
                rows.append(f"| {case.title} | {metric} | {bound} {value:g}{of} | {reached:.2f} | "
                            f"{'met' if met else '**missed**'} |")
    return rows


def first_line(*argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return "absent"
    text = (done.stdout or done.stderr).strip()
    return text.splitlines()[0] if text else "unknown"


def package(name):
    done = subprocess.run(["dpkg-query", "-W", "-f=${Version}", name], capture_output=True,
                          text=True, check=False)
    return done.stdout or "unknown"


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "kernel": platform.release(),
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "haproxy": first_line("haproxy", "-v"),
        "stunnel": "stunnel4 " + package("stunnel4"),
        "openssl": first_line("openssl", "version"),
        "meshnode": first_line(os.environ["MESHNODE_BIN"], "version"),
        "boringssl": package("android-libboringssl"),
        "libnghttp2": package("libnghttp2-14"),
        "libuv": package("libuv1"),
    }


def write(directory, records, arms, rounds, about, settings):
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = markdown(records, arms, rounds, about)
    (directory / "results.md").write_text(text)
    rows = ",\n".join(json.dumps(r, separators=(",", ":")) for r in records)
    head = json.dumps(settings, indent=1)
    (directory / "results.json").write_text(head[:-2] + ',\n "measurements": [\n' + rows + "\n]}\n")
    return text
