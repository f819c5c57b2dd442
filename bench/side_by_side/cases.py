"""The cases: what is measured, and how a measurement becomes figures."""

import json
import subprocess
import time
from dataclasses import dataclass, field, replace

from .lab import Failed, cpu_seconds, machine_ticks, pss_bytes

RATE = 1000
KEPT_CONNECTIONS = 16
SATURATING_CONNECTIONS = 32
LANES = 8
IDLE_CONNECTIONS = 1000
PROXY_CPU = "CPU s, proxies"
MACHINE_CPU = "CPU s, machine"


@dataclass
class Figures:
    """One arm, one case, one round."""
    values: dict
    steal: float  # share of all CPU time
    raw: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    run: object          # (case, arm, warmup, seconds) -> Figures
    options: tuple = ()

    def with_connections(self, count):
        kept = list(self.options)
        kept[kept.index("--connections") + 1] = str(count)
        return replace(self, title=f"{self.title}, {count} connections", options=tuple(kept))


def generate(arm, command, warmup, seconds, *options):
    watched = arm.watched()
    argv = ["--warmup", str(warmup), "--seconds", str(seconds), *options]
    if watched:
        argv += ["--watch", ",".join(map(str, watched))]
    raw = json.loads(arm.load(command, *argv))
    arm.check()
    if raw["errors"]:
        raise Failed(f"{arm.name}: {command}: {raw['errors']} connections failed")
    return raw


def costs(raw, units, label):
    values = {f"{PROXY_CPU}, per {label}": sum(raw["cpu"].values()) / units if raw["cpu"] else None,
              f"{MACHINE_CPU}, per {label}": raw["busy"] / units}
    return values


def kept(raw):
    """What results.json keeps of a generator's line."""
    return {**{k: v for k, v in raw.items() if k != "cpu"}, "proxies": list(raw["cpu"].values())}


def bulk(case, arm, warmup, seconds):
    raw = generate(arm, "bulk", warmup, seconds, *case.options)
    if raw["bytes"] == 0:
        raise Failed(f"{arm.name}: {case.name}: no byte arrived")
    values = {"Gbit/s": raw["bytes"] * 8 / raw["seconds"] / 1e9,
              **costs(raw, raw["bytes"] / 1e9, "GB")}
    return Figures(values, raw["steal"] / raw["total"], kept(raw))


def requests(case, arm, warmup, seconds):
    command = {"rate": "rate", "saturation": "saturate", "connect": "connect"}[case.name]
    raw = generate(arm, command, warmup, seconds, *case.options)
    if raw["requests"] == 0:
        raise Failed(f"{arm.name}: {case.name}: no request was answered")
    values = {}
    if case.name == "rate":
        values.update({f"{quantile} ms": raw[quantile] for quantile in ("p50", "p90", "p99")})
    else:
        # A closed loop's latency says nothing beyond its throughput.
        values["requests/s"] = raw["requests"] / raw["seconds"]
    values.update(costs(raw, raw["requests"] / 1000, "1,000 requests"))
    return Figures(values, raw["steal"] / raw["total"], kept(raw))


def idle(case, arm, warmup, seconds):
    """Memory before and with the connections, and what keeping them costs."""
    del case
    time.sleep(warmup)
    before = pss_bytes(arm.watched())
    holder = subprocess.Popen(
        [*arm.client.prefix(arm.client_user), *arm.load_argv("hold", "--connections",
                                                      str(IDLE_CONNECTIONS))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if "held" not in holder.stdout.readline():
            raise Failed(f"{arm.name}: idle: {holder.stderr.read().strip()}")
        time.sleep(warmup)
        pids = arm.watched()
        after = pss_bytes(pids)
        cpu, (steal, total) = cpu_seconds(pids), machine_ticks()
        time.sleep(seconds)
        used = cpu_seconds(pids) - cpu
        now_steal, now_total = machine_ticks()
        _, errors = holder.communicate("", timeout=60)
    finally:
        holder.kill()
        holder.wait()
    if holder.returncode != 0:
        raise Failed(f"{arm.name}: idle: {errors.strip()}")
    proxies = bool(pids)
    values = {
        "PSS MiB a host, before": before / 2 / 2**20 if proxies else None,
        "PSS KiB a connection and proxy":
            (after - before) / 2 / IDLE_CONNECTIONS / 1024 if proxies else None,
        "CPU %, both proxies": 100 * used / seconds if proxies else None,
    }
    return Figures(values, (now_steal - steal) / max(1, now_total - total),
                   {"before": before, "after": after, "proxies": used})


CASES = [
    Case("idle", f"{IDLE_CONNECTIONS:,} idle connections", idle),
    Case("bulk-up-1", "bulk upload, 1 stream", bulk, ("--connections", "1", "--direction", "up")),
    Case("bulk-up-4", "bulk upload, 4 streams", bulk, ("--connections", "4", "--direction", "up")),
    Case("bulk-down-1", "bulk download, 1 stream", bulk,
         ("--connections", "1", "--direction", "down")),
    Case("bulk-down-4", "bulk download, 4 streams", bulk,
         ("--connections", "4", "--direction", "down")),
    Case("rate", f"1 KB keep-alive at {RATE:,}/s", requests,
         ("--connections", str(KEPT_CONNECTIONS), "--rate", str(RATE))),
    Case("saturation", "1 KB keep-alive at saturation", requests,
         ("--connections", str(SATURATING_CONNECTIONS))),
    Case("connect", "1 KB, a new connection each", requests, ("--connections", str(LANES))),
]
