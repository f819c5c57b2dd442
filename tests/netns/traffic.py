"""Servers and clients of the tests: plain socket programs that know nothing of a mesh."""

import hashlib
import os
import selectors
import socket
import struct
import threading
import time

RESET = struct.pack("ii", 1, 0)


def listen(port, address="", family=socket.AF_INET6):
    """A listener of both families, unless an address says otherwise."""
    if address and ":" not in address:
        family = socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((address, port))
    sock.listen(4096)
    return sock


def peer_of(sock):
    """The peer's address without the IPv4-mapped prefix."""
    address = sock.getpeername()[0]
    return address[7:] if address.startswith("::ffff:") else address


def serve_each(channel, port, handler, address=""):
    """A thread a connection; what `handler(sock)` returns, or raises, becomes an event."""
    listener = listen(port, address)
    threading.stack_size(256 * 1024)

    def one(sock):
        with sock:
            try:
                channel_value = handler(sock)
            except Exception as error:  # noqa: B902  the test looks at it
                channel_value = error
        if channel_value is not None:
            with lock:
                channel.event(channel_value)

    lock = threading.Lock()
    channel.ready()
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=one, args=(sock,), daemon=True).start()


def greet_and_echo(sock):
    """Server first: tells the peer who it seems to be, then echoes."""
    sock.sendall(f"you are {peer_of(sock)}\n".encode())
    echo(sock)


def echo(sock):
    try:
        while data := sock.recv(1 << 16):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except (ConnectionResetError, BrokenPipeError, TimeoutError):
        pass


def greeting_server(channel, port, address=""):
    serve_each(channel, port, greet_and_echo, address)


def echo_server(channel, port, address=""):
    """One thread for any number of connections."""
    listener = listen(port, address)
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    channel.ready()
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    continue
                selector.register(sock, selectors.EVENT_READ)
                continue
            sock = key.fileobj
            try:
                data = sock.recv(1 << 16)
                if data:
                    sock.sendall(data)
                    continue
            except OSError:
                pass
            selector.unregister(sock)
            sock.close()


def read_line(sock):
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            break
        line += byte
    return line.decode().strip()


def read_exactly(sock, count):
    parts = bytearray()
    while len(parts) < count:
        data = sock.recv(min(count - len(parts), 1 << 20))
        if not data:
            raise EOFError(f"end after {len(parts)} of {count} bytes")
        parts += data
    return bytes(parts)


def read_to_end(sock):
    parts = bytearray()
    while data := sock.recv(1 << 20):
        parts += data
    return bytes(parts)


def reset(sock):
    """Closes with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def ask(sock, text=b"hello"):
    """One round trip with an echo."""
    sock.sendall(text)
    answer = read_exactly(sock, len(text))
    assert answer == text, (answer[:80], text[:80])
    return True


def outcome(sock):
    """What an application sees next: bytes, "fin" or "rst"."""
    try:
        return sock.recv(1 << 16) or "fin"
    except ConnectionResetError:
        return "rst"


def first_answer(host, address, port, uid=0, text=b""):
    """The same of a new connection, which may be reset as soon as it stands."""
    try:
        with host.dial(address, port, uid=uid, timeout=15) as sock:
            if text:
                sock.sendall(text)
            return outcome(sock)
    except (ConnectionResetError, BrokenPipeError):
        return "rst"


def try_ask(host, address, port, uid=0, timeout=5, text=b"hello"):
    """Whether a new connection works; what was raised if it did not."""
    try:
        with host.dial(address, port, uid=uid, timeout=timeout) as sock:
            return ask(sock, text)
    except OSError as error:
        return error
    except EOFError as error:
        return error


# -- bulk: both directions at once, hashed at both ends ------------------------------------------

BLOCK = 1 << 20


def send_bulk(sock, seed, total):
    """`total` bytes that differ in every block; the digest of what was sent."""
    digest = hashlib.sha256()
    block = bytearray(os.urandom(BLOCK))
    sent = 0
    while sent < total:
        block[0:16] = struct.pack("<QQ", seed, sent)
        piece = memoryview(block)[:min(BLOCK, total - sent)]
        digest.update(piece)
        sock.sendall(piece)
        sent += len(piece)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def receive_bulk(sock, chunk=BLOCK, delay=0.0):
    digest = hashlib.sha256()
    count = 0
    buffer = bytearray(chunk)
    while got := sock.recv_into(buffer):
        digest.update(memoryview(buffer)[:got])
        count += got
        if delay:
            time.sleep(delay)
    return count, digest.hexdigest()


def exchange(sock, seed, total):
    """Sends and receives at once; what was sent and what arrived."""
    sock.settimeout(300)
    arrived = {}

    def receive():
        try:
            arrived["value"] = receive_bulk(sock)
        except OSError as error:
            arrived["value"] = (repr(error), None)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        sent = send_bulk(sock, seed, total)
    finally:
        thread.join()
    return {"sent": sent, "received": arrived["value"]}


def exchange_client(address, port, seed, total):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.connect((address, port))
        return exchange(sock, seed, total)
