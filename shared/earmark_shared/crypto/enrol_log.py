"""The enrolment log: one entry for each device that joined or was revoked, and the signed head that fixes all of them.

A head is 152 bytes: `size u64 || root(32) || at_s u64 || least_epoch u64 || revoked_sha256(32) || sig(64)`, signed by the enrolment
authority over label "earmark/enrol/head" and those five fields. It also fixes who is revoked, so that nobody is told less.

    head = read_head(encoded, authority)
    check_revoked(head, aliases)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from earmark_shared.crypto.hashing import HASH_SIZE, digest, frame, u64
from earmark_shared.crypto.identities import SIGNATURE_SIZE, Identity, verify
from earmark_shared.errors import LogError, SignatureError

HEAD_SIZE = 8 + HASH_SIZE + 8 + 8 + HASH_SIZE + SIGNATURE_SIZE


class Change(IntEnum):
    """What an entry of the log says."""

    JOINED = 1
    REVOKED = 2


@dataclass(frozen=True)
class Entry:
    """One line of the log."""

    change: Change
    alias: bytes
    cert_sha256: bytes
    """Framed hash of the enrolment certificate, `cert_hash` of SA1."""
    at_s: int
    is_lab: bool

    def encode(self) -> bytes:
        """Return what the tree hashes."""
        kind = bytes([self.change, self.is_lab])
        return frame("earmark/enrol/entry", kind, self.alias, self.cert_sha256, u64(self.at_s))


@dataclass(frozen=True)
class Head:
    """The whole log in one record."""

    size: int
    root: bytes
    at_s: int
    least_epoch: int
    revoked_sha256: bytes

    def parts(self) -> tuple[bytes, ...]:
        """Return the signed fields, in order."""
        return u64(self.size), self.root, u64(self.at_s), u64(self.least_epoch), self.revoked_sha256


def cert_hash(certificate: bytes) -> bytes:
    """Return the hash by which a certificate is named, 32 bytes."""
    return digest("earmark/sa1/cert", certificate)


def revoked_hash(revoked: bytes) -> bytes:
    """Return the hash of all revoked aliases, sorted, one after the other."""
    return digest("earmark/enrol/revoked", revoked)


def sign_head(authority: Identity, head: Head) -> bytes:
    """Return the signed head, 152 bytes."""
    return b"".join(head.parts()) + authority.sign("earmark/enrol/head", *head.parts())


def read_head(encoded: bytes, authority: bytes) -> Head:
    """Verify a head and return what it says.

    Raises:
        LogError: it is malformed or not the authority's.
    """
    if len(encoded) != HEAD_SIZE:
        raise LogError("the enrolment log's head is malformed")
    number = int.from_bytes
    head = Head(
        size=number(encoded[:8], "big"),
        root=encoded[8:40],
        at_s=number(encoded[40:48], "big"),
        least_epoch=number(encoded[48:56], "big"),
        revoked_sha256=encoded[56:88],
    )
    try:
        verify(authority, encoded[-SIGNATURE_SIZE:], "earmark/enrol/head", *head.parts())
    except SignatureError as error:
        raise LogError("the enrolment log's head is not signed by the enrolment authority") from error
    return head


def check_revoked(head: Head, revoked: bytes) -> None:
    """Check that `revoked` is the list that the head fixes.

    Raises:
        LogError: it is another.
    """
    if revoked_hash(revoked) != head.revoked_sha256:
        raise LogError("the list of revoked devices is not the one that the log's head fixes")
