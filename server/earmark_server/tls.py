"""The server's X.509: an authority of its own, the server's certificate, and the devices' client certificates. All ECDSA.

A device trusts this authority because the invitation's fingerprint covers it; no public authority is asked.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from earmark_server.settings import RESTORE
from earmark_shared.crypto.nodes import load_node
from earmark_shared.errors import StoreError
from earmark_shared.files import disk_errors, read_private, write_atomic, write_private
from earmark_shared.wire.channel import Credentials

DAY_S = 86_400
CA_LIFE_S = 3650 * DAY_S
SERVER_LIFE_S = 397 * DAY_S
CLIENT_LIFE_S = 90 * DAY_S
SKEW_S = 300
"""How far a device's clock may be behind."""
LOCAL_NAMES = ("localhost", "127.0.0.1")


class TlsAuthority:
    """The key that issues TLS certificates, and its own certificate."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        """Hold what `create` made or `load` read."""
        self._key = key
        self.certificate = certificate

    @classmethod
    def create(cls, *, now_s: int) -> Self:
        """Make a new authority on P-256."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Earmark enrolment")
        builder = _builder(name, key.public_key(), now_s, CA_LIFE_S).issuer_name(name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(is_authority=True), critical=True)
        return cls(key, builder.sign(key, SHA256()))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; StoreError if it is missing or damaged."""
        try:
            key = load_pem_private_key(read_private(folder / "ca.key"), password=None)
            with disk_errors(folder / "ca.pem"):
                certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        except (ValueError, TypeError) as error:
            raise StoreError(f"{folder / 'ca.key'} or ca.pem can't be read.", hint=RESTORE) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise StoreError(f"{folder / 'ca.key'} is not an elliptic-curve key.", hint=RESTORE)
        return cls(key, certificate)

    def save(self, folder: Path) -> None:
        """Write the key and the certificate; 0600. StoreError if there are some."""
        write_private(folder / "ca.key", _pem(self._key))
        write_private(folder / "ca.pem", self.pem)

    @property
    def pem(self) -> bytes:
        """The authority's certificate, PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The authority's certificate, DER."""
        return self.certificate.public_bytes(Encoding.DER)

    def issue_server(self, names: tuple[str, ...], *, now_s: int, life_s: int = SERVER_LIFE_S) -> Credentials:
        """Make a key and a certificate for a server reached by `names` (host names and addresses)."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(names[0]), key.public_key(), now_s, life_s)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        return Credentials(_pem(key), self._sign(builder, ExtendedKeyUsageOID.SERVER_AUTH).public_bytes(Encoding.PEM))

    def issue_client(self, node_key: bytes, alias: bytes, *, now_s: int, life_s: int = CLIENT_LIFE_S) -> bytes:
        """Return a client certificate, DER, for the device `alias` and its node key; SignatureError if that is none."""
        builder = _builder(_name(alias.hex()), load_node(node_key), now_s, life_s)
        return self._sign(builder, ExtendedKeyUsageOID.CLIENT_AUTH).public_bytes(Encoding.DER)

    def _sign(self, builder: x509.CertificateBuilder, use: x509.ObjectIdentifier) -> x509.Certificate:
        builder = builder.issuer_name(self.certificate.subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(is_authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        return builder.sign(self._key, SHA256())


def save_server(folder: Path, credentials: Credentials) -> None:
    """Write the server's key and certificate over the old ones; 0600."""
    write_atomic(folder / "server.key", credentials.key_pem)
    write_atomic(folder / "server.pem", credentials.cert_pem)


def load_server(folder: Path) -> Credentials:
    """Read what `save_server` wrote."""
    return Credentials(read_private(folder / "server.key"), read_private(folder / "server.pem"))


def _builder(subject: x509.Name, public: ec.EllipticCurvePublicKey, now_s: int, life_s: int) -> x509.CertificateBuilder:
    begin = dt.datetime.fromtimestamp(now_s - SKEW_S, dt.UTC)
    end = dt.datetime.fromtimestamp(now_s + life_s, dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).public_key(public)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
