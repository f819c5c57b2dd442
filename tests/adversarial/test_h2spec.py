"""Row 12 of docs/adversarial.md: h2spec, through a relay that presents a certificate.

h2spec is a Go module: it is taken from $MESHNODE_H2SPEC, the path or build/tools, or installed
there with `go install`; without any of these the test is skipped and says so."""

import os
import re
import shutil
import subprocess
import warnings
import xml.etree.ElementTree

import certificates
import pki
import pytest
import relay
import system

PORT = 18_000
MODULE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
TOOLS = os.path.join(system.ROOT, "build", "tools")

# (section, case): why it does not apply to an endpoint that only answers CONNECT. The page
# docs/adversarial.md lists the same.
NOT_OURS = {
    ("generic/2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream"): "needs a body",
    ("generic/2", "Sends a PRIORITY frame on half-closed (remote) stream"): "needs a body",
    ("http2/6.5.3", "Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE"): "needs a body",
    ("http2/6.9.1", "Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS "
                    "frame"): "needs a body",
    ("http2/6.9.2", "Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame"):
        "needs a body",
    ("http2/6.9.2", "Sends a SETTINGS frame for window size to be negative"): "needs a body",
    ("http2/4.2", "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE"):
        "assumes 16,384",
    ("http2/5.1", "half closed (remote): Sends a DATA frame"): "closed by then",
    ("http2/5.1", "half closed (remote): Sends a HEADERS frame"): "closed by then",
    ("http2/6.1", "Sends a DATA frame on the stream that is not in \"open\" or \"half-closed "
                  "(local)\" state"): "closed by then",
    ("http2/5.1", "closed: Sends a DATA frame after sending RST_STREAM frame"): "RFC 7540",
    ("http2/5.1", "closed: Sends a HEADERS frame after sending RST_STREAM frame"): "RFC 7540",
    ("http2/5.1", "closed: Sends a DATA frame"): "RFC 7540",
    ("http2/5.1", "closed: Sends a HEADERS frame"): "RFC 7540",
    ("http2/5.1.2", "Sends HEADERS frames that causes their advertised concurrent stream limit to "
                    "be exceeded"): "each is answered at once",
}


def program():
    for found in (os.environ.get("MESHNODE_H2SPEC"), shutil.which("h2spec"),
                  os.path.join(TOOLS, "h2spec")):
        if found and os.access(found, os.X_OK):
            return found
    go = shutil.which("go") or "/usr/local/go/bin/go"
    if not os.access(go, os.X_OK):
        return None
    environment = {**os.environ, "GOBIN": TOOLS, "GOPATH": os.path.join(TOOLS, "go"),
                   "GOCACHE": os.path.join(TOOLS, "cache"), "GOFLAGS": "-modcacherw"}
    try:
        subprocess.run([go, "install", MODULE], env=environment, check=True, timeout=90,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return os.path.join(TOOLS, "h2spec")


def outcomes(path):
    """{(section, case): None or what went wrong}"""
    found = {}
    with open(path, "rb") as report:  # h2spec quotes payload as it is
        text = re.sub(rb"[^\t\n\r -~]", b"?", report.read())
    for suite in xml.etree.ElementTree.fromstring(text):
        for case in suite:
            wrong = [part.text or part.tag for part in case]
            found[case.get("package"), case.get("classname")] = wrong[0] if wrong else None
    return found


def test_every_case_of_h2spec_that_applies_passes(mesh, unharmed):
    tool = program()
    if tool is None:
        warnings.warn("h2spec is missing and could not be installed: row 12 IS NOT SHOWN")
        pytest.skip("no h2spec, and no go (or no network) to install it with")
    report = os.path.join(mesh.lab.directory, "h2spec.xml")
    pair = certificates.good(mesh)
    with mesh.c.serve(relay.relay, PORT, mesh.b.v4, pair, mesh.authority.certificate_path,
                      pki.server_name("shop", "web")):
        done = mesh.c.run([tool, "-h", "127.0.0.1", "-p", str(PORT), "-j", report], check=False,
                          timeout=300)
    found = outcomes(report)
    assert len(found) > 140, done.stdout + done.stderr
    assert set(NOT_OURS) <= set(found), set(NOT_OURS) - set(found)
    failed = {case: wrong for case, wrong in found.items() if wrong and case not in NOT_OURS}
    print(f"{len(found) - len(NOT_OURS)} cases passed, {len(NOT_OURS)} do not apply")
    assert not failed, failed
