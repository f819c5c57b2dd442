"""TLS and identity: rows 1 to 11 of docs/adversarial.md, where tests/netns does not show them."""

import contextlib
import datetime
import os
import re
import time

import certificates
import honest
import peers
import pki
import pytest
import strangers
import system
import traffic
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mesh import ECHO
from procs import eventually
from wire import Capture

WEB_NAME = pki.server_name("shop", "web")
# By an attacker that gives way to all others, and has thousands of sockets to look at.
NOTICED_WITHIN = 2
pytestmark = pytest.mark.usefixtures("unharmed")


def s_client(mesh, *options, pair=None, text="", seconds=3):
    """What `openssl s_client` prints of a session with b's port 15008."""
    shown = ["-cert", pair.certificate_path, "-key", pair.key_path] if pair else []
    argv = ["timeout", str(seconds), "openssl", "s_client", "-connect", f"{mesh.b.v4}:15008",
            "-CAfile", mesh.authority.certificate_path, "-servername", WEB_NAME, "-alpn", "h2",
            *shown, *options]
    done = mesh.c.run(argv, check=False, input=text, errors="replace")
    return done.stdout + done.stderr


@pytest.mark.parametrize("options", [
    ["-tls1"], ["-tls1_1"], ["-tls1_2"], ["-groups", "ffdhe2048"], ["-groups", "secp521r1"],
    ["-ciphersuites", "TLS_AES_128_CCM_8_SHA256"]], ids=lambda options: options[-1])
def test_old_versions_and_weak_parameters_meet_an_alert(mesh, options):
    said = s_client(mesh, "-cipher", "ALL:@SECLEVEL=0", *options, pair=certificates.good(mesh))
    assert re.search("alert (protocol version|handshake failure|illegal parameter)", said), said
    assert "Verify return code: 0" not in said or "Cipher is (NONE)" in said


def test_without_a_certificate_nothing_of_http_is_said(mesh):
    secret = b"GET /never-to-be-read HTTP/1.1\r\n\r\n"
    context = peers.client_context(mesh.authority.certificate_path)
    with Capture(mesh.lab) as wire, mesh.c.dial(mesh.b.v4, 15008) as sock:
        tls = context.wrap_socket(sock, server_hostname=WEB_NAME)
        heard = b""
        with pytest.raises(OSError, match="(?i)certificate.required"):
            tls.sendall(secret)
            while True:
                heard += tls.recv(1 << 12)
        assert heard == b""
    assert wire.count(b"never-to-be-read") == 0


def accepted(mesh, pair):
    context = peers.client_context(mesh.authority.certificate_path, pair)
    try:
        with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
            return tunnel.connect(f"{mesh.b.v4}:{ECHO}")[1].status == 200
    except (OSError, peers.TunnelLost, peers.h2.exceptions.ProtocolError):
        return False


@pytest.mark.parametrize("skew", [-300, -2, 300, 5], ids=lambda seconds: f"{seconds:+} s")
def test_a_clock_that_is_off_has_no_tolerance(mesh, skew):
    """A peer's clock that is off shows as a certificate whose life has ended or not begun."""
    off = datetime.timedelta(seconds=abs(skew))
    pair = certificates.expired(mesh, off) if skew < 0 else certificates.not_yet_valid(mesh, off)
    assert not accepted(mesh, pair)
    near = mesh.authority.leaf([certificates.CLIENT_ID], pki.now() - off if skew < 0 else None,
                               pki.now() + off if skew > 0 else None)
    assert accepted(mesh, near), "valid for another few seconds"


WRONG_NAMES = ["spiffe://lab.example\x00.evil.example/ns/shop/sa/client",
               "spiffe://lab.example/ns/shop/sa/client\x00", "spiffe://xlab.example/ns/shop/sa/c",
               "spiffe://lab.example.evil.example/ns/shop/sa/client",
               "spiffe://a.lab.example/ns/shop/sa/client", "spiffe://example/ns/shop/sa/client",
               "spiffe://LAB.EXAMPLE/ns/shop/sa/client", "SPIFFE://lab.example/ns/shop/sa/client",
               "spiffe://lab.example./ns/shop/sa/client", "spiffe://lab.example:443/ns/shop/sa/c",
               "spiffe://u@lab.example/ns/shop/sa/client", "spiffe://lab.example/ns/shop/sa/",
               "spiffe://lab.example/ns/shop/sa/../sa/client", "spiffe://lab.example"]


@pytest.mark.parametrize("name", WRONG_NAMES, ids=repr)
def test_a_name_that_is_nearly_ours_is_refused(mesh, name):
    refused = mesh.b.metric_sum("meshnode_peer_refused_total", reason="tls")
    assert not accepted(mesh, mesh.authority.leaf([name]))
    assert eventually(lambda: mesh.b.metric_sum("meshnode_peer_refused_total",
                                                reason="tls") == refused + 1, 3)


