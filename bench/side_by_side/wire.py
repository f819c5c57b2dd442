"""What two TLS peers settled on, read off the wire: ServerHello is in the clear (RFC 8446 §4.1.3).
Runs as a program inside a host: python3 wire.py PORT SECONDS; prints "watching", then one line."""

import select
import socket
import struct
import sys
import time

SUITES = {0x1301: "TLS_AES_128_GCM_SHA256", 0x1302: "TLS_AES_256_GCM_SHA384",
          0x1303: "TLS_CHACHA20_POLY1305_SHA256"}
GROUPS = {23: "P-256", 24: "P-384", 29: "X25519", 0x11EC: "X25519MLKEM768"}
ETHERNET = 14
RECORD = 5
# Handshake type and length, legacy version, random.
BEFORE_SESSION_ID = 4 + 2 + 32
SUPPORTED_VERSIONS, KEY_SHARE = 43, 51


def tcp_payload(frame, port):
    """The bytes of a segment that `port` sent, else none."""
    if frame[12:14] != b"\x08\x00" or frame[ETHERNET + 9] != 6:
        return b""
    tcp = ETHERNET + (frame[ETHERNET] & 15) * 4
    if struct.unpack("!H", frame[tcp:tcp + 2])[0] != port:
        return b""
    return frame[tcp + (frame[tcp + 12] >> 4) * 4:]


def server_hello(data):
    """(version, suite, group), or None when this is something else."""
    if len(data) < RECORD + BEFORE_SESSION_ID + 1 or data[0] != 22 or data[RECORD] != 2:
        return None
    at = RECORD + BEFORE_SESSION_ID
    at += 1 + data[at]
    suite = struct.unpack("!H", data[at:at + 2])[0]
    at += 3
    end = at + 2 + struct.unpack("!H", data[at:at + 2])[0]
    at += 2
    version, group = 0x0303, 0
    while at < end:
        kind, size = struct.unpack("!HH", data[at:at + 4])
        if kind in (SUPPORTED_VERSIONS, KEY_SHARE):
            value = struct.unpack("!H", data[at + 4:at + 6])[0]
            version, group = (value, group) if kind == SUPPORTED_VERSIONS else (version, value)
        at += 4 + size
    return ("TLSv1.3" if version == 0x0304 else hex(version), SUITES.get(suite, hex(suite)),
            GROUPS.get(group, hex(group)))


def main(port, seconds):
    deadline = time.monotonic() + seconds
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    print("watching", flush=True)
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([wire], [], [], left)[0]:
            break
        found = server_hello(tcp_payload(wire.recv(65535), port))
        if found:
            print(*found, flush=True)
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
