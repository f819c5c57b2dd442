"""What tests that kill agents have in common. MESHNODE_SEED repeats a run's choices."""

import os
import random
import signal
import statistics

import pytest


@pytest.fixture
def dice():
    seed = int(os.environ.get("MESHNODE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"MESHNODE_SEED={seed}")
    return random.Random(seed)


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def figures(what, seconds):
    print(f"{what}: median {statistics.median(seconds) * 1e3:.0f} ms, p99 "
          f"{percentile(seconds, 0.99) * 1e3:.0f} ms, most {max(seconds) * 1e3:.0f} ms of "
          f"{len(seconds)}")


def explained(outcomes, killed, kinds):
    """Every connection of the load that failed lived while an agent was killed and not back yet,
    and failed as it should."""
    for served, failures in outcomes:
        print("load:", served, "served,", len(failures), "lost with what was killed")
        assert served
        for kind, began, ended in failures:
            assert kind in kinds, f"{kind} after {ended - began:.3f} s"
            assert any(began <= back and at <= ended for at, back in killed), \
                f"{kind} from {began:.3f} to {ended:.3f}, and nothing was killed or away then"


def kill_both(host):
    """Both at one moment, as an OOM killer or a power button would."""
    pids = host.pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    host.kill_agent()
