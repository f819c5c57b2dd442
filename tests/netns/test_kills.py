"""kill -9 at random moments, under load and while rules are written: what comes back is right."""

import os
import signal
import socket
import time

import system
import traffic
import wire
from kills import dice, explained, figures, kill_both, percentile  # noqa: F401  a fixture
from load import MARKER, STRANGERS, Load
from mesh import CLIENT, ECHO, PORTS, WEB, Mesh, by_user, documents, workload
from procs import eventually

EXTRA = 9084
LISTENING = {15001, 15006, 15008, 15020, 15021}
SETTLED = 1.05    # a worker that lived so long is replaced without delay
RIGHT_WITHIN = 1  # rules, sockets and service, after a start
AT_MOST = 5       # no test waits longer for them
FIRST_DELAY, LONGEST_DELAY = 0.1, 1  # before a start that follows a bad one


def write_workloads(host, ports):
    host.write("workloads.yaml", documents(workload("web", by_user(WEB), ports),
                                           workload("client", by_user(CLIENT))))


def listening(host):
    text = host.run(["ss", "-Hltn"]).stdout
    return {int(line.split()[3].rsplit(":", 1)[1]) for line in text.splitlines()}


class Expected:
    """What an undisturbed agent has in force, with and without a further port."""

    def __init__(self, host):
        self.host = host
        self.wide = False
        self.rules = {}
        for wide in (True, False):
            self.change(wide)
            eventually(lambda wide=wide: (str(EXTRA) in host.rules()) == wide, 5)
            time.sleep(0.3)
            self.rules[wide] = host.rules()
        self.routing = host.routing()

    def change(self, wide):
        self.wide = wide
        write_workloads(self.host, [*PORTS, EXTRA] if wide else PORTS)

    def check(self):
        assert self.host.rules() == self.rules[self.wide]
        assert self.host.routing() == self.routing
        assert LISTENING <= listening(self.host)
        return True


class Owed:
    """How long the next start of a worker may be put off: not at all, then 0.1 s doubling to 1 s
    while workers die within a second."""

    def __init__(self):
        self.bad = 0

    def kill(self, settled):
        self.bad = 0 if settled else self.bad + 1
        return min(LONGEST_DELAY, FIRST_DELAY * 2 ** (self.bad - 1)) if self.bad else 0


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def quiet_descriptors(host):
    """Of supervisor and worker, once no connection lives; pooled tunnels stay. The least of three
    looks: a program that the supervisor runs just then has pipes."""
    eventually(lambda: host.status()["connections"]["active"] == 0, 15)
    looks = []
    for _ in range(3):
        time.sleep(0.3)
        looks.append((descriptors(host.supervisor), descriptors(host.worker())))
    return tuple(map(min, zip(*looks)))


def descriptors_under_load(mesh):
    with Load(mesh) as load:
        time.sleep(0.5)
        load.end()
    return {host: quiet_descriptors(host) for host in (mesh.a, mesh.b)}


def descriptors_are_back(host, before):
    supervisor, worker = quiet_descriptors(host)
    assert supervisor == before[0], "the supervisor lost descriptors"
    assert worker <= before[1] + 4, "the worker has more than its pooled tunnels explain"


def serve_after_kill(mesh, host, pid):
    """When it was killed, and when connections dialled after that were served."""
    waiting = []
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    try:
        for number in range(6):
            address = mesh.b.address((socket.AF_INET, socket.AF_INET6)[number % 2])
            waiting.append(mesh.a.dial(address, ECHO, uid=CLIENT, timeout=15))
        waiting.append(mesh.c.dial(mesh.b.v4, ECHO, timeout=15))
        # The caller's own agent: what waits for it is served. A far agent's worker may die while
        # it answers: then the connection is lost as live ones are.
        for sock in waiting[:-1] if host is mesh.a else []:
            traffic.ask(sock, MARKER)
        traffic.ask(waiting[-1], STRANGERS)
        return killed, time.monotonic()
    finally:
        for sock in waiting:
            sock.close()


def only_the_strangers(mesh, capture):
    """What else went to declared ports in the clear, or came from them, in either family; and what
    enrolled callers said, wherever it went."""
    declared = f"tcp and portrange {PORTS[0]}-{EXTRA}"
    stranger = f"(host {mesh.c.v4} or host {mesh.c.v6})"
    assert capture.count(STRANGERS), "the capture saw nothing at all"
    escaped = capture.packets(f"{declared} and not {stranger}")
    assert escaped == [], f"an enrolled caller was in the clear: {escaped[:5]}"
    assert capture.count(MARKER) == 0, "what an enrolled caller said was in the clear"


