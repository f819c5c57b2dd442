"""Bad YAML on a running agent: named with its place, and nothing that runs is disturbed."""

import os
import re
import signal
import time

import pytest
import system
import traffic
from mesh import CLIENT, ECHO, NS, WEB, Mesh, workload
from procs import eventually

HEAD = ("# line 1\napiVersion: v1\nkind: Service\nmetadata:\n  name: shop-front\n"
        f"  namespace: {NS}\nspec:\n")
GOOD = HEAD + ('  clusterIP: "10.99.0.50"\n  selector: {app: front}\n'
               "  ports: [{name: http, port: 80, targetPort: 8080}]\n")


def alias_bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines) + "\n" + GOOD


# name: (text, line of the fault or None, what the message must speak of)
BAD = {
    "duplicate key": (GOOD + '  clusterIP: "10.99.0.51"\n', 11, r"duplicate|twice|already"),
    "unknown field": (GOOD + "  surprise: 1\n", 11, r"surprise"),
    "alias bomb": (alias_bomb(), None, r"anchor|alias"),
    "half-written file": (GOOD[:GOOD.rindex("targetPort")], None, r"."),
    "wrong type": (GOOD.replace("port: 80,", "port: eighty,"), 10, r"port|integer|number"),
    "list for a map": (HEAD.replace("metadata:\n  name", "metadata:\n  - name") + "  {}\n", None,
                       r"."),
    "tag": (GOOD.replace("{app: front}", "!!map {app: front}"), 9, r"tag"),
    "directive": ("%YAML 1.2\n---\n" + GOOD, 1, r"directive|%"),
    "merge key": (GOOD + "  <<: {type: ClusterIP}\n", 11, r"<<|merge"),
    "not UTF-8": (GOOD.encode() + b"# \xff\xfe\n", None, r"UTF-8|utf-8|byte|character"),
    "NUL": (GOOD.encode() + b"# \0\n", None, r"."),
    "unknown kind": (GOOD.replace("kind: Service", "kind: Servise"), 3, r"Servise"),
    "port out of range": (GOOD.replace("port: 80,", "port: 70000,"), 10, r"70000|65535"),
    "33 levels": ("x: " + "[" * 33 + "]" * 33 + "\n", 1, r"deep|depth|nest|32"),
}


@pytest.fixture(scope="module")
def running():
    """A mesh under traffic: an old connection and new ones are tried at every step."""
    with Mesh() as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        mesh.old = mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT)
        traffic.ask(mesh.old)
        traffic.ask(mesh.old)
        yield mesh
        mesh.old.close()


def tunnelled(host):
    return host.metric_sum("istio_tcp_connections_opened_total", reporter="source",
                           connection_security_policy="mutual_tls")


def unharmed(mesh):
    before = tunnelled(mesh.a)
    traffic.ask(mesh.old)
    assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
    assert tunnelled(mesh.a) == before + 1, "the new connection did not take a tunnel"


def rejected(host, name):
    return [entry for entry in host.status()["resources"]["rejected"]
            if entry["file"].endswith(name)]


def none_rejected(host):
    return host.status()["resources"]["rejected"] == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_place_and_harms_nobody(running, name):
    text, line, reason = BAD[name]
    host = running.a
    accepted = host.status()["resources"]["accepted"]
    path = host.write("bad.yaml", text)
    try:
        entries = eventually(lambda: rejected(host, "bad.yaml"), 5, what="rejection in status")
        assert any(re.search(reason, entry["message"], re.I) for entry in entries), entries
        if line is not None:
            assert any(entry["line"] == line for entry in entries), (line, entries)
        else:
            assert all(entry["line"] >= 1 for entry in entries), entries
        assert set(entries[0]) >= {"file", "line", "kind", "namespace", "name", "message"}
        problem = host.problems("resource-rejected")
        assert problem and problem[0]["hint"]
        unharmed(running)
        done = system.sh([system.BINARY, "validate", path], check=False)
        assert done.returncode == 1
        place = re.escape(path) + (rf":{line}:\d+: ." if line else r":\d+:\d+: .")
        assert re.search("^" + place, done.stdout + done.stderr, re.M), done
    finally:
        os.unlink(path)
    eventually(lambda: none_rejected(host), 5, what="an empty list after the file went")
    assert host.status()["resources"]["accepted"] == accepted


def test_a_file_of_100_mb_is_rejected_unread(running):
    host = running.a
    before = host.pss_kib()
    path = os.path.join(host.config, "huge.yaml")
    temporary = os.path.join(host.directory, "huge")
    with open(temporary, "w") as out:
        out.write(GOOD)
        block = "# " + "x" * 1021 + "\n"
        for _ in range(100):
            out.write(block * 1024)
    os.rename(temporary, path)
    try:
        entries = eventually(lambda: rejected(host, "huge.yaml"), 5, what="rejection")
        assert re.search(r"1 ?MiB|1048576|large|limit", entries[0]["message"])
        unharmed(running)
        assert host.pss_kib() - before < 8 * 1024
    finally:
        os.unlink(path)
    eventually(lambda: none_rejected(host), 5, what="an empty list after the file went")


