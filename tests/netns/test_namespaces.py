"""Workloads in network namespaces of their own: containers, as the host sees them."""

import os
import socket
import time
from collections import Counter

import peers
import pki
import pytest
import system
import traffic
import wire
from awkward import legacy
from boxes import BOX4, BOX6, GATE4, GATE6, captured, make_world, talk
from mesh import (CLIENT, ECHO, NS, UNDECLARED, WEB, by_user, documents, lasts, set_excludes,
                  workload)
from procs import eventually

MARK = 0x539
REPAIRED_WITHIN = 2
TOOLS = ("iptables", "ip6tables")
TOLD_WITHIN = 8  # looked for every 5 s


@pytest.fixture(scope="module")
def world():
    made = make_world()
    with made:
        with made.a.serve(traffic.greeting_server, ECHO, uid=WEB), \
                made.b.serve(traffic.greeting_server, ECHO, uid=WEB):
            yield made


@pytest.fixture
def fresh():
    with make_world() as made:
        yield made


def taken_up(host):
    return host.log().count("network namespace is taken up")


def principal(account):
    return f"spiffe://{system.TRUST_DOMAIN}/ns/{NS}/sa/{account}"


def opened(host, **labels):
    return host.metric_sum("istio_tcp_connections_opened_total", **labels)


def asks(host, address, port, uid):
    with host.dial(address, port, uid=uid) as sock:
        seen = traffic.read_line(sock)
        traffic.ask(sock)
        return seen


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_callers_on_other_hosts_reach_it_through_a_tunnel_of_its_own(world, family):
    address = BOX4 if family == socket.AF_INET else BOX6
    before = opened(world.b, reporter="destination", source_principal=principal("client"),
                    destination_principal=principal("box"))
    with world.box.serve(traffic.greeting_server, ECHO), wire.Capture(world) as capture:
        assert asks(world.a, address, ECHO, CLIENT) == f"you are {world.a.address(family)}"
    assert not capture.packets(f"port {ECHO}"), "nothing in the clear"
    assert capture.packets(f"host {address} and port 15008")
    assert opened(world.b, reporter="destination", source_principal=principal("client"),
                  destination_principal=principal("box")) == before + 1


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_what_it_dials_goes_out_from_its_own_address_under_its_own_identity(world, family):
    mine = BOX4 if family == socket.AF_INET else BOX6
    before = opened(world.a, reporter="destination", source_principal=principal("box"),
                    destination_principal=principal("web"))
    with wire.Capture(world) as capture:
        assert world.box.call(talk, world.a.address(family), ECHO) == f"you are {mine}"
    assert not capture.packets(f"port {ECHO}")
    assert opened(world.a, reporter="destination", source_principal=principal("box"),
                  destination_principal=principal("web")) == before + 1


def test_callers_on_the_same_host_reach_it_without_a_tunnel(world):
    tunnels = world.b.metric_sum("meshnode_tunnels_opened_total")
    labels = {"source_principal": principal("client"), "destination_principal": principal("box")}
    before = opened(world.b, **labels)
    with world.box.serve(traffic.greeting_server, ECHO):
        assert asks(world.b, BOX4, ECHO, CLIENT) == f"you are {GATE4}"
        assert asks(world.b, BOX6, ECHO, CLIENT) == f"you are {GATE6}"
        assert asks(world.b, "10.99.0.7", 80, CLIENT).startswith("you are ")
    assert opened(world.b, **labels) == before + 3
    assert world.b.metric_sum("meshnode_tunnels_opened_total") == tunnels


def test_it_reaches_workloads_of_the_same_host_without_a_tunnel(world):
    tunnels = world.b.metric_sum("meshnode_tunnels_opened_total")
    labels = {"source_principal": principal("box"), "destination_principal": principal("web")}
    before = opened(world.b, **labels)
    assert world.box.call(talk, world.b.v4, ECHO) == f"you are {BOX4}"
    assert opened(world.b, **labels) == before + 1
    assert world.b.metric_sum("meshnode_tunnels_opened_total") == tunnels


def test_plaintext_to_its_declared_port_is_captured_and_other_ports_pass(world):
    labels = {"reporter": "destination", "source_principal": "unknown",
              "destination_principal": principal("box")}
    before = opened(world.b, **labels)
    with world.box.serve(traffic.greeting_server, ECHO), \
            world.box.serve(traffic.greeting_server, UNDECLARED):
        assert asks(world.c, BOX4, ECHO, 0) == f"you are {world.c.v4}"
        assert asks(world.c, BOX6, ECHO, 0) == f"you are {world.c.v6}"
        assert opened(world.b, **labels) == before + 2
        total = world.b.status()["connections"]["total"]
        assert asks(world.c, BOX4, UNDECLARED, 0) == f"you are {world.c.v4}"
        # From inside as well: its own declared port is captured, and its neighbours' are not.
        assert world.box.call(talk, BOX4, UNDECLARED) == f"you are {BOX4}"
        assert world.b.status()["connections"]["total"] == total


