"""SIGTERM: what runs may end, nothing new begins, and who calls hardly notices a restart."""

import signal
import threading
import time

import system
import traffic
from load import Load
from mesh import CLIENT, ECHO, WEB
from procs import eventually

PAUSE = 1.0  # between the two GOAWAYs; a drain takes no less while a tunnel is open


def hold(mesh, count):
    """Live connections. Whichever loop has a tunnel hears the goodbye, for all of them."""
    held = [mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) for _ in range(count)]
    for sock in held:
        traffic.ask(sock)
    return held


def test_agents_that_are_restarted_under_load_fail_no_connection(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        with Load(mesh) as load:
            time.sleep(0.5)
            for number in range(system.scaled(50, 4)):
                host = mesh.a if number % 2 else mesh.b
                for sock in hold(mesh, 1):
                    sock.close()
                assert host.stop_agent() == 0
                host.start_agent()
                time.sleep(0.3)
            print(load.all_served(), "connections served")


def test_what_runs_ends_in_order_and_what_is_new_waits_for_the_next_agent(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        held = hold(mesh, 1)
        stopped = threading.Thread(target=mesh.b.stop_agent)
        stopped.start()
        time.sleep(2 * PAUSE)
        assert mesh.b.agent_running(), "it waits for what runs"
        waiting = [mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT, timeout=15) for _ in range(8)]
        for sock in waiting:  # on all loops, whether they had a tunnel or not
            sock.sendall(b"anybody?")
        assert traffic.try_ask(mesh.c, mesh.b.v4, ECHO) is True, "strangers go direct"
        for sock in held:
            traffic.ask(sock, b"last words")
            sock.shutdown(traffic.socket.SHUT_WR)
            assert traffic.outcome(sock) == "fin"
            sock.close()
        ended = time.monotonic()
        stopped.join()
        assert time.monotonic() - ended < 2 * PAUSE + 1, "nothing was left to wait for"
        mesh.b.start_agent()
        for sock in waiting:
            assert traffic.read_exactly(sock, 8) == b"anybody?"
            sock.close()


def test_a_second_sigterm_does_not_wait(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        with mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) as sock:
            traffic.ask(sock)
            mesh.a.signal_agent(signal.SIGTERM)
            time.sleep(PAUSE)
            assert mesh.a.agent_running()
            mesh.a.signal_agent(signal.SIGTERM)
            eventually(lambda: not mesh.a.agent_running(), 3, what="end of the agent")
            assert traffic.outcome(sock) == "rst", "cut is not ended"
    assert "MESHNODE" not in mesh.a.rules()