def test_a_file_may_have_one_mebibyte_and_not_a_byte_more(running):
    host = running.a
    padding = (1 << 20) - len(GOOD)
    try:
        before = host.status()["resources"]["accepted"]
        host.write("size.yaml", GOOD + "#" * (padding - 1) + "\n")
        eventually(lambda: host.status()["resources"]["accepted"] == before + 1, 5,
                   what="one resource more")
        assert none_rejected(host)
        host.write("size.yaml", GOOD + "#" * padding + "\n")
        assert eventually(lambda: rejected(host, "size.yaml"), 5, what="rejection")
    finally:
        os.unlink(os.path.join(host.config, "size.yaml"))
    eventually(lambda: none_rejected(host), 5, what="an empty list")


BREAKS = {"syntax": lambda text: text[:len(text) - 40] + "{[",
          "schema": lambda text: text.replace("  serviceAccount:", "  serviceAcount:")}


@pytest.mark.parametrize("kind", BREAKS)
def test_the_last_good_version_stays_in_force_also_over_a_restart(own_mesh, kind):
    mesh = own_mesh
    with mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        mesh.old = mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT)
        traffic.ask(mesh.old)
        unharmed(mesh)
        mesh.a.write("mesh.yaml", BREAKS[kind](mesh.common))
        eventually(lambda: rejected(mesh.a, "mesh.yaml"), 5, what="rejection in status")
        unharmed(mesh)
        mesh.old.close()
        mesh.a.stop_agent()
        mesh.a.start_agent()
        assert rejected(mesh.a, "mesh.yaml"), "a restart must not forget the rejection"
        mesh.old = mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT)
        traffic.ask(mesh.old)
        unharmed(mesh)
        mesh.a.write("mesh.yaml", mesh.common)
        eventually(lambda: none_rejected(mesh.a), 5, what="a clean status")
        unharmed(mesh)
        mesh.old.close()


def test_a_bad_workloads_file_keeps_the_capture_as_it_is(running):
    host = running.a
    path = os.path.join(host.config, "workloads.yaml")
    with open(path) as file:
        text = file.read()
    rules = host.rules()
    try:
        host.write("workloads.yaml", text.replace("ports:", "portz:"))
        eventually(lambda: rejected(host, "workloads.yaml"), 5, what="rejection in status")
        assert host.rules() == rules
        unharmed(running)
    finally:
        host.write("workloads.yaml", text)
    eventually(lambda: none_rejected(host), 5, what="a clean status")


def test_a_changed_workload_changes_the_rules_and_harms_no_connection(running):
    host = running.a
    path = os.path.join(host.config, "workloads.yaml")
    with open(path) as file:
        text = file.read()
    rules = host.rules()
    try:
        host.write("workloads.yaml", text + "---\n" + text.split("---\n")[1]
                   .replace("name: client", "name: extra").replace('"4102"', '"4104"')
                   .replace("account: extra", "account: client"))
        eventually(lambda: "4104" in host.rules(), 5, what="rules for the new workload")
        unharmed(running)
    finally:
        host.write("workloads.yaml", text)
    eventually(lambda: host.rules() == rules, 5, what="the old rules")
    unharmed(running)


def test_sighup_reloads_and_harms_no_connection(running):
    worker = running.a.worker()
    for _ in range(3):
        running.a.signal_agent(signal.SIGHUP)
        time.sleep(0.3)
        unharmed(running)
    assert running.a.agent_running() and running.a.worker() == worker


def test_traffic_flows_through_a_storm_of_reloads(running):
    host = running.a
    for number in range(20):
        host.write("storm.yaml", GOOD.replace("10.99.0.50", f"10.99.1.{number}"))
        if number % 5 == 0:
            host.signal_agent(signal.SIGHUP)
        unharmed(running)
    os.unlink(os.path.join(host.config, "storm.yaml"))
    eventually(lambda: none_rejected(host), 5, what="a clean status")


UNSUPPORTED = {
    "systemdUnit": "{systemdUnit: web.service}", "netns": "{netns: web}",
    "root": '{user: "root"}', "two": '{user: "4110", cgroup: x}', "none": "{}",
    "dots": "{cgroup: ../x}",
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_is_not_supported_is_rejected_by_name(running, kind):
    path = running.a.write("odd.yaml", workload("odd", UNSUPPORTED[kind], account="client"))
    try:
        assert eventually(lambda: rejected(running.a, "odd.yaml"), 5, what="rejection in status")
    finally:
        os.unlink(path)
    eventually(lambda: none_rejected(running.a), 5, what="an empty list")


def test_port_22_needs_force(running):
    path = running.a.write("ssh.yaml", workload("ssh", '{user: "4120"}', [22], account="client"))
    try:
        entries = eventually(lambda: rejected(running.a, "ssh.yaml"), 5, what="rejection")
        assert "22" in entries[0]["message"] and "force" in entries[0]["message"]
    finally:
        os.unlink(path)
    eventually(lambda: none_rejected(running.a), 5, what="an empty list")


def test_validate_accepts_what_runs(running):
    for name in ("node.yaml", "workloads.yaml", "mesh.yaml"):
        done = system.sh([system.BINARY, "validate", os.path.join(running.a.config, name)])
        assert done.stdout == "" or "error" not in done.stdout.lower()
