"""HBONE by other hands: python-h2 over Python's ssl (OpenSSL), a client and a server.

Written from the protocol's description (Istio's HBONE, RFC 9113), sharing nothing with meshnode.
"""

import collections
import select
import socket
import ssl
import threading
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

HBONE_PORT = 15008
Codes = h2.settings.SettingCodes
Errors = h2.errors.ErrorCodes


def client_context(root, pair=None, version=ssl.TLSVersion.TLSv1_3, alpn=("h2",)):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(root)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if pair is not None:
        context.load_cert_chain(pair.certificate_path, pair.key_path)
    return context


def identities(tls):
    """URI SANs of the peer's certificate."""
    certificate = tls.getpeercert()
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]


def _connection(config, settings):
    """An initiated connection; h2 sends in its first SETTINGS only what it was made with."""
    made = h2.connection.H2Connection(config)
    made.local_settings = h2.settings.Settings(client=config.client_side, initial_values=settings)
    made.max_inbound_frame_size = made.local_settings.max_frame_size
    made.initiate_connection()
    return made


class Stream:
    def __init__(self):
        self.headers = None
        self.trailers = None
        self.data = bytearray()
        self.pieces = []
        self.ended = False
        self.reset = None

    @property
    def status(self):
        return None if self.headers is None else int(self.headers[":status"])


class TunnelLost(AssertionError):
    pass


class Tunnel:
    """The client's end of one tunnel, driven by the caller: pump() is where things happen."""

    def __init__(self, sock, context, server_name=None, settings=None, answer_pings=True):
        sock.settimeout(10)
        self.tls = context.wrap_socket(sock, server_hostname=server_name)
        self.tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.streams = collections.defaultdict(Stream)
        self.remote_settings = {}
        self.goaway = None
        self.closed = False
        self.pings = 0
        self.pongs = 0
        self.acknowledge = True
        self._answer_pings = answer_pings
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False,
            validate_inbound_headers=False, normalize_outbound_headers=False)
        self.h2 = _connection(config, {Codes.ENABLE_PUSH: 0, **(settings or {})})
        self.h2.increment_flow_control_window(1 << 24)
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tls.close()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.tls.sendall(data)

    def pump(self, timeout=0.2):
        """Takes in what has arrived; false when nothing did."""
        if self.closed:
            return False
        if not self.tls.pending():
            readable, _, _ = select.select([self.tls], [], [], timeout)
            if not readable:
                return False
        try:
            data = self.tls.recv(1 << 16)
        except (ssl.SSLWantReadError, TimeoutError):
            return False
        except OSError as error:
            self.closed = error
            return False
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self._handle(event)
        if not self._answer_pings and self.pings:
            self.h2.clear_outbound_data_buffer()
        self.flush()
        return True

    def _handle(self, event):
        if isinstance(event, h2.events.RemoteSettingsChanged):
            for code, change in event.changed_settings.items():
                self.remote_settings[code] = change.new_value
        elif isinstance(event, (h2.events.ResponseReceived)):
            self.streams[event.stream_id].headers = dict(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            self.streams[event.stream_id].trailers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream = self.streams[event.stream_id]
            stream.data += event.data
            stream.pieces.append(len(event.data))
            if self.acknowledge and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.streams[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].reset = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
        elif isinstance(event, h2.events.PingReceived):
            self.pings += 1
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1

    def wait(self, condition, timeout=10, what="an answer"):
        deadline = time.monotonic() + timeout
        while not condition():
            if self.closed:
                raise TunnelLost(f"tunnel closed while waiting for {what}: {self.closed}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout} s for {what}")
            self.pump()

    def request(self, headers, end_stream=False):
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, headers, end_stream=end_stream)
        self.flush()
        return number

    def connect(self, authority, extra=(), timeout=15):
        """A CONNECT and its answer: (stream number, stream)."""
        number = self.request([(":method", "CONNECT"), (":authority", authority), *extra])
        stream = self.streams[number]
        self.wait(lambda: stream.headers is not None or stream.reset is not None, timeout,
                  f"the answer to CONNECT {authority}")
        return number, stream

    def send(self, number, data, end_stream=False, piece=None):
        """All of it, as the windows open."""
        view = memoryview(data)
        deadline = time.monotonic() + 60
        while view:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size,
                       piece or len(view), len(view))
            if room <= 0:
                assert time.monotonic() < deadline, "no window for 60 s"
                self.pump()
                continue
            last = room == len(view)
            self.h2.send_data(number, bytes(view[:room]), end_stream=end_stream and last)
            view = view[room:]
            self.flush()
            if not piece:
                self.pump(0)
        if not data and end_stream:
            self.h2.end_stream(number)
            self.flush()

    def end(self, number):
        self.h2.end_stream(number)
        self.flush()

    def reset(self, number, code=Errors.CANCEL):
        self.h2.reset_stream(number, code)
        self.flush()

    def wait_data(self, number, count, timeout=15):
        stream = self.streams[number]
        self.wait(lambda: len(stream.data) >= count or stream.ended or stream.reset is not None,
                  timeout, f"{count} bytes")
        return bytes(stream.data)


