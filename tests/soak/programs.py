"""The programs of the soak: a server that does what a caller's first words ask for, and a caller
with a thread for each kind of traffic. Every octet is known to both ends.

Whoever gives up closes with a reset. So an orderly end in the middle is never a program's doing:
it is reported as broken, whatever fault there was.
"""

import contextlib
import random
import select
import socket
import struct
import threading
import time

import traffic
from mesh import CLOSED, ECHO

PATIENCE = 15    # seconds without an octet until a program gives up
HALF_CLOSED = 4  # seconds, the agents' halfClosedTimeout
LATE = 5         # a busy machine's part in a timer
MOST = 1 << 20   # octets of a transfer
HEADER = struct.Struct("<4sQI")  # what is asked for, seed of the content, octets
PIECE = 1 << 16


class Broken(Exception):
    """What no fault excuses."""


def pieces(seed, size):
    """The content that a seed stands for; no two of its pieces are alike."""
    base = random.Random(seed).randbytes(PIECE)
    for at in range(0, size, PIECE):
        yield (struct.pack("<Q", at) + base[8:])[:size - at]


def send(sock, seed, size):
    for piece in pieces(seed, size):
        sock.sendall(piece)


def expect(sock, seed, size):
    at = 0
    for piece in pieces(seed, size):
        try:
            if traffic.read_exactly(sock, len(piece)) != piece:
                raise Broken(f"other content than was sent, after {at} of {size} octets")
        except EOFError as error:
            raise Broken(f"{error}, {at} octets before it, of {size}") from None
        at += len(piece)


def expect_end(sock):
    if sock.recv(1):
        raise Broken("more than was sent")


@contextlib.contextmanager
def _meanwhile(function, *args):
    """Sends while the block receives. What went wrong there goes wrong here first: a reset is told
    to one of two threads, and to the other as an orderly end."""
    wrong = []

    def run():
        try:
            function(*args)
        except OSError as error:
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if wrong:
            raise wrong[0]


# -- the server ----------------------------------------------------------------------------------


def _take(sock, seed, size):
    expect(sock, seed, size)
    expect_end(sock)
    sock.sendall(b"taken")


def _both(sock, seed, size):
    with _meanwhile(send, sock, seed + 1, size):
        expect(sock, seed, size)
        expect_end(sock)


def _late(sock, seed, size):
    expect_end(sock)
    send(sock, seed, size)


def _hush(sock, *_):
    expect_end(sock)
    ends = select.poll()
    ends.register(sock, 0)  # a hang-up, and nothing else
    if not ends.poll(PATIENCE * 1000):
        raise TimeoutError("not reset")


