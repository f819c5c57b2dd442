"""Certificates: good ones by `meshnode ca`, bad ones by python-cryptography with the same root."""

import datetime
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import system

HOUR = datetime.timedelta(hours=1)
USAGES = {"serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
          "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}


def now():
    return datetime.datetime.utcnow().replace(microsecond=0)


def spiffe(namespace, account, trust_domain=system.TRUST_DOMAIN):
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"


def server_name(namespace, account, trust_domain=system.TRUST_DOMAIN):
    return f"{account}.{namespace}.sa.{trust_domain}"


def _key_pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


class Pair:
    """A certificate with its key, and files of both for those who want files."""

    def __init__(self, directory, name, certificate, key):
        self.certificate_path = os.path.join(directory, f"{name}.crt")
        self.key_path = os.path.join(directory, f"{name}.key")
        self.certificate_pem = certificate
        self.key_pem = key
        write_private(self.certificate_path, certificate, 0o644)
        write_private(self.key_path, key, 0o600)


def write_private(path, content, mode):
    temporary = path + ".new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as out:
        out.write(content)
    os.chmod(temporary, mode)
    os.rename(temporary, path)


class Authority:
    """A root in `directory`, in the layout of `meshnode ca init`."""

    def __init__(self, directory, trust_domain=system.TRUST_DOMAIN):
        self.directory = directory
        self.trust_domain = trust_domain
        self.certificate_path = os.path.join(directory, "ca.crt")
        self._names = 0
        if os.path.exists(system.BINARY):
            system.sh([system.BINARY, "ca", "init", directory, "--trust-domain", trust_domain])
        else:
            self._make_root()
        with open(self.certificate_path, "rb") as pem:
            self.certificate = x509.load_pem_x509_certificate(pem.read())
        with open(os.path.join(directory, "ca.key"), "rb") as pem:
            self.key = serialization.load_pem_private_key(pem.read(), None)

    def _make_root(self):
        os.makedirs(self.directory, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.trust_domain)])
        uri = x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}")
        certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
                       .public_key(key.public_key()).serial_number(x509.random_serial_number())
                       .not_valid_before(now() - HOUR).not_valid_after(now() + 24 * HOUR)
                       .add_extension(x509.BasicConstraints(True, None), True)
                       .add_extension(_usage(key_cert_sign=True, crl_sign=True), True)
                       .add_extension(x509.SubjectAlternativeName([uri]), False)
                       .sign(key, hashes.SHA256()))
        write_private(self.certificate_path,
                      certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        write_private(os.path.join(self.directory, "ca.key"), _key_pem(key), 0o600)

    def install(self, certs, namespace, account):
        """What an agent with `identity: {source: files}` reads, by `meshnode ca issue`."""
        if os.path.exists(system.BINARY):
            system.sh([system.BINARY, "ca", "issue", self.directory, "--namespace", namespace,
                    "--service-account", account, "--out", certs])
            return
        self.install_pair(certs, namespace, account, self.leaf([spiffe(namespace, account)]))

    def install_pair(self, certs, namespace, account, pair, key_mode=0o600):
        directory = os.path.join(certs, namespace, account)
        os.makedirs(directory, exist_ok=True)
        with open(self.certificate_path, "rb") as root:
            write_private(os.path.join(certs, "ca.crt"), root.read(), 0o644)
        write_private(os.path.join(directory, "tls.key"), pair.key_pem, key_mode)
        write_private(os.path.join(directory, "tls.crt"), pair.certificate_pem, 0o644)

    def leaf(self, uris, not_before=None, not_after=None, authority=False,
             usages=("serverAuth", "clientAuth")):
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        start = not_before or now() - HOUR / 60
        builder = (x509.CertificateBuilder().subject_name(x509.Name([]))
                   .issuer_name(self.certificate.subject).public_key(key.public_key())
                   .serial_number(x509.random_serial_number())
                   .not_valid_before(start).not_valid_after(not_after or now() + HOUR)
                   .add_extension(x509.BasicConstraints(authority, None), True)
                   .add_extension(_usage(digital_signature=True, key_cert_sign=authority), True)
                   .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(
                       self.key.public_key()), False)
                   .add_extension(x509.ExtendedKeyUsage([USAGES[name] for name in usages]),
                                  False))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), True)
        certificate = builder.sign(self.key, hashes.SHA256())
        self._names += 1
        return Pair(self.directory, f"leaf-{self._names}",
                    certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))

    def workload(self, namespace, account):
        return self.leaf([spiffe(namespace, account, self.trust_domain)])


def _usage(**chosen):
    every = dict.fromkeys(["digital_signature", "content_commitment", "key_encipherment",
                           "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
                           "encipher_only", "decipher_only"], False)
    return x509.KeyUsage(**{**every, **chosen})


def serial_of(pem):
    return format(x509.load_pem_x509_certificate(pem).serial_number, "x")