def test_what_the_mesh_does_not_know_is_dialled_from_inside(world):
    before = world.b.metric_sum("meshnode_direct_outbound_total")
    with world.c.serve(traffic.greeting_server, UNDECLARED):
        assert world.box.call(talk, world.c.v4, UNDECLARED) == f"you are {BOX4}"
    assert world.b.metric_sum("meshnode_direct_outbound_total") == before + 1


def test_our_mark_does_not_lead_out_of_capture(world):
    """CAP_NET_RAW, which containers commonly have, is enough to set it."""
    before = opened(world.a, reporter="destination", source_principal=principal("box"))
    with wire.Capture(world) as capture:
        assert world.box.call(talk, world.a.v4, ECHO, MARK) == f"you are {BOX4}"
    assert not capture.packets(f"port {ECHO}")
    assert opened(world.a, reporter="destination", source_principal=principal("box")) == before + 1


def test_the_certificate_shown_inside_is_its_own(world):
    context = peers.client_context(world.authority.certificate_path,
                                   world.authority.workload(NS, "client"))
    for name in (None, "box"):
        server_name = name and pki.server_name(NS, name)
        with peers.open_tunnel(world.c, BOX4, context, server_name) as tunnel:
            assert peers.identities(tunnel.tls) == [principal("box")]
            with world.box.serve(traffic.greeting_server, ECHO):
                assert tunnel.connect(f"{BOX4}:{ECHO}")[1].status == 200
            for other in (f"{BOX4}:{UNDECLARED}", f"{world.b.v4}:{ECHO}", f"127.0.0.1:{ECHO}",
                          f"{GATE4}:{ECHO}"):
                assert tunnel.connect(other)[1].status == 400, other
    with pytest.raises(OSError):
        peers.open_tunnel(world.c, BOX4, context, pki.server_name(NS, "web"))
    with pytest.raises(OSError):
        peers.open_tunnel(world.c, world.b.v4, context, pki.server_name(NS, "box"))


def test_what_a_node_excludes_is_left_alone_inside_as_well(world):
    def total():
        return world.b.status()["connections"]["total"]

    def both_ways_with_c():
        for theirs, mine in ((world.c.v4, BOX4), (world.c.v6, BOX6)):
            assert asks(world.c, mine, ECHO, 0) == f"you are {theirs}"
            assert world.box.call(talk, theirs, ECHO) == f"you are {mine}"

    with world.box.serve(traffic.greeting_server, ECHO), \
            world.c.serve(traffic.greeting_server, ECHO):
        for text in (f"{{excludePorts: [{ECHO}]}}",
                     f"{{excludeCidrs: [{world.c.v4}/32, \"{world.c.v6}/128\"]}}"):
            set_excludes(world.b, text, spaces=1)
            before = total()
            both_ways_with_c()
            assert total() == before, "the agent was asked"
            assert asks(world.a, BOX4, ECHO, CLIENT) == f"you are {world.a.v4}"
            assert total() == before + 1, "a tunnel comes in as ever"
        set_excludes(world.b, "{}", spaces=1)
        both_ways_with_c()
        eventually(lambda: total() == before + 5, 5, what="capture, as before")


def test_many_at_once(world):
    def many(address, port, count):
        socks = []
        for _ in range(count):
            sock = socket.create_connection((address, port), timeout=20)
            socks.append(sock)
        for sock in socks:
            traffic.read_line(sock)
            traffic.ask(sock)
        for sock in socks:
            sock.close()
        return len(socks)

    with world.box.serve(traffic.greeting_server, ECHO):
        assert world.a.call(many, BOX4, ECHO, 200, uid=CLIENT) == 200
        assert world.box.call(many, world.a.v4, ECHO, 200) == 200


def tried(address):
    try:
        return talk(address, ECHO)
    except (OSError, EOFError) as error:
        return type(error).__name__


def flush_nat(box):
    for tool in TOOLS:
        box.run([tool, "-t", "nat", "-F"])


def flush_filter(box):
    for tool in TOOLS:
        box.run([tool, "-F"])


def flush_ruleset(box):
    box.run(["nft", "flush", "ruleset"])


def repairs(host):
    return host.metric_sum("meshnode_capture_repaired_total")