def test_workers_killed_at_random_are_replaced_and_nothing_is_lost_but_what_they_carried(dice):
    kills = system.scaled(1_000, 20)
    with Mesh() as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        hosts = (mesh.a, mesh.b)
        expected = {host: Expected(host) for host in hosts}
        baseline = descriptors_under_load(mesh)
        owed = {host: Owed() for host in hosts}
        started = dict.fromkeys(hosts, time.monotonic())
        served, right, hurried, killed = [], [], [], []
        with wire.Capture(mesh.lab) as capture, Load(mesh) as load:
            for number in range(kills):
                host = dice.choice(hosts)
                settled = dice.random() < 0.8
                if settled:
                    time.sleep(max(0, started[host] + SETTLED - time.monotonic()))
                time.sleep(dice.uniform(0, 0.1))
                changed = dice.random() < 0.3
                if changed:
                    expected[host].change(not expected[host].wide)
                    time.sleep(dice.uniform(0, 0.15))
                at, back = serve_after_kill(mesh, host, host.worker())
                started[host] = time.monotonic()
                killed.append((at, back))
                late = owed[host].kill(settled)
                (served if settled else hurried).append(back - at)
                assert settled or back - at <= RIGHT_WITHIN + late, "waited longer than is told"
                if changed or number % 10 == 0:
                    eventually(expected[host].check, AT_MOST, 0.02, "rules and sockets")
                    right.append(time.monotonic() - at - late)
            outcomes = load.end()
        only_the_strangers(mesh, capture)
        for host in hosts:
            eventually(expected[host].check, RIGHT_WITHIN, 0.02, "rules and sockets")
            assert host.agent_running()
            descriptors_are_back(host, baseline[host])
            assert host.status()["health"] == "ok", host.problems()
    figures("kill to first served connection", served)
    if hurried:
        figures("the same after bad starts", hurried)
    figures("kill to rules and sockets as they should be", right)
    explained(outcomes, killed, {"ConnectionResetError"})
    assert percentile(served, 0.99) <= RIGHT_WITHIN
    assert percentile(right, 0.99) <= RIGHT_WITHIN


def ours(host):
    """Whatever is left of us in any backend, family and table."""
    left = []
    for tool in ("iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save",
                 "ip6tables-legacy-save"):
        done = host.run([tool], check=False)
        left += [line for line in done.stdout.splitlines() if "MESHNODE" in line.upper()]
    return left


def is_closed(mesh, dead):
    for address in (mesh.b.v4, mesh.b.v6):
        answer = traffic.try_ask(mesh.a, address, ECHO, CLIENT)
        assert isinstance(answer, OSError), f"{dead.name} dead, {address}: {answer}"


def serves(mesh):
    return all(traffic.try_ask(mesh.a, address, ECHO, CLIENT) is True
               for address in (mesh.b.v4, mesh.b.v6))


def start_again(mesh, host, expected):
    """Seconds from the start until rules and sockets are right, and until it serves."""
    begun = time.monotonic()
    host.start_agent()
    eventually(expected.check, AT_MOST, 0.02, "rules and sockets")
    right = time.monotonic()
    eventually(lambda: serves(mesh), AT_MOST, 0.02, "service")
    return right - begun, time.monotonic() - begun


def test_both_killed_at_random_leave_the_door_closed_and_come_back_right(dice):
    rounds = system.scaled(100, 3)
    with Mesh(start=False) as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        bare = {host: host.routing() for host in (mesh.a, mesh.b)}
        for host in (mesh.a, mesh.b):
            host.start_agent()
        expected = {host: Expected(host) for host in (mesh.a, mesh.b)}
        baseline = descriptors_under_load(mesh)
        starts, killed = [], []
        with wire.Capture(mesh.lab) as capture, Load(mesh) as load:
            for _ in range(rounds):
                host = dice.choice((mesh.a, mesh.b))
                time.sleep(dice.uniform(0, 0.5))
                if dice.random() < 0.6:
                    expected[host].change(not expected[host].wide)
                    time.sleep(dice.uniform(0, 0.15))
                at = time.monotonic()
                kill_both(host)
                is_closed(mesh, host)
                starts.append(start_again(mesh, host, expected[host]))
                killed.append((at, time.monotonic()))
                if dice.random() < 0.3:  # a start may be cut short as well
                    at = time.monotonic()
                    kill_both(host)
                    host.start_agent(wait=False)
                    time.sleep(dice.uniform(0, 0.4))
                    kill_both(host)
                    starts.append(start_again(mesh, host, expected[host]))
                    killed.append((at, time.monotonic()))
            outcomes = load.end()
        only_the_strangers(mesh, capture)
        for host in (mesh.a, mesh.b):
            eventually(expected[host].check, RIGHT_WITHIN, 0.02, "rules and sockets")
            descriptors_are_back(host, baseline[host])
        for host in (mesh.a, mesh.b):
            kill_both(host)
            host.meshnode("capture", "remove")
            assert ours(host) == []
            assert host.routing() == bare[host]
    right, served = zip(*starts)
    figures("start to rules and sockets as they should be", right)
    figures("start to service", served)
    explained(outcomes, killed, {"ConnectionResetError", "ConnectionRefusedError"})
    assert max(right) <= RIGHT_WITHIN and max(served) <= RIGHT_WITHIN


def test_what_a_killed_agent_was_writing_does_not_come_after_capture_remove(dice):
    rounds = system.scaled(100, 4)
    with Mesh(start=False) as mesh:
        host = mesh.a
        bare = host.routing()
        for _ in range(rounds):
            host.start_agent(wait=False)
            time.sleep(dice.uniform(0.03, 0.3))
            for pid in host.pids():
                os.kill(pid, signal.SIGKILL)
            host._agent.wait()
            host.meshnode("capture", "remove")
            time.sleep(0.1)
            assert ours(host) == []
            assert host.routing() == bare
            host.kill_agent()
