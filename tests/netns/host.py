"""A host of the lab: a network namespace with an agent of its own and programs of any user."""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess

import procs
from procs import Child, ServerChild, eventually
from scrape import dechunk, parse_metrics
from system import BINARY, children_of, is_worker, sh, start_time


class NamespacedSockets:
    """Sockets made inside a host's namespace, as a user, without leaving this process."""

    def __init__(self, namespace):
        self._namespace = namespace

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, uid=0):
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            procs.enter_namespace(self._namespace)
            # xt_owner and sock_diag both read the file system user of the creating thread.
            procs.LIBC.setfsuid(ctypes.c_uint(uid))
            return socket.socket(family, kind)
        finally:
            procs.LIBC.setfsuid(ctypes.c_uint(0))
            if procs.LIBC.setns(home, procs.CLONE_NEWNET) != 0:
                os._exit(70)
            os.close(home)


class Host:
    def __init__(self, lab, name, index):
        self.lab = lab
        self.name = name
        self.namespace = f"{lab.prefix}{name}"
        self.v4 = f"10.77.0.{index}"
        self.v6 = f"fd77:77::{index:x}"
        self.directory = os.path.join(lab.directory, name)
        self.config = os.path.join(self.directory, "c")
        self.state = os.path.join(self.directory, "s")
        self.run_directory = os.path.join(self.directory, "r")
        self.certs = os.path.join(self.directory, "certs")
        for made in (self.config, self.state, self.run_directory, self.certs):
            os.makedirs(made, mode=0o755)
        self.log_path = os.path.join(self.directory, "agent.log")
        self.sockets = NamespacedSockets(self.namespace)
        self.binary = BINARY
        self.launcher = []  # what the agent and the commands are started through, ending in exec
        self._agent = None
        self._known = {}
        self._interface(index)

    def _interface(self, index):
        ns, bridge = self.namespace, self.lab.bridge
        sh(["ip", "netns", "add", ns])
        self.lab.namespaces.append(ns)
        sh(["ip", "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name",
            f"to-{self.name}", "netns", bridge])
        sh(["ip", "-n", bridge, "link", "set", f"to-{self.name}", "master", "br0", "up"])
        # No link-local address: it would appear when its DAD ends, in the midst of a comparison.
        for argv in (["link", "set", "lo", "up"],
                     ["link", "set", "eth0", "addrgenmode", "none"], ["link", "set", "eth0", "up"],
                     ["addr", "add", f"{self.v4}/24", "dev", "eth0"],
                     ["addr", "add", f"{self.v6}/64", "dev", "eth0", "nodad"]):
            sh(["ip", "-n", ns, *argv])
        # Virtual addresses need a route; nobody answers there.
        sh(["ip", "-n", ns, "route", "add", "default", "dev", "eth0"])
        sh(["ip", "-n", ns, "-6", "route", "add", "default", "dev", "eth0"])
        self.sysctl("net.ipv4.ip_local_port_range", "20000 65535")
        self.sysctl("net.ipv4.tcp_tw_reuse", "1")

    def address(self, family):
        return self.v4 if family == socket.AF_INET else self.v6

    def add_address(self, v4):
        sh(["ip", "-n", self.namespace, "addr", "add", f"{v4}/24", "dev", "eth0"])

    # -- programs ---------------------------------------------------------------------------

    def nsenter(self, argv, uid=0):
        user = [] if not uid else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *user, *argv]

    def run(self, argv, uid=0, check=True, **kwargs):
        return sh(self.nsenter(argv, uid), check=check, **kwargs)

    def sysctl(self, name, value):
        self.call(_write_sysctl, name, value)

    def call(self, function, *args, uid=0, cgroup=None, timeout=60):
        with self.spawn(function, *args, uid=uid, cgroup=cgroup) as child:
            return child.result(timeout)

    def spawn(self, function, *args, uid=0, cgroup=None):
        return Child(self.namespace, function, args, uid=uid, cgroup=cgroup)

    def serve(self, function, *args, uid=0, cgroup=None):
        return ServerChild(self.namespace, function, args, uid=uid, cgroup=cgroup)

    def dial(self, address, port, uid=0, timeout=10, source=None, receive_buffer=None):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self.sockets.socket(family, uid=uid)
        try:
            sock.settimeout(timeout)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                sock.bind((source, 0))
            sock.connect((address, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except BaseException:
            sock.close()
            raise

    # -- the agent --------------------------------------------------------------------------

    def write(self, name, text, mode=0o644):
        """A configuration file, replaced in one step."""
        path = os.path.join(self.config, name)
        temporary = os.path.join(self.directory, "new")
        with open(temporary, "w" if isinstance(text, str) else "wb") as out:
            out.write(text)
        os.chmod(temporary, mode)
        os.rename(temporary, path)
        return path

    def meshnode(self, *argv, check=True, **kwargs):
        directories = ["--config-dir", self.config, "--state-dir", self.state, "--run-dir",
                       self.run_directory]
        return self.run([*self.launcher, self.binary, *argv, *directories], check=check, **kwargs)

    def start_agent(self, wait=True, cgroup=None):
        assert self._agent is None or self._agent.poll() is not None, f"{self.name}: agent runs"
        argv = [*self.launcher, self.binary, "agent", "--config-dir", self.config, "--state-dir",
                self.state, "--run-dir", self.run_directory]
        with open(self.log_path, "ab") as log:
            self._agent = subprocess.Popen(_in_cgroup(cgroup, self.nsenter(argv)),
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._remember(self._agent.pid)
        if wait:
            try:
                eventually(self.ready, 15, what=f"readiness of {self.name}")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.log()[-6000:]}") from None
            self.pids()

    def ready(self):
        if self._agent.poll() is not None:
            raise AssertionError(f"{self.name}: agent ended with {self._agent.returncode}\n"
                                 f"{self.log()[-6000:]}")
        return self.http(15021, "/healthz/ready")[0] == 200

    def http(self, port, path):
        """Status code and body of a GET on this host's loopback."""
        with self.dial("127.0.0.1", port, timeout=5) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                         .encode())
            answer = bytearray()
            while chunk := sock.recv(1 << 16):
                answer += chunk
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            body = dechunk(body)
        return int(head.split()[1]), body.decode()

    def agent_running(self):
        return self._agent is not None and self._agent.poll() is None

    @property
    def supervisor(self):
        return self._agent.pid

    def workers(self):
        found = children_of(self._agent.pid) if self.agent_running() else []
        found = [pid for pid in found if is_worker(pid, self.binary)]
        for pid in found:
            self._remember(pid)
        return found

    def worker(self):
        return eventually(lambda: self.workers(), 5, what=f"a worker of {self.name}")[0]

    def pids(self):
        return [self.supervisor, *self.workers()]

    def _remember(self, pid):
        self._known[pid] = start_time(pid)

    def stop_agent(self, timeout=15):
        """SIGTERM, as systemd would."""
        if not self.agent_running():
            return
        self.pids()
        self._agent.send_signal(signal.SIGTERM)
        try:
            code = self._agent.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill_agent()
            raise AssertionError(f"{self.name}: agent still there {timeout} s after SIGTERM\n"
                                 f"{self.log()[-3000:]}") from None
        return code

    def kill_agent(self):
        """SIGKILL to supervisor and worker."""
        if self.agent_running():
            self.pids()
            self._agent.kill()
        if self._agent is not None:
            self._agent.wait()
        for pid, started in self._known.items():
            if started is not None and start_time(pid) == started:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        eventually(lambda: not self.leftover_agents(), 5, what="death of the agent")

    def leftover_agents(self):
        return [pid for pid, started in self._known.items()
                if started is not None and start_time(pid) == started]

    def signal_agent(self, number):
        self._agent.send_signal(number)

    def log(self):
        try:
            with open(self.log_path, errors="replace") as log:
                return log.read()
        except FileNotFoundError:
            return ""

    def status(self):
        done = self.meshnode("status", "-o", "json", check=False)
        assert done.returncode in (0, 1), f"status: exit {done.returncode}: {done.stderr}"
        answer = json.loads(done.stdout)
        assert (done.returncode == 1) == (answer["health"] == "degraded"), answer["health"]
        return answer

    def problems(self, code=None):
        return [p for p in self.status()["problems"] if code is None or p["code"] == code]

    def metrics(self):
        """[(name, {label: value}, number)] of every sample."""
        code, body = self.http(15020, "/metrics")
        assert code == 200, code
        return parse_metrics(body)

    def metric_sum(self, name, **labels):
        return sum(value for found, have, value in self.metrics() if found == name
                   and all(have.get(key) == want for key, want in labels.items()))

    def pss_kib(self):
        """Proportional set size of all the agent's processes together."""
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                total += int(re.search(r"^Pss:\s+(\d+) kB", rollup.read(), re.M).group(1))
        return total

    def rules(self):
        """Both families' rules, without counters and the comments that carry a date."""
        text = []
        for tool in ("iptables-save", "ip6tables-save"):
            for line in self.run([tool]).stdout.splitlines():
                if not line.startswith("#"):
                    text.append(re.sub(r"\[\d+:\d+\]", "[0:0]", line))
        return "\n".join(text)

    def routing(self):
        """Addresses, routing rules and routes of every table."""
        return "\n".join(self.run(["ip", *argv]).stdout for argv in (
            ["-4", "rule"], ["-6", "rule"], ["-4", "route", "show", "table", "all"],
            ["-6", "route", "show", "table", "all"], ["-brief", "addr"]))


def _write_sysctl(name, value):
    with open("/proc/sys/" + name.replace(".", "/"), "w") as out:
        out.write(value)


def _in_cgroup(path, argv):
    if path is None:
        return argv
    return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', path, *argv]
