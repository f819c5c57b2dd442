"""Turns plaintext TCP into mTLS to an HBONE port, for tools that present no certificate."""

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
    try:
        with near, socket.create_connection((address, peers.HBONE_PORT), timeout=10) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(raw, server_hostname=server_name) as far:
                _pump(near, far)
    except OSError:
        pass


def _pump(near, far):
    far.setblocking(False)
    while True:
        if not far.pending():
            select.select([near, far], [], [])
        try:
            data = far.recv(1 << 16)
            if not data:
                return
            near.sendall(data)
        except ssl.SSLWantReadError:
            pass
        if select.select([near], [], [], 0)[0]:
            data = near.recv(1 << 16)
            if not data:
                return
            far.setblocking(True)
            far.sendall(data)
            far.setblocking(False)
