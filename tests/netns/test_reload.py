"""Reloads under load: the configuration changes, connections do not notice."""

import os
import random
import signal
import statistics
import time

import mesh as meshes
import system
import traffic
from load import Load
from mesh import CLIENT, ECHO, PORTS, WEB
from procs import eventually

ENDPOINTS = 10_000
# The machine is shared, and two agents, two programs and the test run on it.
LONGEST_ANSWER = 0.25


def in_place(host, name, text):
    with open(os.path.join(host.config, name), "w") as out:
        out.write(text)


def tunnelled(host):
    return host.metric_sum("istio_tcp_connections_opened_total", reporter="source",
                           connection_security_policy="mutual_tls")


def direct(host):
    return host.metric_sum("meshnode_direct_outbound_total")


def test_reloads_under_load_fail_and_cut_nothing(own_mesh):
    mesh = own_mesh
    dice = random.Random(3)
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        workers = mesh.a.worker(), mesh.b.worker()
        with Load(mesh, held=8) as load:
            reloads = {host: host.metric_sum("meshnode_reloads_total") for host in (mesh.a, mesh.b)}
            for number in range(system.scaled(100, 12)):
                host = dice.choice((mesh.a, mesh.b))
                extra = meshes.service(f"extra-{number % 5}", [f"10.99.2.{number % 250}"], 80, ECHO)
                text = meshes.documents(mesh.common, extra)
                dice.choice((host.write, lambda *args, host=host: in_place(host, *args)))(
                    "mesh.yaml", text)
                if dice.random() < 0.5:
                    host.signal_agent(signal.SIGHUP)
                time.sleep(dice.uniform(0, 0.2))
            time.sleep(0.5)
            print(load.all_served(), "connections")
        assert (mesh.a.worker(), mesh.b.worker()) == workers
        assert direct(mesh.a) == 0, "for a moment the mesh was forgotten"
        for host in (mesh.a, mesh.b):
            assert host.metric_sum("meshnode_reloads_total") > reloads[host]
            assert host.status()["health"] == "ok", host.problems()


def test_a_caller_that_is_renamed_or_leaves_loses_no_connection(own_mesh):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB), \
            Load(mesh, held=4, stranger=False) as load:
        for number in range(system.scaled(40, 8)):
            name = f"client-{number % 3}"
            mine = [] if number % 4 == 3 else [
                meshes.workload(name, meshes.by_user(CLIENT), account="client")]
            mesh.a.write("workloads.yaml", meshes.documents(*mine) if mine else "")
            eventually(lambda: {each["name"] for each in mesh.a.status()["workloads"]} ==
                       ({name} if mine else set()), 5)
            time.sleep(random.uniform(0, 0.5))
        print(load.all_served(), "connections")
        # What is forgotten, a while after its rules are: nothing is refused for want of a name.
        assert "no workload is enrolled" not in mesh.a.log()


def many_entries(count, label):
    text = []
    for number in range(count):
        address = f"10.{80 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        text.append(meshes.entry(f"many-{number}", address, [PORTS[1]], app=label, account="many"))
    return text


def answers(channel, address):
    """The longest round trips of one connection that is asked without a pause, each period."""
    with traffic.socket.create_connection((address, ECHO), timeout=20) as sock:
        channel.ready()
        while True:
            took = []
            while not channel._connection.poll(0):
                began = time.monotonic()
                traffic.ask(sock)
                took.append(time.monotonic() - began)
            channel.receive()
            took.sort()
            channel.event((took[len(took) // 2], took[-1], len(took)))


def test_a_snapshot_of_ten_thousand_endpoints_is_swapped_beside_the_traffic(own_mesh):
    mesh = own_mesh
    host = mesh.a
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        parts = [many_entries(ENDPOINTS, label) for label in ("one", "two")]
        files = [[meshes.documents(*part[at:at + 2_500])
                  for at in range(0, ENDPOINTS, 2_500)] for part in parts]

        def put(which):
            before = host.metric_sum("meshnode_snapshot_revision")
            for number, text in enumerate(files[which]):
                host.write(f"many-{number}.yaml", text)
            eventually(lambda: host.metric_sum("meshnode_snapshot_revision") > before, 20)
            time.sleep(1.5)

        put(0)
        assert host.status()["resources"]["accepted"] >= ENDPOINTS
        with host.serve(answers, mesh.b.v4, uid=CLIENT) as client:
            time.sleep(2)
            client.send("next")
            client.event()
            seen = []
            for number in range(system.scaled(20, 2)):
                put((number + 1) % 2)
                client.send("next")
                seen.append(client.event())
        print("median and longest answer, count, a swap:",
              [(f"{middle * 1e3:.2f} ms", f"{longest * 1e3:.1f} ms", count)
               for middle, longest, count in seen])
        assert statistics.median(longest for _, longest, _ in seen) <= LONGEST_ANSWER
