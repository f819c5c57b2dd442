"""The table of throughput by loops and connections, from one results.json a cell."""

import json
import statistics
import sys
from pathlib import Path

from .report import cell

HEAD = """# Throughput by loops and connections

- cpus: {cpus}, {cpu}; nothing bound to one; both hosts, generator and origin share them
- {haproxy}
- medians of {rounds} rounds of {seconds:g} s; `busy` is the share of all CPUs' time in use while
  meshnode was measured

Loops are loops of each agent, and threads of each HAProxy. The ratio is meshnode's throughput by
HAProxy's in the same round, `CPU` that of CPU seconds of all proxy processes for the same work.
Made by `bench/scaling.sh`; what else is alike is in [README.md](README.md), what it means in
[decision 0012](../docs/decisions/0012-what-a-user-space-pair-can-reach.md).
"""
CASES = (("saturation", "1 KB keep-alive at saturation", "connections", "requests/s"),
         ("bulk", "bulk upload", "streams", "Gbit/s"))


def figures(records, unit, cpus):
    """Medians of one cell: meshnode's throughput, its ratios to HAProxy's, and the CPUs' share."""
    rounds = {}
    for record in records:
        rounds.setdefault(record["round"], {})[record["arm"]] = record
    own, faster, cheaper, busy = [], [], [], []
    for pair in rounds.values():
        mesh, peer = pair["meshnode"]["values"], pair["haproxy"]["values"]
        cpu = next(name for name in mesh if name.startswith("CPU s, proxies"))
        own.append(mesh[unit])
        faster.append(mesh[unit] / peer[unit])
        cheaper.append(mesh[cpu] / peer[cpu])
        raw = pair["meshnode"]["raw"]
        busy.append(raw["busy"] / raw["seconds"] / cpus)
    return [statistics.median(values) for values in (own, faster, cheaper, busy)]


def table(cells, name, title, what, unit, cpus):
    loops = sorted({loop for loop, case, _ in cells if case == name})
    counts = sorted({count for _, case, count in cells if case == name})
    lines = [f"\n## {title}, {unit}\n",
             f"| {what} | " + " | ".join(f"{n} loop{'s' * (n > 1)} | ratio | CPU | busy"
                                         for n in loops) + " |",
             "|---:|" + "---:|" * 4 * len(loops)]
    for count in counts:
        row = []
        for loop in loops:
            own, faster, cheaper, busy = figures(cells[loop, name, count], unit, cpus)
            row.append(f"{cell(own)} | {faster:.2f} | {cheaper:.2f} | {busy:.0%}")
        lines.append(f"| {count} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main(work, out):
    cells = {}
    for directory in Path(work).iterdir():
        if directory.is_dir():
            loop, case, count = directory.name.split("-")
            data = json.loads((directory / "results.json").read_text())
            cells[int(loop), case, int(count)] = data["measurements"]
    about = data["machine"]
    head = HEAD.format(**about, rounds=data["rounds"], seconds=data["seconds"])
    text = head + "\n".join(table(cells, *case, about["cpus"]) for case in CASES) + "\n"
    Path(out).write_text(text)
    print(text)


main(*sys.argv[1:])
