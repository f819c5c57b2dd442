"""The arms: what lies between the client program and the server program."""

import os
import subprocess
import time
from pathlib import Path

from . import certificates, wire
from .lab import Failed, Host, command, congestion_control, connect, family

APP_PORT = 9000
TLS_PORT = 15443
HBONE_PORT = 15008
CLIENT_USER = "nobody"
SERVER_USER = "daemon"
SUITE = "TLS_AES_128_GCM_SHA256"
GROUP = "X25519"
READY_SECONDS = 15


class Arm:
    """Two hosts, the origin on the second, and nothing between: also the `direct` arm."""

    name = "direct"
    tls_port = None
    client_user = CLIENT_USER

    def __init__(self, index, work, cpus, options):
        self.work = Path(work)
        self.options = options
        logs = self.work / "logs"
        logs.mkdir(exist_ok=True)
        self.hosts = []
        self.proxies = []
        for number, side in enumerate(("client", "server"), start=1):
            self.hosts.append(
                Host(f"{self.name}-{side}", f"10.77.{index}.{number}", cpus[number - 1], logs,
                     congestion_control(options.congestion)))
        self.client, self.server = self.hosts
        self.certificates = self.work / "certificates"
        self.config = self.work / self.name
        self.config.mkdir(exist_ok=True)

    def start(self):
        connect(self.client, self.server)
        self.server.start("origin", str(self.work / "load"), "serve", str(APP_PORT),
                          user=SERVER_USER)
        self.start_proxies()
        watch = self.watch_wire() if self.tls_port else None
        self.load("probe", "--seconds", str(READY_SECONDS))
        if watch:
            self.verify(watch)

    def start_proxies(self):
        pass

    def watch_wire(self):
        watch = subprocess.Popen(
            [*self.server.prefix(), "/usr/bin/python3", str(Path(wire.__file__)),
             str(self.tls_port), str(READY_SECONDS)], stdout=subprocess.PIPE, text=True)
        watch.stdout.readline()
        return watch

    def verify(self, watch):
        """That the first connection's bytes went where the arm claims, as the TLS agreed on."""
        said = watch.communicate()[0].split()
        if not said:
            raise Failed(f"{self.name}: the probe was answered without a TLS handshake on the wire")
        if said != ["TLSv1.3", SUITE, GROUP]:
            raise Failed(f"{self.name}: its two ends settled on {' '.join(said)}")

    def target(self):
        return f"127.0.0.1:{APP_PORT}" if self.tls_port else f"{self.server.address}:{APP_PORT}"

    def watched(self):
        """All proxy processes of both hosts, as they are now."""
        self.check()
        return [pid for process in self.proxies for pid in family(process.pid)]

    def load_argv(self, *argv):
        return [str(self.work / "load"), argv[0], self.target(), *argv[1:]]

    def load(self, *argv):
        return self.as_client(*self.load_argv(*argv))

    def as_client(self, *argv):
        return command(*self.client.prefix(self.client_user), *argv)

    def check(self):
        for host in self.hosts:
            host.check()

    def stop(self):
        for host in self.hosts:
            host.stop()


class FloorArm(Arm):
    """A pair of user-space relays that do nothing but move bytes."""

    name = "floor"

    def start_proxies(self):
        load = str(self.work / "load")
        self.proxies.append(self.server.start("relay", load, "relay", str(TLS_PORT),
                                              f"127.0.0.1:{APP_PORT}"))
        self.proxies.append(self.client.start("relay", load, "relay", str(APP_PORT),
                                              f"{self.server.address}:{TLS_PORT}"))

    def target(self):
        return f"127.0.0.1:{APP_PORT}"


class CapturedFloorArm(FloorArm):
    """The same pair, met as a mesh is: the client dials the origin's own address, and each host has
    the one rule without which its traffic would go past the pair."""

    name = "captured-floor"

    def start_proxies(self):
        super().start_proxies()
        self.client.run("iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport",
                        str(APP_PORT), "-m", "owner", "--uid-owner", CLIENT_USER, "-j", "REDIRECT")
        self.server.run("iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport",
                        str(APP_PORT), "-j", "REDIRECT", "--to-ports", str(TLS_PORT))

    def target(self):
        return f"{self.server.address}:{APP_PORT}"


class HaproxyArm(Arm):
    name = "haproxy"
    tls_port = TLS_PORT

    COMMON = f"""
global
  nbthread {{threads}}
  maxconn 8000
  ssl-default-bind-ciphersuites {SUITE}
  ssl-default-server-ciphersuites {SUITE}
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
  {{tuning}}
defaults
  mode tcp
  maxconn 8000
  timeout connect 10s
  timeout client 1h
  timeout server 1h
"""
    CLIENT = """
listen out
  bind 127.0.0.1:{app}
  server peer {server}:{tls} ssl crt {cert} ca-file {ca} verify required verifyhost {name} sni str({name})
"""
    SERVER = """
listen in
  bind {server}:{tls} ssl crt {cert} ca-file {ca} verify required curves {group}
  server app 127.0.0.1:{app}
"""

    def start_proxies(self):
        size = self.options.haproxy_bufsize
        common = self.COMMON.format(threads=self.options.threads,
                                    tuning=f"tune.bufsize {size}" if size else "")
        for host, account, text in ((self.client, "client", self.CLIENT),
                                    (self.server, "server", self.SERVER)):
            file = self.config / f"{account}.cfg"
            file.write_text(common + text.format(
                app=APP_PORT, tls=TLS_PORT, server=self.server.address, group=GROUP,
                name=certificates.SERVER_NAME, ca=self.certificates / "ca.crt",
                cert=self.certificates / certificates.NAMESPACE / account / "tls.pem"))
            self.proxies.append(host.start("haproxy", "haproxy", "-db", "-q", "-f", str(file)))