def _kick(sock, seed, size):
    send(sock, seed, size // 2)
    traffic.reset(sock)


SERVED = {b"echo": lambda sock, *_: traffic.echo(sock), b"take": _take, b"give": send,
          b"both": _both, b"late": _late, b"hush": _hush, b"kick": _kick}


def _serve(sock):
    sock.settimeout(PATIENCE)
    peer = "somebody"
    try:
        peer = traffic.peer_of(sock)
        wish, seed, size = HEADER.unpack(traffic.read_exactly(sock, HEADER.size))
        SERVED[wish](sock, seed, size)
    except OSError:
        traffic.reset(sock)  # the caller's to judge
    except (Broken, EOFError) as error:
        traffic.reset(sock)
        return f"a server, of {peer}: {error}"
    return None


def server(channel):
    """What it sends to the test is what was broken."""
    traffic.serve_each(channel, ECHO, _serve)


# -- the caller ----------------------------------------------------------------------------------


def _ask(sock, dice, wish, size=None):
    seed, size = dice.getrandbits(60), dice.randrange(1, MOST) if size is None else size
    sock.sendall(HEADER.pack(wish, seed, size))
    return seed, size


def _question(sock, dice):
    seed, size = dice.getrandbits(60), dice.randrange(1, 4096)
    send(sock, seed, size)
    expect(sock, seed, size)


def short(sock, dice, _):
    _ask(sock, dice, b"echo")
    _question(sock, dice)


def kept(sock, dice, stop, pause=0.1, most=50):
    """A connection that is asked again and again, and ends in order."""
    _ask(sock, dice, b"echo")
    for _ in range(most):
        _question(sock, dice)
        if stop.wait(pause):
            break
    sock.shutdown(socket.SHUT_WR)
    expect_end(sock)


def idle(sock, dice, stop):
    kept(sock, dice, stop, pause=PATIENCE / 2, most=1_000)


def upload(sock, dice, _):
    send(sock, *_ask(sock, dice, b"take"))
    sock.shutdown(socket.SHUT_WR)
    if traffic.read_to_end(sock) != b"taken":
        raise Broken("an upload that was not acknowledged ended in order")


def download(sock, dice, _):
    expect(sock, *_ask(sock, dice, b"give"))
    expect_end(sock)


def both_ways(sock, dice, _):
    seed, size = _ask(sock, dice, b"both")
    with _meanwhile(_send_and_end, sock, seed, size):
        expect(sock, seed + 1, size)
    expect_end(sock)


def _send_and_end(sock, seed, size):
    send(sock, seed, size)
    sock.shutdown(socket.SHUT_WR)


def half_closed(sock, dice, _):
    seed, size = _ask(sock, dice, b"late")
    sock.shutdown(socket.SHUT_WR)
    expect(sock, seed, size)
    expect_end(sock)


def half_closed_and_silent(sock, dice, _):
    """The agents reset it at their timer."""
    _ask(sock, dice, b"hush")
    sock.shutdown(socket.SHUT_WR)
    begun = time.monotonic()
    _expect_reset(sock)
    took = time.monotonic() - begun
    if not HALF_CLOSED - 0.5 <= took <= HALF_CLOSED + LATE:
        raise OSError(f"half-closed and silent, and reset after {took:.1f} s")


def reset_by_server(sock, dice, _):
    _ask(sock, dice, b"kick")
    _expect_reset(sock)


def _expect_reset(sock):
    try:
        while sock.recv(PIECE):
            pass
    except ConnectionResetError:
        return
    raise Broken("an orderly end instead of a reset")


def reset_by_caller(sock, dice, _):
    seed, size = _ask(sock, dice, b"take")
    send(sock, seed, size // 2)
    traffic.reset(sock)


def nobody(sock, *_):
    """Declared, and no program listens there."""
    _expect_reset(sock)


# What a caller does at once: (traffic, threads, mean pause in seconds between two connections).
# `short` has a thread a target, so that one that does not answer keeps nobody from the others.
KINDS = ((kept, 2, 0.2), (idle, 3, 0.5), (upload, 1, 0.5), (download, 1, 0.5), (both_ways, 1, 0.5),
         (half_closed, 1, 0.3), (half_closed_and_silent, 2, 0.5), (reset_by_server, 1, 0.3),
         (reset_by_caller, 1, 0.3), (nobody, 1, 0.5))
SHORT_PAUSE = 0.2


class Caller:
    """`targets` are addresses by host. One load phase at a time."""

    def __init__(self, targets, seed):
        self.targets = targets
        self.seeds = random.Random(seed)

    def begin(self):
        self.done, self.failed, self.broken = {}, [], []
        self.lock, self.stop = threading.Lock(), threading.Event()
        everybody = sorted(self.targets)
        work = [(short, [to], SHORT_PAUSE) for to in everybody]
        for kind, count, pause in KINDS:
            work += [(kind, everybody, pause)] * count
        self.threads = [threading.Thread(target=self._again, args=(random.Random(
            self.seeds.getrandbits(60)), *each)) for each in work]
        for thread in self.threads:
            thread.start()

    def end(self):
        """Once every connection has ended: (completed by target and kind, failures, broken)."""
        self.stop.set()
        for thread in self.threads:
            thread.join()
        return self.done, self.failed, self.broken

    def burst(self, to, count=160):
        """So many connections at once: when they end, an agent gives back memory that is free.
        What went wrong, of each."""
        wrong = []
        with contextlib.ExitStack() as held:
            for _ in range(count):
                try:
                    sock = socket.create_connection((self.targets[to][0], ECHO), timeout=PATIENCE)
                    held.enter_context(sock)
                    _ask(sock, self.seeds, b"echo")
                    traffic.ask(sock)
                except (OSError, EOFError) as error:
                    wrong.append(f"the burst to {to}: {error!r}")
        return wrong

    def _again(self, dice, kind, hosts, pause):
        while not self.stop.is_set():
            to = dice.choice(hosts)
            begun = time.monotonic()
            try:
                self._one(kind, to, dice)
                with self.lock:
                    key = (to, kind.__name__)
                    self.done[key] = self.done.get(key, 0) + 1
            except (Broken, EOFError) as error:
                self.broken.append(f"{kind.__name__} to {to}: {error}")
            except OSError as error:
                self.failed.append((begun, time.monotonic(), to, kind.__name__, repr(error)))
            self.stop.wait(pause * dice.uniform(0.2, 1.8))

    def _one(self, kind, to, dice):
        address = (dice.choice(self.targets[to]), CLOSED if kind is nobody else ECHO)
        try:
            sock = socket.create_connection(address, timeout=PATIENCE)
        except ConnectionError:
            if kind is nobody:
                return  # nobody between: the kernel said it
            raise
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kind(sock, dice, self.stop)
        except BaseException:
            traffic.reset(sock)
            raise
        sock.close()


def caller(channel, targets, seed):
    """Does what it is told to: a method of Caller with its arguments."""
    threading.stack_size(256 * 1024)
    programs = Caller(targets, seed)
    channel.ready()
    while True:
        what, *arguments = channel.receive()
        channel.event(getattr(programs, what)(*arguments))


# -- programs that are killed in the midst -------------------------------------------------------


def swallow(channel, port):
    traffic.serve_each(channel, port, _swallow)


def _swallow(sock):
    with contextlib.suppress(OSError):
        while sock.recv(PIECE):
            pass


def pour(channel, address, port):
    with socket.create_connection((address, port), timeout=PATIENCE) as sock:
        channel.ready()
        with contextlib.suppress(OSError):
            send(sock, 0, 1 << 40)