def open_tunnel(host, address, context, server_name=None, **kwargs):
    return Tunnel(host.dial(address, HBONE_PORT), context, server_name, **kwargs)


class ServerOptions:
    """How the HBONE server behaves; everything may be combined."""

    def __init__(self, status=200, piece=None, window=None, goaway_after=None, mute_pings=False,
                 reset_with=None, close_after_headers=False, connection_window=None,
                 max_streams=None, version=None, alpn=("h2",), noise=None, refuse_with=None,
                 complain=None):
        self.status = status
        self.piece = piece                  # bytes of each DATA frame sent
        self.window = window                # initial stream window offered
        self.goaway_after = goaway_after    # streams after which a GOAWAY is sent
        self.mute_pings = mute_pings
        self.reset_with = reset_with        # RST_STREAM code once the first DATA has come
        self.close_after_headers = close_after_headers
        self.connection_window = connection_window
        self.max_streams = max_streams
        self.version = version or ssl.TLSVersion.TLSv1_3
        self.alpn = alpn
        self.noise = noise                  # bytes sent instead of HTTP/2
        self.refuse_with = refuse_with      # RST_STREAM code instead of an answer
        self.complain = complain            # GOAWAY code instead of an answer


def hbone_server(channel, pair, root, options, port=HBONE_PORT, shared=None):
    """Echoes every stream; tells the test of each request, tunnel end and odd thing as an event."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = options.version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(root)
    context.load_cert_chain(pair.certificate_path, pair.key_path)
    if options.alpn:
        context.set_alpn_protocols(list(options.alpn))
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE  # the client's first choice shows
    names = {}
    context.sni_callback = lambda tls, name, _: names.__setitem__(tls, name)
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("", port))
    listener.listen(512)
    lock = threading.Lock()

    def tell(**event):
        with lock:
            channel.event(event)

    def one(sock, address, number):
        try:
            tls = context.wrap_socket(sock, server_side=True)
        except (ssl.SSLError, OSError) as error:
            tell(kind="handshake-failed", error=str(error), tunnel=number)
            return
        facts = {"sni": names.pop(tls, None), "alpn": tls.selected_alpn_protocol(),
                 "version": tls.version(), "resumed": tls.session_reused,
                 "cipher": tls.cipher()[0], "identities": identities(tls),
                 "peer": address[0].replace("::ffff:", ""), "tunnel": number}
        tell(kind="tunnel", **facts)
        try:
            _ServerTunnel(tls, options, tell, facts).run()
            tell(kind="tunnel-end", tunnel=number, error=None)
        except (OSError, h2.exceptions.ProtocolError) as error:
            tell(kind="tunnel-end", tunnel=number, error=repr(error))

    channel.ready()
    number = 0
    while True:
        sock, address = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number += 1
        threading.Thread(target=one, args=(sock, address, number), daemon=True).start()


class _ServerTunnel:
    def __init__(self, tls, options, tell, facts):
        self.tls = tls
        self.options = options
        self.tell = tell
        self.facts = facts
        self.pending = collections.defaultdict(bytearray)
        self.ending = set()
        self.requests = 0
        self.goaway_sent = False
        config = h2.config.H2Configuration(
            client_side=False, header_encoding="utf-8", validate_outbound_headers=False,
            validate_inbound_headers=False, normalize_outbound_headers=False)
        offered = {Codes.INITIAL_WINDOW_SIZE: options.window,
                   Codes.MAX_CONCURRENT_STREAMS: options.max_streams}
        self.h2 = _connection(config, {code: value for code, value in offered.items()
                                       if value is not None})
        if options.connection_window:
            self.h2.increment_flow_control_window(options.connection_window)
        if options.noise is None:
            self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.tls.sendall(data)

    def run(self):
        if self.options.noise is not None:
            self.tls.sendall(self.options.noise)
        while True:
            data = self.tls.recv(1 << 16)
            if not data:
                return
            pinged = False
            for event in self.h2.receive_data(data):
                pinged |= isinstance(event, h2.events.PingReceived)
                self.handle(event)
            if pinged and self.options.mute_pings:
                self.h2.clear_outbound_data_buffer()
            for number in list(self.pending):
                self.echo(number)
            self.flush()

    def handle(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.request(event)
        elif isinstance(event, h2.events.DataReceived):
            if self.options.reset_with is not None:
                self.h2.reset_stream(event.stream_id, self.options.reset_with)
                return
            self.pending[event.stream_id] += event.data
            if event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ending.add(event.stream_id)
            self.pending[event.stream_id] += b""
        elif isinstance(event, h2.events.StreamReset):
            self.pending.pop(event.stream_id, None)
            self.tell(kind="reset", code=int(event.error_code), tunnel=self.facts["tunnel"])
        elif isinstance(event, h2.events.PingReceived):
            self.tell(kind="ping", tunnel=self.facts["tunnel"])
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.tell(kind="goaway", code=int(event.error_code), tunnel=self.facts["tunnel"])
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self.tell(kind="settings", tunnel=self.facts["tunnel"],
                      values={int(k): v.new_value for k, v in event.changed_settings.items()})

    def request(self, event):
        self.requests += 1
        headers = [tuple(pair) for pair in event.headers]
        self.tell(kind="request", headers=headers, stream=event.stream_id, **self.facts)
        if self.options.refuse_with is not None:
            self.h2.reset_stream(event.stream_id, self.options.refuse_with)
            return
        if self.options.complain is not None:
            self.h2.close_connection(self.options.complain, last_stream_id=event.stream_id)
            self.flush()
            raise ConnectionAbortedError("told to")
        status = self.options.status
        self.h2.send_headers(event.stream_id, [(":status", str(status))], end_stream=status != 200)
        if self.options.close_after_headers:
            self.flush()
            raise ConnectionAbortedError("told to")
        after = self.options.goaway_after
        if after is not None and self.requests >= after and not self.goaway_sent:
            self.goaway_sent = True
            # By hand: h2 refuses to go on after close_connection(), a graceful server does go on.
            self.flush()
            payload = event.stream_id.to_bytes(4, "big") + bytes(4)
            self.tls.sendall(len(payload).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + payload)

    def echo(self, number):
        waiting = self.pending[number]
        while waiting:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size,
                       self.options.piece or len(waiting), len(waiting))
            if room <= 0:
                return
            self.h2.send_data(number, bytes(waiting[:room]))
            del waiting[:room]
        if number in self.ending:
            self.h2.end_stream(number)
            self.ending.discard(number)
            del self.pending[number]
        elif not waiting:
            del self.pending[number]
