"""The two processes: what they map, what they may, and how they replace each other."""

import os
import re
import signal
import socket
import time

import lab
import mesh as meshes
import pytest
import system
import traffic
import wire
from mesh import CLIENT, ECHO, WEB, Mesh
from procs import eventually

CAP_NET_RAW = 1 << 13
HUNG_AFTER = 10  # seconds


def field(pid, name):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(name + ":"):
                return line.split()[1]
    raise KeyError(name)


def test_no_process_maps_openssl(mesh):
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
    for host in (mesh.a, mesh.b):
        for pid in host.pids():
            with open(f"/proc/{pid}/maps") as maps:
                text = maps.read()
            assert "libssl.so.3" not in text and "libcrypto.so.3" not in text


def test_the_worker_has_cap_net_raw_at_most(mesh):
    for host in (mesh.a, mesh.b):
        pid = host.worker()
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
            assert int(field(pid, name), 16) & ~CAP_NET_RAW == 0, name
        assert field(pid, "NoNewPrivs") == "1"


def test_nothing_else_runs_as_a_child_of_the_agent(mesh):
    for host in (mesh.a, mesh.b):
        eventually(lambda host=host: len(system.children_of(host.supervisor)) == 1, 5,
                   what="one child, the worker")


def test_a_killed_worker_is_replaced_and_waiting_connections_are_served(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        for host in (mesh.a, mesh.b, mesh.a):
            assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
            old = host.worker()
            os.kill(old, signal.SIGKILL)
            waiting = [mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) for _ in range(20)]
            if host is mesh.a:
                for sock in waiting:
                    assert traffic.ask(sock), "a queued connection was lost"
            for sock in waiting:
                sock.close()
            new = eventually(lambda host=host, old=old: [pid for pid in host.workers()
                                                         if pid != old], 3, what="a new worker")
            assert len(new) == 1
            assert eventually(lambda host=host: host.problems("worker-restarted"), 5)
            eventually(lambda: traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True, 5,
                       what="new connections after the worker's death")


def test_a_worker_that_hangs_is_replaced_and_one_that_was_stopped_with_its_agent_is_not(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
        held = mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT)
        traffic.ask(held)
        stopped, hung = mesh.a.pids(), mesh.b.worker()
        for pid in [*stopped, hung]:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        eventually(lambda: mesh.b.workers() not in ([hung], []), 30, what="a new worker")
        assert time.monotonic() - began >= 8
        time.sleep(max(0, began + HUNG_AFTER + 2 - time.monotonic()))
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        problem = mesh.b.problems("worker-restarted")[0]["message"]
        assert re.search(r"hung: proxy loop \d+ did not come round for 10 s", problem), problem
        assert "the worker hangs" in mesh.b.log()
        eventually(lambda: traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True, 15)
        time.sleep(2)
        assert mesh.a.pids() == stopped
        held.close()


def test_plaintext_connections_wait_for_the_new_worker_too(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.greeting_server, ECHO, uid=WEB):
        os.kill(mesh.b.worker(), signal.SIGKILL)
        waiting = [mesh.c.dial(mesh.b.v4, ECHO) for _ in range(20)]
        for sock in waiting:
            assert traffic.read_line(sock) == f"you are {mesh.c.v4}"
            sock.close()


