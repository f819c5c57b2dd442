"""Python functions as processes: in a network namespace, as a user, in a cgroup.

A child is forked, so a test can write the program it needs as a closure next to its assertions.
It dies with the test process, whatever happens (PR_SET_PDEATHSIG).
"""

import ctypes
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import time
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1


def enter_namespace(name):
    fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if LIBC.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")
    finally:
        os.close(fd)


class ChildFailed(AssertionError):
    """What the function in the child raised, with its own traceback."""


class Channel:
    """The child's end: tells the test that it is ready, and what it saw."""

    def __init__(self, connection):
        self._connection = connection

    def ready(self, value=None):
        self._connection.send(("ready", value))

    def event(self, value):
        self._connection.send(("event", value))

    def receive(self, timeout=None):
        """Something the test sent with Child.send()."""
        if not self._connection.poll(timeout):
            raise TimeoutError("nothing from the test")
        return self._connection.recv()


class Child:
    takes_channel = False

    def __init__(self, namespace, function, args, uid=0, cgroup=None, name=None):
        self.name = name or getattr(function, "__name__", "child")
        self._connection, theirs = multiprocessing.Pipe()
        self._events = []
        self._ready = None
        self._result = None
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._connection.close()
            if self.takes_channel:
                args = (Channel(theirs), *args)
            _child_main(parent, theirs, namespace, function, args, uid, cgroup)
        theirs.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def send(self, value):
        self._connection.send(value)

    def wait_ready(self, timeout=20):
        self._read_until(lambda: self._ready is not None, timeout, "ready")
        return self._ready[0]

    def event(self, timeout=20):
        self._read_until(lambda: bool(self._events), timeout, "an event")
        return self._events.pop(0)

    def drain_events(self):
        while self._connection.poll(0):
            self._take()
        events, self._events = self._events, []
        return events

    def result(self, timeout=60):
        self._read_until(lambda: self._result is not None, timeout, "a result")
        kind, value = self._result
        self._reap()
        if kind == "error":
            raise ChildFailed(f"{self.name} failed:\n{value}")
        return value

    def alive(self):
        if self.pid is None:
            return False
        done, _ = os.waitpid(self.pid, os.WNOHANG)
        if done:
            self.pid = None
        return self.pid is not None

    def stop(self):
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()
        self._connection.close()

    def _reap(self):
        if self.pid is not None:
            os.waitpid(self.pid, 0)
            self.pid = None

    def _take(self):
        try:
            kind, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._reap()
            raise ChildFailed(f"{self.name} died without an answer") from None
        if kind == "ready":
            self._ready = (value,)
        elif kind == "event":
            self._events.append(value)
        else:
            self._result = (kind, value)

    def _read_until(self, condition, timeout, what):
        deadline = time.monotonic() + timeout
        while not condition():
            if self._result is not None and self._result[0] == "error":
                kind, value = self._result
                raise ChildFailed(f"{self.name} failed:\n{value}")
            left = deadline - time.monotonic()
            if left <= 0 or not self._connection.poll(left):
                raise TimeoutError(f"{self.name}: waited {timeout} s for {what}")
            self._take()


def _child_main(parent, connection, namespace, function, args, uid, cgroup):
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if cgroup is not None:
            with open(os.path.join(cgroup, "cgroup.procs"), "w") as procs:
                procs.write("0")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        enter_namespace(namespace)
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        # After the change of user, which clears it.
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        result = function(*args)
        pickle.dumps(result)
        connection.send(("result", result))
        code = 0
    except BaseException:  # noqa: B902  reported to the test, which raises it
        try:
            connection.send(("error", traceback.format_exc()))
        except OSError:
            pass
    finally:
        os._exit(code)


class ServerChild(Child):
    """A child whose function takes a Channel first and calls ready() on it."""

    takes_channel = True

    def __init__(self, namespace, function, args, **kwargs):
        super().__init__(namespace, function, args, **kwargs)
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise


def eventually(predicate, timeout=10, interval=0.05, what="the condition"):
    """Repeats until it answers something true, which is returned; the last failure is shown."""
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            value = predicate()
            if value:
                return value
            last = value
        except (AssertionError, OSError, KeyError, ValueError, LookupError) as error:
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not come true within {timeout} s; last: {last!r}")
        time.sleep(interval)
