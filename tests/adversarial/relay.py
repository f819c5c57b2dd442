"""Turns plaintext TCP into mTLS to an HBONE port, for tools that present no certificate."""

import contextlib
import select
import socket
import ssl
import threading

import peers
from traffic import listen


def relay(channel, port, address, pair, root, server_name):
    """One TLS session a connection, half-closes and ends carried over."""
    context = peers.client_context(root, pair)
    listener = listen(port, "127.0.0.1")
    channel.ready()
    while True:
        near, _ = listener.accept()
        threading.Thread(target=_carry, args=(near, context, address, server_name),
                         daemon=True).start()


def _carry(near, context, address, server_name):
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with near, contextlib.suppress(OSError):
        with socket.create_connection((address, peers.HBONE_PORT), timeout=10) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(raw, server_hostname=server_name) as far, (
                    contextlib.suppress(OSError)):
                _pump(near, far)
        # Closed with something unread, the tool would see a reset and not what was said before.
        near.shutdown(socket.SHUT_WR)
        near.settimeout(2)
        while near.recv(1 << 16):
            pass


def _pump(near, far):
    far.setblocking(False)
    hears = True
    while True:
        if not far.pending():
            select.select([near, far] if hears else [far], [], [])
        try:
            data = far.recv(1 << 16)
            if not data:
                return
            near.sendall(data)
        except ssl.SSLWantReadError:
            pass
        if hears and select.select([near], [], [], 0)[0]:
            data = near.recv(1 << 16)
            if not data:
                return
            far.setblocking(True)
            try:
                far.sendall(data)
            except OSError:
                hears = False  # its last words are still to be read
            far.setblocking(False)
