"""One CA and two P-256 certificates, the same for every arm that speaks TLS."""

from pathlib import Path

from .lab import command

TRUST_DOMAIN = "bench.internal"
NAMESPACE = "bench"
SERVER_NAME = "server.bench.internal"

CA = """
[req]
distinguished_name = dn
x509_extensions = ext
prompt = no
[dn]
CN = meshnode benchmark
[ext]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""

LEAF = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = URI:spiffe://{domain}/ns/{namespace}/sa/{account}, DNS:{account}.{domain}
"""


def make(directory):
    """directory/ca.crt and directory/bench/{client,server}/tls.{crt,key}, and tls.pem with both."""
    directory = Path(directory)
    directory.mkdir(mode=0o755)
    authority = directory.parent / "authority"
    authority.mkdir(mode=0o700)
    (authority / "ca.cnf").write_text(CA)
    command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-config", str(authority / "ca.cnf"),
            "-keyout", str(authority / "ca.key"), "-out", str(directory / "ca.crt"))
    for account in ("client", "server"):
        issue(directory, authority, account)


def issue(directory, authority, account):
    target = directory / NAMESPACE / account
    target.mkdir(parents=True)
    extensions = authority / f"{account}.cnf"
    extensions.write_text(LEAF.format(domain=TRUST_DOMAIN, namespace=NAMESPACE, account=account))
    request = authority / f"{account}.csr"
    key = target / "tls.key"
    command("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-subj", f"/CN={account}", "-keyout", str(key), "-out", str(request))
    key.chmod(0o600)
    command("openssl", "x509", "-req", "-in", str(request), "-CA", str(directory / "ca.crt"),
            "-CAkey", str(authority / "ca.key"), "-CAcreateserial", "-days", "1", "-sha256",
            "-extfile", str(extensions), "-out", str(target / "tls.crt"))
    both = target / "tls.pem"
    both.touch(mode=0o600)
    both.write_text((target / "tls.crt").read_text() + key.read_text())