class StunnelArm(Arm):
    name = "stunnel"
    tls_port = TLS_PORT

    COMMON = f"""
foreground = yes
syslog = no
debug = err
pid =
socket = a:SO_REUSEADDR=1
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[mesh]
sslVersion = TLSv1.3
ciphersuites = {SUITE}
curves = {GROUP}
verifyChain = yes
CAfile = {{ca}}
cert = {{cert}}
key = {{key}}
"""
    CLIENT = """client = yes
accept = 127.0.0.1:{app}
connect = {server}:{tls}
sni = {name}
checkHost = {name}
"""
    SERVER = """accept = {server}:{tls}
connect = 127.0.0.1:{app}
"""

    def start_proxies(self):
        for host, account, text in ((self.client, "client", self.CLIENT),
                                    (self.server, "server", self.SERVER)):
            own = self.certificates / certificates.NAMESPACE / account
            file = self.config / f"{account}.conf"
            file.write_text((self.COMMON + text).format(
                app=APP_PORT, tls=TLS_PORT, server=self.server.address,
                name=certificates.SERVER_NAME, ca=self.certificates / "ca.crt",
                cert=own / "tls.crt", key=own / "tls.key"))
            self.proxies.append(host.start("stunnel", "stunnel4", str(file)))


class MeshnodeArm(Arm):
    """Two enrolled users, captured; the client dials the server's own address."""

    name = "meshnode"
    tls_port = HBONE_PORT

    NODE = """apiVersion: meshnode.io/v1
kind: Node
metadata: {{name: {account}-host}}
spec:
  address: {address}
  trustDomain: {domain}
  identity: {{source: files, directory: {certificates}}}
  proxy: {{threads: {threads}}}
  accessLog: {{format: "off"}}
---
apiVersion: meshnode.io/v1
kind: Workload
metadata: {{name: {account}, namespace: {namespace}, labels: {{app: {account}}}}}
spec:
  match: {{user: {user}}}
  serviceAccount: {account}
"""
    PORTS = "  ports: [{{name: tcp, port: {port}, protocol: TCP}}]\n"
    # The same file on both hosts: on the server's own it names the Workload above.
    ENTRY = """---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: server
  namespace: {namespace}
  labels: {{app: server, networking.istio.io/tunnel: http}}
spec:
  address: {server}
  serviceAccount: server
  ports: {{tcp: {port}}}
"""

    def start_proxies(self):
        binary = os.environ["MESHNODE_BIN"]
        if not os.access(binary, os.X_OK):
            raise Failed(f"meshnode: {binary}: no such program; build it or set MESHNODE_BIN")
        for host, account, user in ((self.server, "server", SERVER_USER),
                                    (self.client, "client", CLIENT_USER)):
            self.proxies.append(self.start_agent(binary, host, account, user))
        self.await_ready()

    def start_agent(self, binary, host, account, user):
        base = self.config / account
        for part in ("config", "state", "run"):
            (base / part).mkdir(parents=True, exist_ok=True)
        text = self.NODE + (self.PORTS if account == "server" else "") + self.ENTRY
        (base / "config" / "mesh.yaml").write_text(text.format(
            account=account, user=user, threads=self.options.threads, address=host.address,
            server=self.server.address,
            port=APP_PORT, domain=certificates.TRUST_DOMAIN, namespace=certificates.NAMESPACE,
            certificates=self.certificates))
        return host.start("agent", binary, "agent", "--config-dir", str(base / "config"),
                          "--state-dir", str(base / "state"), "--run-dir", str(base / "run"))

    def await_ready(self):
        """Both agents' readiness ports answer before the first connection is made: one made
        earlier would go past rules that are not there yet."""
        for host in self.hosts:
            deadline = time.monotonic() + READY_SECONDS
            while not self.is_ready(host):
                self.check()
                if time.monotonic() > deadline:
                    raise Failed(f"{host.name}: the agent is not ready after {READY_SECONDS} s")
                time.sleep(0.1)

    @staticmethod
    def is_ready(host):
        try:
            return "200" in host.run("/usr/bin/python3", "-c", READY_PROGRAM).split()
        except Failed:
            return False

    def target(self):
        return f"{self.server.address}:{APP_PORT}"


READY_PROGRAM = """
import http.client
link = http.client.HTTPConnection("127.0.0.1", 15021, timeout=2)
link.request("GET", "/healthz/ready")
print(link.getresponse().status)
"""

ARMS = {arm.name: arm for arm in (Arm, FloorArm, CapturedFloorArm, HaproxyArm, StunnelArm,
                                  MeshnodeArm)}
