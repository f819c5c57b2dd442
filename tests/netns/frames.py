"""HTTP/2 by hand: frames as bytes, over a TLS session with a good certificate, for peers that no
library would let us be."""

import select
import ssl
import struct
import time

import peers
import pki

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """HPACK: a literal without indexing, no Huffman (RFC 7541 §6.2.2), short strings only."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def connect_block(authority):
    return literal(b":method", b"CONNECT") + literal(b":authority", authority.encode())


def greet(mesh, first=PREFACE + frame(SETTINGS), receive_buffer=None):
    """A TLS session from c to the web workload of b, after `first`."""
    pair = mesh.authority.workload("shop", "client")
    context = peers.client_context(mesh.authority.certificate_path, pair)
    sock = mesh.c.dial(mesh.b.v4, 15008, receive_buffer=receive_buffer)
    tls = context.wrap_socket(sock, server_hostname=pki.server_name("shop", "web"))
    tls.sendall(first)
    return tls


def push(tls, data, seconds=20, read=True, heard=None):
    """Sends while the peer lets us; how many bytes it took before it ended the session.

    What it said meanwhile is added to `heard`."""
    heard = bytearray() if heard is None else heard
    tls.setblocking(False)
    view, sent, deadline = memoryview(data), 0, time.monotonic() + seconds
    try:
        while sent < len(view) and time.monotonic() < deadline:
            readable, writable, _ = select.select([tls] if read else [], [tls], [], 1)
            if readable or (read and tls.pending()):
                try:
                    piece = tls.recv(1 << 16)
                    heard += piece
                    if not piece:
                        break
                except ssl.SSLWantReadError:
                    pass
            if writable:
                try:
                    sent += tls.send(view[sent:sent + (1 << 14)])
                except ssl.SSLWantWriteError:
                    pass
    except OSError:
        pass
    return sent


def linger(tls, seconds=1.0, heard=None):
    """Reads for a while; true when the peer ended the session."""
    heard = bytearray() if heard is None else heard
    tls.setblocking(True)
    deadline = time.monotonic() + seconds
    try:
        while True:
            tls.settimeout(max(0.01, deadline - time.monotonic()))
            piece = tls.recv(1 << 16)
            if not piece:
                return True
            heard += piece
    except TimeoutError:
        return False
    except OSError:
        return True


def split(data):
    """(kind, flags, stream, payload) of each whole frame."""
    found, at = [], 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at:at + 3], "big")
        if at + 9 + size > len(data):
            break
        stream = int.from_bytes(data[at + 5:at + 9], "big") & 0x7fffffff
        found.append((data[at + 3], data[at + 4], stream, bytes(data[at + 9:at + 9 + size])))
        at += 9 + size
    return found


def goaway(heard):
    """The error code of the GOAWAY in what was heard; None without one."""
    codes = [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in split(heard)
             if kind == GOAWAY]
    return codes[-1] if codes else None
