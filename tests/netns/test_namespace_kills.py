"""kill -9 of those who look after a workload in a network namespace, under load from and to it."""

import os
import signal
import time

import boxes
import system
import traffic
import wire
from boxes import BOX4, BOX6, captured
from kills import dice, explained, figures, kill_both  # noqa: F401  a fixture
from load import MARKER, Callers, callers
from mesh import CLIENT, ECHO, WEB, by_user, documents, workload
from procs import eventually

EXTRA = 9085
LISTENING = {15001, 15006, 15008}
SETTLED = 1.05    # a worker that lived so long is replaced without delay
RIGHT_WITHIN = 2  # what is inside, and service from and to it, after a kill or a start
AT_MOST = 8       # no test waits longer for them


def dialled_inside(address):
    """What comes of a call, in a child."""
    try:
        with traffic.socket.create_connection((address, ECHO), timeout=5) as sock:
            return traffic.ask(sock, MARKER)
    except (OSError, EOFError) as error:
        return error


def called_from(world):
    return [world.box.call(dialled_inside, address) for address in (world.a.v4, world.a.v6)]


def called_to(world):
    return [traffic.try_ask(world.a, address, ECHO, CLIENT, text=MARKER)
            for address in (BOX4, BOX6)]


class Inside:
    """What an undisturbed agent has in the namespace, with and without a further port."""

    def __init__(self, world):
        self.world, self.wide, self.rules = world, False, {}
        for wide in (True, False):
            self.change(wide)
            eventually(lambda wide=wide: (str(EXTRA) in world.box.rules()) == wide, 5)
            time.sleep(0.3)
            self.rules[wide] = world.box.own_rules()
        self.routing = world.box.routing()

    def change(self, wide):
        self.wide = wide
        ports = [ECHO, EXTRA] if wide else [ECHO]
        self.world.b.write("workloads.yaml", documents(
            workload("web", by_user(WEB), [ECHO]), workload("client", by_user(CLIENT)),
            workload("box", f"{{netns: {self.world.box.path}}}", ports)))

    def check(self):
        assert self.world.box.own_rules() == self.rules[self.wide]
        assert self.world.box.routing() == self.routing
        for family in ("-4", "-6"):
            lines = self.world.box.run(["ss", "-Hltn", family]).splitlines()
            ports = {int(line.split()[3].rsplit(":", 1)[1]) for line in lines}
            assert LISTENING <= ports, ports
        return True

    def come_back(self, since):
        """Seconds until everything inside is right, and until calls from and to it are served."""
        eventually(self.check, AT_MOST, 0.02, "rules and listeners inside")
        right = time.monotonic()
        eventually(lambda: called_from(self.world) == called_to(self.world) == [True, True],
                   AT_MOST, 0.02, "service from and to the namespace")
        return right - since, time.monotonic() - since


def test_whoever_is_killed_what_is_inside_comes_back_and_nothing_gets_out_meanwhile(dice):
    kills = system.scaled(100, 5)
    with boxes.make_world() as world, world.box.serve(traffic.echo_server, ECHO), \
            world.a.serve(traffic.echo_server, ECHO, uid=WEB):
        host, inside = world.b, Inside(world)
        started = time.monotonic()
        took = {"worker": [], "both": []}
        killed = []
        with wire.Capture(world) as capture, Callers(
                world.box.serve(callers, (world.a.v4, world.a.v6), MARKER, 0),
                world.a.serve(callers, (BOX4, BOX6), MARKER, 0, uid=CLIENT)) as load:
            for number in range(kills):
                time.sleep(max(0, started + SETTLED - time.monotonic()) + dice.uniform(0, 0.1))
                if dice.random() < 0.5:
                    inside.change(not inside.wide)
                    time.sleep(dice.uniform(0, 0.3))
                at = begun = time.monotonic()
                if number % 2:
                    kill_both(host)
                    for answer in (*called_from(world), *called_to(world)):
                        assert isinstance(answer, OSError), f"nobody looks after it: {answer}"
                    begun = time.monotonic()
                    host.start_agent(cgroup=world.agent_cgroup)
                else:
                    os.kill(host.worker(), signal.SIGKILL)
                took["both" if number % 2 else "worker"].append(inside.come_back(begun))
                started = time.monotonic()
                killed.append((at, started))
            outcomes = load.end()
        assert capture.packets("port 15008"), "the capture saw nothing at all"
        assert capture.packets(f"portrange {ECHO}-{EXTRA}") == [], "a call was in the clear"
        assert capture.count(MARKER) == 0, "what was said was in the clear"
        eventually(lambda: captured(host) and host.status()["health"] == "ok", 5)
    for who, pairs in took.items():
        right, served = zip(*pairs)
        figures(f"{who} killed: what is inside", right)
        figures(f"{who} killed: service", served)
        assert max(right) <= RIGHT_WITHIN and max(served) <= RIGHT_WITHIN
    explained(outcomes, killed, {"ConnectionResetError", "ConnectionRefusedError"})
