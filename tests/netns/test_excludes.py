"""What a Node excludes from capture goes the way it always went, in both directions; a listener
that was merely forgotten is reported."""

import pytest
import traffic
from mesh import CLIENT, ECHO, OTHER, SECOND, UNDECLARED, WEB, Mesh, lasts, set_excludes
from procs import eventually

LOOKED_FOR_EVERY = 5


def total(host):
    return host.status()["connections"]["total"]


@pytest.fixture
def mesh():
    with Mesh() as made:
        yield made


def asks(host, address, port, uid):
    with host.dial(address, port, uid=uid) as sock:
        seen = traffic.read_line(sock)
        traffic.ask(sock)
        return seen


def test_an_excluded_port_is_left_alone_by_caller_and_callee(mesh):
    a, b = mesh.a, mesh.b
    with b.serve(traffic.greeting_server, ECHO, uid=WEB), \
            b.serve(traffic.greeting_server, SECOND, uid=WEB):
        for host in (a, b):
            set_excludes(host, f"{{excludePorts: [{ECHO}]}}")
        before = total(a), total(b)
        for address, mine in ((b.v4, a.v4), (b.v6, a.v6)):
            assert asks(a, address, ECHO, CLIENT) == f"you are {mine}"
            assert asks(b, address, ECHO, OTHER) == f"you are {address}"
        assert asks(mesh.c, b.v4, ECHO, 0) == f"you are {mesh.c.v4}"
        assert (total(a), total(b)) == before, "nothing went through an agent"
        assert asks(a, b.v4, SECOND, CLIENT) == f"you are {a.v4}"
        assert total(a) == before[0] + 1 and total(b) == before[1] + 1, "the other port did"
        # A peer that does not know of it still comes in through its tunnel.
        set_excludes(a, "{}")
        assert asks(a, b.v4, ECHO, CLIENT) == f"you are {a.v4}"
        assert total(b) == before[1] + 2
        set_excludes(b, "{}")
        assert asks(mesh.c, b.v4, ECHO, 0) == f"you are {mesh.c.v4}"
        eventually(lambda: total(b) == before[1] + 3, 5, what="capture, as before")


def test_excluded_addresses_are_left_alone_as_source_and_as_destination(mesh):
    a, b, c = mesh.a, mesh.b, mesh.c
    with b.serve(traffic.greeting_server, ECHO, uid=WEB):
        set_excludes(b, f"{{excludeCidrs: [{c.v4}/32, \"{c.v6}/128\"]}}")
        before = total(a), total(b)
        for address, mine in ((b.v4, c.v4), (b.v6, c.v6)):
            assert asks(c, address, ECHO, 0) == f"you are {mine}"
        assert total(b) == before[1], "a stranger from there reaches the program itself"
        assert asks(a, b.v4, ECHO, CLIENT) == f"you are {a.v4}"
        assert total(b) == before[1] + 1, "everybody else is captured"
        set_excludes(a, f"{{excludeCidrs: [{b.v4}/32]}}")
        assert asks(a, b.v4, ECHO, CLIENT) == f"you are {a.v4}"
        assert total(a) == before[0] + 1, "the caller's agent was not asked"
        eventually(lambda: total(b) == before[1] + 2, 5, what="plaintext, captured by the callee")
        assert asks(a, b.v6, ECHO, CLIENT) == f"you are {a.v6}"
        assert total(a) == before[0] + 2, "the other family is another block"


def test_an_excluded_address_of_the_host_itself_is_left_alone(mesh):
    b = mesh.b
    with b.serve(traffic.greeting_server, ECHO, uid=WEB):
        set_excludes(b, f"{{excludeCidrs: [{b.v4}/32]}}")
        before = total(b)
        for uid in (OTHER, CLIENT):
            assert asks(b, b.v4, ECHO, uid) == f"you are {b.v4}"
        assert total(b) == before
        assert asks(b, "127.0.0.1", ECHO, OTHER) == "you are 127.0.0.1"
        eventually(lambda: total(b) == before + 1, 5, what="loopback, captured as ever")


def test_a_workloads_listener_at_an_undeclared_port_is_reported(mesh):
    b = mesh.b

    def reported():
        return {problem["object"]: problem["message"]
                for problem in b.problems("undeclared-listener")}

    with b.serve(traffic.greeting_server, UNDECLARED, uid=OTHER), \
            b.serve(traffic.greeting_server, ECHO, uid=WEB):
        with b.serve(traffic.greeting_server, UNDECLARED + 1, uid=WEB):
            eventually(reported, 10, what="the problem")
            assert list(reported()) == ["shop/web"], "and nobody of the others"
            assert f":{UNDECLARED + 1}, which no Workload declares" in reported()["shop/web"]
            assert b.status()["health"] == "ok", "a stranger's mistake degrades nothing of ours"
            assert lasts(b, "undeclared-listener")
            set_excludes(b, f"{{excludePorts: [{UNDECLARED + 1}]}}")
            eventually(lambda: not lasts(b, "undeclared-listener"), LOOKED_FOR_EVERY + 3,
                       what="the end of it")
            with b.serve(traffic.greeting_server, UNDECLARED + 2, uid=WEB):
                eventually(lambda: f":{UNDECLARED + 2}," in reported()["shop/web"],
                           LOOKED_FOR_EVERY + 3, what="another port")
                assert f":{UNDECLARED + 1}" not in reported()["shop/web"]
                assert lasts(b, "undeclared-listener")