def test_a_chain_of_nine_is_refused(mesh):
    issuer, key = mesh.authority.certificate, mesh.authority.key
    chain = []
    for number in range(9):
        own = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, f"middle {number}")])
        issuer = (x509.CertificateBuilder().subject_name(name).issuer_name(issuer.subject)
                  .public_key(own.public_key()).serial_number(x509.random_serial_number())
                  .not_valid_before(pki.now() - pki.HOUR).not_valid_after(pki.now() + pki.HOUR)
                  .add_extension(x509.BasicConstraints(True, None), True)
                  .sign(key, hashes.SHA256()))
        key = own
        chain.append(issuer)
    maker = pki.Authority.__new__(pki.Authority)
    maker.directory, maker.certificate, maker.key, maker._names = (
        os.path.join(mesh.lab.directory, "chain"), issuer, key, 0)
    os.makedirs(maker.directory, exist_ok=True)
    pair = maker.leaf([certificates.CLIENT_ID])
    with open(pair.certificate_path, "ab") as out:
        for link in reversed(chain):
            out.write(link.public_bytes(serialization.Encoding.PEM))
    assert not accepted(mesh, pair)


def test_there_is_nothing_to_resume_and_no_early_data(mesh):
    saved = os.path.join(mesh.lab.directory, "session")
    said = s_client(mesh, "-sess_out", saved, pair=certificates.good(mesh))
    assert "New, TLSv1.3" in said and "Verify return code: 0" in said, said
    assert "Max Early Data: 0" in said or "Max Early Data" not in said
    assert "Post-Handshake New Session Ticket" not in said
    if os.path.exists(saved):  # s_client writes what it has, a session without a ticket
        again = s_client(mesh, "-sess_in", saved, pair=certificates.good(mesh))
        assert "Reused, " not in again and "New, TLSv1.3" in again, again


def test_a_flood_of_key_updates_ends_the_session(mesh):
    refused = mesh.b.metric_sum("meshnode_peer_refused_total", reason="tls")
    pair = certificates.good(mesh)
    argv = ["openssl", "s_client", "-connect", f"{mesh.b.v4}:15008", "-servername", WEB_NAME,
            "-alpn", "h2", "-cert", pair.certificate_path, "-key", pair.key_path]
    # One 'k' a read of s_client's is one key update.
    script = " ".join(argv) + " < <(sleep 0.5; for i in $(seq 60); do echo k; sleep 0.01; done)"
    mesh.c.run(["timeout", "10", "bash", "-c", script], check=False, errors="replace")
    eventually(lambda: mesh.b.metric_sum("meshnode_peer_refused_total",
                                         reason="tls") == refused + 1, 3)
    assert any("too many key updates" in problem["message"]
               for problem in mesh.b.problems("peer-refused"))


# -- half-open handshakes ------------------------------------------------------------------------

def life_of_one(sock):
    """Seconds, watched by somebody who does not give way to others."""
    born, octets = time.monotonic(), iter(strangers.BEGINNING)
    sock.settimeout(1)
    with sock, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while True:
            sock.send(bytes([next(octets)]))
            with contextlib.suppress(TimeoutError):
                if not sock.recv(100):
                    break
    return time.monotonic() - born


def test_half_open_handshakes_are_cut_and_harm_nobody(mesh):
    count = system.scaled(15_000, 300)
    lived, never_cut, oldest, came = [], [], [], []

    @contextlib.contextmanager
    def attack():
        with mesh.c.serve(strangers.storm, mesh.b.v4, count) as attacker:
            before = strangers.arrived(mesh.b)
            yield
            came.append(strangers.arrived(mesh.b) - before)
            attacker.send("enough")
            # Under the storm it would give way to those that come after it.
            lived.append(life_of_one(mesh.c.dial(mesh.b.v4, 15008)))
            left, longest = attacker.event(60)
            never_cut.append(left)
            oldest.append(longest)

    before = honest.hits(mesh.b, "handshakes")
    honest.check(mesh, attack)
    gave_way = honest.hits(mesh.b, "handshakes") - before
    print(f"{count} half-open handshakes at once and {min(came):.0f} to {max(came):.0f} more in "
          f"{honest.SECONDS} s, of all {gave_way:.0f} gave way; one that was watched lived for "
          f"{min(lived):.2f} to {max(lived):.2f} s, the oldest of all for {max(oldest):.2f} s")
    assert min(came) >= strangers.dials_a_second(count) * honest.SECONDS / 2, "this was no storm"
    assert gave_way >= len(came) * (count - strangers.most_waiting())
    assert set(never_cut) == {0}, never_cut
    assert all(abs(life - strangers.CUT_AFTER) <= 0.5 for life in lived), lived
    assert max(oldest) <= strangers.CUT_AFTER + NOTICED_WITHIN, oldest
    assert any("handshake" in problem["message"]
               for problem in mesh.b.problems("peer-refused") + mesh.b.problems("limit-reached"))


def test_the_right_certificate_is_still_welcome(mesh):
    assert accepted(mesh, certificates.good(mesh))
    assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, uid=4102) is True