def seconds_to_repair(made, flush, meanwhile=lambda: None):
    rules, repaired = made.box.own_rules(), repairs(made.b)
    flush(made.box)
    flushed = time.monotonic()
    while made.box.own_rules() != rules or repairs(made.b) == repaired:
        assert time.monotonic() - flushed <= REPAIRED_WITHIN, "the rules of the namespace"
        meanwhile()
    took = time.monotonic() - flushed
    assert took <= REPAIRED_WITHIN
    assert made.box.name in made.b.problems("capture-repaired")[0]["message"]
    return took


def still_captured(made):
    for address, mine in ((made.a.v4, BOX4), (made.a.v6, BOX6)):
        before = opened(made.a, reporter="destination", source_principal=principal("box"))
        assert made.box.call(talk, address, ECHO) == f"you are {mine}"
        assert opened(made.a, reporter="destination",
                      source_principal=principal("box")) == before + 1


@pytest.mark.parametrize("flush", [flush_nat, flush_filter])
def test_rules_flushed_inside_are_put_back_and_let_nothing_out_meanwhile(world, flush):
    answers = []
    with wire.Capture(world) as capture:
        took = seconds_to_repair(world, flush, lambda: answers.extend(
            world.box.call(tried, address) for address in (world.a.v4, world.a.v6)))
    print(f"{flush.__name__}: {took:.2f} s; calls meanwhile: {Counter(answers)}")
    assert not capture.packets(f"port {ECHO}"), "nothing in the clear"
    still_captured(world)


def test_the_whole_ruleset_flushed_inside_is_put_back_each_time(fresh):
    with fresh.a.serve(traffic.greeting_server, ECHO, uid=WEB):
        for _ in range(3):
            print(f"repaired after {seconds_to_repair(fresh, flush_ruleset):.2f} s")
            still_captured(fresh)


def test_rules_of_iptables_legacy_inside_are_put_back_as_soon():
    """The kernel tells nobody of them."""
    with make_world(prepare=legacy) as made, \
            made.a.serve(traffic.greeting_server, ECHO, uid=WEB):
        box = made.box

        def own():
            saved = "".join(box.run([f"{tool}-legacy-save"]) for tool in TOOLS)
            return [line for line in saved.splitlines() if "MESHNODE_" in line]

        before = own()
        assert before and not box.own_rules(), "not those of iptables-nft"
        for table in ("nat", "filter"):
            repaired = repairs(made.b)
            for tool in TOOLS:
                box.run([f"{tool}-legacy", "-t", table, "-F"])
            flushed = time.monotonic()
            eventually(lambda repaired=repaired: own() == before and
                       repairs(made.b) > repaired, 4, what="the same rules again")
            took = time.monotonic() - flushed
            print(f"{table}: repaired after {took:.2f} s")
            assert took <= REPAIRED_WITHIN
        still_captured(made)


def test_an_undeclared_listener_inside_is_reported_while_it_is_there(fresh):
    def told(port):
        return [p for p in fresh.b.problems("undeclared-listener") if f":{port}," in p["message"]]

    with fresh.box.serve(traffic.greeting_server, ECHO):
        with fresh.box.serve(traffic.greeting_server, UNDECLARED):
            found = eventually(lambda: told(UNDECLARED), TOLD_WITHIN, what="the problem")
            assert [p["object"] for p in found] == ["shop/box"]
            assert "which no Workload declares" in found[0]["message"]
            assert fresh.b.status()["health"] == "ok", "a stranger's mistake"
            assert lasts(fresh.b, "undeclared-listener")
            set_excludes(fresh.b, f"{{excludePorts: [{UNDECLARED}]}}", spaces=1)
            eventually(lambda: not lasts(fresh.b, "undeclared-listener"), TOLD_WITHIN,
                       what="the end of it")
        with fresh.box.serve(traffic.greeting_server, UNDECLARED + 1):
            eventually(lambda: told(UNDECLARED + 1), TOLD_WITHIN, what="another one")
            assert lasts(fresh.b, "undeclared-listener")
        eventually(lambda: not lasts(fresh.b, "undeclared-listener"), TOLD_WITHIN,
                   what="the end of the program")


def test_a_namespace_that_goes_and_comes_back_is_taken_up_again(fresh):
    with fresh.box.serve(traffic.greeting_server, ECHO):
        assert asks(fresh.a, BOX4, ECHO, CLIENT) == f"you are {fresh.a.v4}"
    for noticed in (True, False):
        taken = taken_up(fresh.b)
        fresh.box.remove()
        if noticed:
            eventually(lambda: not captured(fresh.b), 6, what="a namespace waited for")
            assert [p for p in fresh.b.problems("capture-incomplete") if p["object"] == "shop/box"]
        fresh.box.make()
        eventually(lambda taken=taken: taken_up(fresh.b) > taken and captured(fresh.b), 6,
                   what="the new namespace's capture")
        with fresh.box.serve(traffic.greeting_server, ECHO), \
                fresh.a.serve(traffic.greeting_server, ECHO, uid=WEB), \
                wire.Capture(fresh) as capture:
            eventually(lambda: asks(fresh.a, BOX4, ECHO, CLIENT) == f"you are {fresh.a.v4}", 8,
                       what="a tunnel to the new namespace")
            assert fresh.box.call(talk, fresh.a.v4, ECHO) == f"you are {BOX4}"
        assert not capture.packets(f"port {ECHO}")
    eventually(lambda: fresh.b.status()["health"] == "ok", 6, what=f"health; {fresh.b.problems()}")