def test_a_worker_that_keeps_dying_comes_back_each_time(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        for _ in range(system.scaled(100, 5)):
            os.kill(mesh.a.worker(), signal.SIGKILL)
            eventually(lambda: traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True, 15,
                       what="service after a worker's death")
        assert mesh.a.agent_running()


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_the_worker_does_not_outlive_the_supervisor_and_the_door_stays_closed(own_mesh, side):
    mesh, host = own_mesh, own_mesh.a if side == "caller" else own_mesh.b
    families = (mesh.b.v4, mesh.b.v6)
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB), wire.Capture(mesh.lab) as capture:
        held = mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT)
        traffic.ask(held)
        rules, routing, worker = host.rules(), host.routing(), host.worker()
        os.kill(host.supervisor, signal.SIGKILL)
        eventually(lambda: system.start_time(worker) is None, 5, what="death of the worker")
        assert traffic.outcome(held) == "rst", "cut is not ended"
        held.close()
        for address in 5 * families:
            answer = traffic.try_ask(mesh.a, address, ECHO, CLIENT)
            assert isinstance(answer, (ConnectionRefusedError, ConnectionResetError)), answer
        assert side == "caller" or isinstance(
            traffic.try_ask(mesh.d, mesh.b.v4, ECHO, timeout=0.5), OSError), "a stranger got in"
        assert host.rules() == rules and host.routing() == routing, "the door stays as it was"
        host._agent.wait()
        host.start_agent()
        assert host.rules() == rules and host.routing() == routing
        for address in families:
            assert traffic.try_ask(mesh.a, address, ECHO, CLIENT) is True
    assert capture.packets("port 15008"), "the capture saw nothing at all"
    assert capture.packets(f"port {ECHO} and not host {mesh.d.v4}") == [], "in the clear"


def test_ready_is_told_to_systemd_once_traffic_flows():
    """READY=1 on NOTIFY_SOCKET, and not before the rules stand."""
    with Mesh(start=False) as mesh:
        path = os.path.join(mesh.a.directory, "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(15)
            os.environ["NOTIFY_SOCKET"] = path
            try:
                mesh.a.start_agent(wait=False)
            finally:
                del os.environ["NOTIFY_SOCKET"]
            message = notify.recv(4096).decode()
            while "READY=1" not in message:
                message = notify.recv(4096).decode()
            assert "15001" in mesh.a.rules() and mesh.a.ready()


def test_a_second_agent_refuses_to_start(own_mesh):
    done = own_mesh.a.meshnode("agent", check=False, timeout=20)
    assert done.returncode != 0 and "meshnode" in done.stderr
    assert own_mesh.a.ready()


def test_a_port_in_use_is_named_and_nothing_is_captured():
    def hog(channel):
        with traffic.listen(15008):
            channel.ready()
            channel.receive()

    with Mesh(start=False) as mesh:
        rules = mesh.a.rules()
        with mesh.a.serve(hog):
            mesh.a.start_agent(wait=False)
            eventually(lambda: not mesh.a.agent_running(), 10, what="end of the agent")
        assert "15008" in mesh.a.log() and "in use" in mesh.a.log()
        assert mesh.a.rules() == rules
        mesh.a.start_agent()


def test_status_of_an_agent_that_hangs_does_not_hang(own_mesh):
    worker = own_mesh.a.worker()
    os.kill(worker, signal.SIGSTOP)
    try:
        done = own_mesh.a.meshnode("status", check=False, timeout=15)
        assert done.returncode == 2 and "did not answer" in done.stderr
    finally:
        os.kill(worker, signal.SIGCONT)
    assert own_mesh.a.status()["health"] == "ok"


def test_sigterm_lets_open_connections_end(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        with mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) as sock:
            traffic.ask(sock)
            started = time.monotonic()
            mesh.a.stop_agent(timeout=20)
            assert time.monotonic() - started < 20


@pytest.mark.parametrize("bad", ["no config", "no certificates", "bad node"])
def test_an_agent_with_nothing_usable_still_harms_nobody(bad):
    """It runs, says what is wrong, and captures nothing it cannot serve."""
    with lab.Lab("a", "b") as made:
        host = made.a
        if bad == "no certificates":
            host.write("node.yaml", meshes.node(host))
            host.write("workloads.yaml",
                       meshes.workload("client", meshes.by_user(CLIENT)))
        elif bad == "bad node":
            host.write("node.yaml", "apiVersion: meshnode.io/v1\nkind: Node\nnonsense: 1\n")
        host.start_agent(wait=False)
        time.sleep(1.5)
        if host.agent_running():
            status = host.status()
            if bad != "no config":
                assert status["health"] == "degraded" and status["problems"], status
        else:
            assert "meshnode" in host.log()
        with made.b.serve(traffic.echo_server, 22):
            assert traffic.try_ask(host, made.b.v4, 22) is True
