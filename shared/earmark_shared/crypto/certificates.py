"""Enrolment certificates: the enrolment authority's word that an alias holds an identity key.

On the wire a certificate is 129 bytes: `version(1)=1 || alias(16) || identity(32) || not_after u64 || epoch u64 || sig(64)`,
the signature over label "earmark/certificate" and those five fields, each one part. A certificate ends by its time, by its
alias being revoked, or by its epoch being older than the least one still honoured.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from earmark_shared.crypto.hashing import u64
from earmark_shared.crypto.identities import PUBLIC_SIZE, SIGNATURE_SIZE, Identity, verify
from earmark_shared.errors import CertificateError, SignatureError

LABEL = "earmark/certificate"
VERSION = b"\x01"
ALIAS_SIZE = 16
CERTIFICATE_SIZE = 1 + ALIAS_SIZE + PUBLIC_SIZE + 8 + 8 + SIGNATURE_SIZE


@dataclass(frozen=True)
class Certificate:
    """What the authority vouches for."""

    alias: bytes
    """The device's pseudonym, 16 bytes."""
    identity: bytes
    """Its Ed25519 public key, 32 bytes."""
    not_after_s: int
    epoch: int

    def parts(self) -> tuple[bytes, ...]:
        """Return the signed fields, in order."""
        return VERSION, self.alias, self.identity, u64(self.not_after_s), u64(self.epoch)


@dataclass(frozen=True)
class Enrolment:
    """What a verifier knows about enrolment."""

    authority: bytes
    """The enrolment authority's Ed25519 public key, 32 bytes."""
    revoked: AbstractSet[bytes] = field(default_factory=frozenset)
    """Aliases that left or were shut out."""
    least_epoch: int = 0


def issue(authority: Identity, certificate: Certificate) -> bytes:
    """Return the signed certificate, 129 bytes.

    Raises:
        CertificateError: the alias or the identity key has a wrong size.
    """
    parts = certificate.parts()
    encoded = b"".join(parts) + authority.sign(LABEL, *parts)
    if len(certificate.alias) != ALIAS_SIZE or len(encoded) != CERTIFICATE_SIZE:
        raise CertificateError("an alias is 16 bytes and an identity key 32")
    return encoded


def read(encoded: bytes, enrolment: Enrolment, *, now_s: int) -> Certificate:
    """Verify a certificate and return what it says.

    Raises:
        CertificateError: it is malformed, unsigned, expired or revoked.
    """
    certificate = peek(encoded)
    try:
        verify(enrolment.authority, encoded[-SIGNATURE_SIZE:], LABEL, *certificate.parts())
    except SignatureError as error:
        raise CertificateError("the certificate is not signed by the enrolment authority") from error
    if now_s > certificate.not_after_s:
        raise CertificateError("the certificate has expired", hint="enrol again")
    if certificate.alias in enrolment.revoked or certificate.epoch < enrolment.least_epoch:
        raise CertificateError("the certificate is revoked", hint="enrol again")
    return certificate


def peek(encoded: bytes) -> Certificate:
    """Return what a certificate says, without verifying it. Requires: `read` accepted it before, or it is one's own.

    Raises:
        CertificateError: it is malformed.
    """
    if len(encoded) != CERTIFICATE_SIZE or encoded[:1] != VERSION:
        raise CertificateError("the certificate is malformed")
    return Certificate(
        alias=encoded[1:17],
        identity=encoded[17:49],
        not_after_s=int.from_bytes(encoded[49:57], "big"),
        epoch=int.from_bytes(encoded[57:65], "big"),
    )
