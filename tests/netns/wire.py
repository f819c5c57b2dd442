"""What is on the wire: tcpdump on the lab's bridge."""

import os
import re
import signal
import subprocess
import time

from procs import eventually


class Capture:
    def __init__(self, laboratory, expression="tcp", octets=0):
        """`octets` of a packet, 0 for all: the fewer, the more packets wait in tcpdump's buffer."""
        self.path = os.path.join(laboratory.directory, f"wire-{time.monotonic_ns()}.pcap")
        self._errors = open(self.path + ".log", "w+")
        self._process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{laboratory.bridge}", "--", "tcpdump", "-n", "-i", "br0",
             "-U", "--immediate-mode", "-s", str(octets), "-B", "65536", "-Z", "root",
             "-w", self.path, expression],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors)
        eventually(lambda: "listening on" in self._log(), 10, what="tcpdump listening")

    def _log(self):
        with open(self._errors.name) as log:
            return log.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            time.sleep(0.3)  # what the kernel has buffered
            self._process.send_signal(signal.SIGINT)
            self._process.wait(10)
        self._errors.close()
        match = re.search(r"(\d+) packets dropped by kernel", self._log())
        assert match and match.group(1) == "0", f"the capture is incomplete: {self._log()}"

    def count(self, marker):
        with open(self.path, "rb") as pcap:
            return pcap.read().count(marker)

    def packets(self, expression):
        """Packets that match a further filter, as tcpdump prints them."""
        done = subprocess.run(["tcpdump", "-n", "-r", self.path, expression], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return done.stdout.splitlines()
