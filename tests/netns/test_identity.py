"""Certificates in files: used when they change, refused with a reason when they are bad."""

import os
import re

import peers
import pki
import pytest
import system
import traffic
from cryptography import x509
from mesh import CLIENT, ECHO, NS, WEB, Mesh
from procs import eventually

WEB_NAME = pki.server_name(NS, "web")


@pytest.fixture(scope="module")
def running():
    with Mesh() as mesh, mesh.b.serve(traffic.echo_server, ECHO, uid=WEB):
        yield mesh


def shown(mesh):
    """Serial of the certificate that b shows for web."""
    pair = mesh.authority.workload(NS, "client")
    context = peers.client_context(mesh.authority.certificate_path, pair)
    with peers.open_tunnel(mesh.c, mesh.b.v4, context, WEB_NAME) as tunnel:
        der = tunnel.tls.getpeercert(binary_form=True)
    return format(x509.load_der_x509_certificate(der).serial_number, "x")


def certificate_of(host, name):
    return next(w for w in host.status()["workloads"] if w["name"] == name)["certificate"]


def replace(mesh, pair, key_mode=0o600, key=None):
    if key is not None:
        pair.key_pem = key
    mesh.authority.install_pair(mesh.b.certs, NS, "web", pair, key_mode)


def test_a_new_certificate_on_disk_is_used_and_old_tunnels_live_on(running):
    mesh = running
    with mesh.a.dial(mesh.b.v4, ECHO, uid=CLIENT) as old:
        traffic.ask(old)
        for _ in range(2):
            pair = mesh.authority.workload(NS, "web")
            replace(mesh, pair)
            eventually(lambda pair=pair: shown(mesh) == pki.serial_of(pair.certificate_pem), 6,
                       0.2, what="the new certificate")
            traffic.ask(old)
        assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True


def bad_pairs(mesh):
    authority = mesh.authority
    me = pki.spiffe(NS, "web")
    return {
        "expired": (authority.leaf([me], pki.now() - 2 * pki.HOUR, pki.now() - pki.HOUR), {},
                    r"expired"),
        "mismatched": (authority.workload(NS, "web"),
                       {"key": authority.workload(NS, "web").key_pem}, r"key"),
        "world-readable": (authority.workload(NS, "web"), {"key_mode": 0o644},
                           r"mode|readable|permission"),
        "other identity": (authority.workload(NS, "other"), {}, r"URI|identity|spiffe|other"),
        "two URI SANs": (authority.leaf([me, pki.spiffe(NS, "client")]), {}, r"URI"),
        "not yet valid": (authority.leaf([me], pki.now() + pki.HOUR, pki.now() + 2 * pki.HOUR), {},
                          r"not yet|valid"),
        "foreign trust domain": (authority.leaf([pki.spiffe(NS, "web", "elsewhere.example")]), {},
                                 r"trust domain|identity|spiffe"),
    }


@pytest.mark.parametrize("kind", ["expired", "mismatched", "world-readable", "other identity",
                                  "two URI SANs", "not yet valid", "foreign trust domain"])
def test_a_bad_certificate_on_disk_is_refused_with_its_reason(running, kind):
    mesh = running
    pair, how, reason = bad_pairs(mesh)[kind]
    before = shown(mesh)
    replace(mesh, pair, **how)

    def reported():
        return [p for p in mesh.b.problems("certificate-rejected")
                if re.search(reason, p["message"], re.I) and "web" in p["object"] + p["message"]]

    problem = eventually(reported, 6, what="the reason in status")[0]
    assert problem["hint"]
    eventually(lambda: mesh.b.status()["health"] == "degraded", 6, what="degraded health")
    assert shown(mesh) == before, "the good certificate in hand stays in use"
    assert traffic.try_ask(mesh.a, mesh.b.v4, ECHO, CLIENT) is True
    good = mesh.authority.workload(NS, "web")
    replace(mesh, good)
    eventually(lambda: shown(mesh) == pki.serial_of(good.certificate_pem), 6, 0.2,
               what="the repaired certificate")


def test_a_garbage_file_is_refused(running):
    mesh = running
    path = os.path.join(mesh.b.certs, NS, "web", "tls.crt")
    before = shown(mesh)
    garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    pki.write_private(path, garbage, 0o644)
    eventually(lambda: mesh.b.problems("certificate-rejected"), 6, what="the reason in status")
    assert shown(mesh) == before
    good = mesh.authority.workload(NS, "web")
    replace(mesh, good)
    eventually(lambda: shown(mesh) == pki.serial_of(good.certificate_pem), 6, 0.2)


def test_status_tells_when_a_certificate_ends_and_where_it_is_from(running):
    certificate = certificate_of(running.a, "client")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", certificate["notAfter"])
    assert certificate["source"]


def test_a_certificate_that_ends_soon_is_a_problem(running):
    mesh = running
    minute = pki.HOUR / 60
    replace(mesh, mesh.authority.leaf([pki.spiffe(NS, "web")], pki.now() - 10 * pki.HOUR,
                                      pki.now() + 5 * minute))
    eventually(lambda: mesh.b.problems("certificate-expiring"), 6, what="certificate-expiring")
    replace(mesh, mesh.authority.workload(NS, "web"))


def test_ca_issue_makes_certificates_the_world_accepts(tmp_path):
    root, certs = str(tmp_path / "ca"), str(tmp_path / "certs")
    system.sh([system.BINARY, "ca", "init", root, "--trust-domain", "lab.example"])
    assert os.stat(os.path.join(root, "ca.key")).st_mode & 0o777 == 0o600
    system.sh([system.BINARY, "ca", "issue", root, "--namespace", "shop",
               "--service-account", "web", "--out", certs, "--ttl", "2h"])
    leaf_path = os.path.join(certs, "shop", "web", "tls.crt")
    assert os.stat(os.path.join(certs, "shop", "web", "tls.key")).st_mode & 0o777 == 0o600
    system.sh(["openssl", "verify", "-x509_strict", "-CAfile", os.path.join(certs, "ca.crt"),
            leaf_path])
    with open(leaf_path, "rb") as pem:
        leaf = x509.load_pem_x509_certificate(pem.read())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://lab.example/ns/shop/sa/web"]
    hours = (leaf.not_valid_after - pki.now()).total_seconds() / 3600
    assert 1.9 < hours <= 2.01
    again = system.sh([system.BINARY, "ca", "init", root, "--trust-domain", "lab.example"],
                      check=False)
    assert again.returncode == 1, "an existing CA must not be overwritten"