def test_a_dead_worker_is_replaced_and_what_waited_is_served(fresh):
    with fresh.box.serve(traffic.greeting_server, ECHO), \
            fresh.a.serve(traffic.greeting_server, ECHO, uid=WEB):
        for _ in range(3):
            os.kill(fresh.b.worker(), 9)
            assert fresh.box.call(talk, fresh.a.v4, ECHO) == f"you are {BOX4}"
            assert asks(fresh.c, BOX4, ECHO, 0) == f"you are {fresh.c.v4}"


def test_nothing_is_left_in_the_namespace(fresh):
    assert "MESHNODE_" in fresh.box.rules()
    fresh.b.kill_agent()
    assert "MESHNODE_" in fresh.box.rules(), "closed while no agent lives"
    fresh.b.meshnode("capture", "remove")
    assert "MESHNODE_" not in fresh.box.rules()
    assert fresh.box.routing() == fresh.before[1]
    fresh.b.start_agent()
    eventually(lambda: captured(fresh.b), 10)
    fresh.b.stop_agent()
    assert "MESHNODE_" not in fresh.box.rules()
    assert fresh.box.routing() == fresh.before[1]


def test_a_namespace_full_of_rules_harms_nobody_else(fresh):
    """Its root may add as many as he likes: 5 MB of them, as iptables-save prints them."""
    junk = "".join(f"-A JUNK -s 10.{i >> 16}.{i >> 8 & 255}.{i & 255} -p tcp --dport 9 -j RETURN\n"
                   for i in range(80_000))
    system.sh(["ip", "netns", "exec", fresh.box.name, "iptables-restore", "--noflush"],
              input=f"*filter\n:JUNK - [0:0]\n{junk}COMMIT\n")
    found = eventually(lambda: [p for p in fresh.b.problems("capture-incomplete")
                                if p["object"] == "shop/box"], 15, what="the problem")
    for part in (f"{fresh.box.path}: iptables-save: ", "was killed", "tried again after"):
        assert part in found[0]["message"], found
    for _ in range(3):
        fresh.b.run(["iptables", "-t", "nat", "-F"])
        eventually(lambda: "MESHNODE_OUTPUT" in fresh.b.run(["iptables-save", "-t", "nat"]).stdout,
                   3, what="the host's rules")
    with fresh.a.serve(traffic.greeting_server, ECHO, uid=WEB):
        os.kill(fresh.b.worker(), 9)
        assert fresh.box.call(talk, fresh.a.v4, ECHO) == f"you are {BOX4}", "what is there serves"
    system.sh(["ip", "netns", "exec", fresh.box.name, "iptables", "-F", "JUNK"])
    eventually(lambda: fresh.b.status()["health"] == "ok", 70, what=f"health; {fresh.b.problems()}")


def test_a_process_names_the_namespace_too(fresh):
    with fresh.box.serve(traffic.greeting_server, ECHO) as server:
        fresh.b.write("workloads.yaml", documents(
            workload("web", by_user(WEB), [ECHO]), workload("client", by_user(CLIENT)),
            workload("box", f"{{netns: {server.pid}}}", [ECHO])))
        eventually(lambda: next(w for w in fresh.b.status()["workloads"] if w["name"] == "box")
                   ["match"] == f"netns {server.pid}" and captured(fresh.b), 8,
                   what="the new match")
        assert asks(fresh.a, BOX4, ECHO, CLIENT) == f"you are {fresh.a.v4}"
    # The process has ended; whoever gets its number is not it.
    eventually(lambda: not captured(fresh.b), 6, what="the end of its namespace")


def test_the_agents_own_namespace_is_refused_by_name(fresh):
    fresh.b.write("own.yaml", workload("odd", f"{{netns: {fresh.b.supervisor}}}", [9999],
                                       account="web"))
    found = eventually(lambda: [p for p in fresh.b.problems("capture-incomplete")
                                if p["object"] == "shop/odd"], 6, what="the problem")
    assert "the agent's own" in found[0]["message"]
    assert captured(fresh.b) and captured(fresh.b, "web"), "nobody else is harmed"
