"""Enrolment as records: its messages, what a fingerprint stands for, what a device signs to get in, stay and leave.

Message fields are those of `protos/earmark_shared/wire/v1/enrol.proto`, in that order. `Root`'s fingerprint travels with the
invitation, by another way than the network; whatever server a device reaches, it trusts only the root that this hash names.

    check_root(root, fingerprint)
    verify_join(join, fingerprint)
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated

from earmark_shared.crypto.certificates import ALIAS_SIZE, CERTIFICATE_SIZE
from earmark_shared.crypto.enrol_log import HEAD_SIZE
from earmark_shared.crypto.hashing import HASH_SIZE, digest, u32, u64
from earmark_shared.crypto.identities import PUBLIC_SIZE, SIGNATURE_SIZE, Identity, verify
from earmark_shared.crypto.nodes import PUBLIC_SIZE_MOST, NodeKey, verify_node
from earmark_shared.errors import AdmissionError, CertificateError, SignatureError
from earmark_shared.shapes import Flag, Message, Octets, Whole, sized

PROTO = 1
TOKEN_SIZE = 16
CHALLENGE_SIZE = 32
PLAN_KEY_SIZE = PUBLIC_SIZE + 8 + SIGNATURE_SIZE
X509_SIZE_MOST = 2048
REVOKED_MOST = 65_536
JOIN_LABEL = "earmark/enrol/join"
LEAVE_LABEL = "earmark/enrol/leave"
RENEW_LABEL = "earmark/enrol/renew"

Id = Annotated[bytes, sized(ALIAS_SIZE)]
Hash = Annotated[bytes, sized(HASH_SIZE)]
Key = Annotated[bytes, sized(PUBLIC_SIZE)]
Signature = Annotated[bytes, sized(SIGNATURE_SIZE)]
SignedHead = Annotated[bytes, sized(HEAD_SIZE)]
SignedPlanKey = Annotated[bytes, sized(PLAN_KEY_SIZE)]
X509 = Annotated[bytes, Octets(range(1, X509_SIZE_MOST + 1))]
Hashes = Annotated[bytes, Octets(range(0, 64 * HASH_SIZE + 1, HASH_SIZE))]
U32 = Annotated[int, Whole(2**32 - 1)]
U64 = Annotated[int, Whole(2**64 - 1)]


@dataclass(frozen=True)
class Hello(Message):
    """A device asks who is there."""

    proto: U32


@dataclass(frozen=True)
class Root(Message):
    """Whom a federation trusts, and a challenge for whoever wants to join."""

    proto: U32
    authority: Key
    tls_ca: X509
    tuf_root_sha256: Annotated[bytes, Octets(range(0, HASH_SIZE + 1, HASH_SIZE))]
    is_lab: Annotated[bool, Flag()]
    plan_key: SignedPlanKey
    member_port: Annotated[int, Whole(0xFFFF)]
    challenge: Annotated[bytes, sized(CHALLENGE_SIZE)]

    def fingerprint(self) -> bytes:
        """Return the hash that an invitation names, 32 bytes: everything here that must never change unseen."""
        fixed = (u32(self.proto), self.authority, self.tls_ca, self.tuf_root_sha256, bytes([self.is_lab]))
        return digest("earmark/enrol/root", *fixed)


@dataclass(frozen=True)
class Join(Message):
    """A device asks to be let in, and proves that it has its keys."""

    challenge: Annotated[bytes, sized(CHALLENGE_SIZE)]
    token: Annotated[bytes, sized(TOKEN_SIZE)]
    identity: Key
    node_key: Annotated[bytes, Octets(range(1, PUBLIC_SIZE_MOST + 1))]
    is_lab: Annotated[bool, Flag()]
    identity_sig: Signature
    node_sig: Annotated[bytes, Octets(range(8, 105))]


@dataclass(frozen=True)
class Admission(Message):
    """A device's certificates, and the proof that the log holds them."""

    cert: Annotated[bytes, sized(CERTIFICATE_SIZE)]
    tls_cert: X509
    joined_s: U64
    head: SignedHead
    index: U64
    path: Hashes


@dataclass(frozen=True)
class Ask(Message):
    """A device asks what happened since the log had `size` entries."""

    size: U64


@dataclass(frozen=True)
class News(Message):
    """The newest log head, the proof that it goes on from the older one, and who is revoked."""

    head: SignedHead
    proof: Hashes
    revoked: Annotated[bytes, Octets(range(0, REVOKED_MOST * ALIAS_SIZE + 1, ALIAS_SIZE))]
    plan_key: SignedPlanKey


@dataclass(frozen=True)
class Renewal(Message):
    """A device asks for new certificates for the keys it has."""

    alias: Id
    sig: Signature


@dataclass(frozen=True)
class Renewed(Message):
    """The new TLS certificate, and the enrolment certificate as it is now: same alias, same identity key."""

    tls_cert: X509
    cert: Annotated[bytes, sized(CERTIFICATE_SIZE)]


@dataclass(frozen=True)
class Leave(Message):
    """A device asks to be revoked, for good."""

    alias: Id
    sig: Signature


@dataclass(frozen=True)
class Gone(Message):
    """It is, and the log says so."""

    left_s: U64
    head: SignedHead
    index: U64
    path: Hashes


def check_root(root: Root, fingerprint: bytes) -> None:
    """Check that `root` is the one that the invitation names.

    Raises:
        AdmissionError: it is another, or of another version of the protocol.
    """
    if root.proto != PROTO:
        raise AdmissionError(f"the server speaks enrolment version {root.proto}, this device {PROTO}", hint="update Earmark")
    if not hmac.compare_digest(root.fingerprint(), fingerprint):
        raise AdmissionError(
            "the server is not the one that the invitation names", hint="copy the whole address, or ask for a new invitation"
        )


def sign_join(join: Join, fingerprint: bytes, identity: Identity, node: NodeKey) -> Join:
    """Return `join` with both signatures; those it has are not looked at."""
    parts = _join_parts(join, fingerprint)
    fields = {name: getattr(join, name) for name in ("challenge", "token", "identity", "node_key", "is_lab")}
    return Join(**fields, identity_sig=identity.sign(JOIN_LABEL, *parts), node_sig=node.sign(JOIN_LABEL, *parts))


def verify_join(join: Join, fingerprint: bytes) -> None:
    """Check that whoever wrote `join` has both keys.

    Raises:
        SignatureError: a signature or a key is not right.
    """
    parts = _join_parts(join, fingerprint)
    verify(join.identity, join.identity_sig, JOIN_LABEL, *parts)
    verify_node(join.node_key, join.node_sig, JOIN_LABEL, *parts)


def _join_parts(join: Join, fingerprint: bytes) -> tuple[bytes, ...]:
    return fingerprint, join.challenge, join.token, join.identity, join.node_key, bytes([join.is_lab])


def sign_plan_key(authority: Identity, plan_key: bytes, *, not_after_s: int) -> bytes:
    """Return the authority's word that rounds are signed by `plan_key` until then, 104 bytes."""
    return plan_key + u64(not_after_s) + authority.sign("earmark/enrol/plan-key", plan_key, u64(not_after_s))


def read_plan_key(encoded: bytes, authority: bytes, *, now_s: int) -> bytes:
    """Return the key that signs rounds, 32 bytes.

    Raises:
        CertificateError: the authority did not sign it, or not for so long.
    """
    plan_key, not_after = encoded[:PUBLIC_SIZE], encoded[PUBLIC_SIZE : PUBLIC_SIZE + 8]
    try:
        verify(authority, encoded[-SIGNATURE_SIZE:], "earmark/enrol/plan-key", plan_key, not_after)
    except SignatureError as error:
        raise CertificateError("the round-plan key is not signed by the enrolment authority") from error
    if len(encoded) != PLAN_KEY_SIZE or now_s > int.from_bytes(not_after, "big"):
        raise CertificateError("the round-plan key has expired", hint="the server's operator renews it: earmark-server renew")
    return plan_key


def pack(hashes: list[bytes]) -> bytes:
    """Return hashes (or aliases) as one field."""
    return b"".join(hashes)


def unpack(field: bytes, size: int = HASH_SIZE) -> list[bytes]:
    """Return what `pack` was given."""
    return [field[start : start + size] for start in range(0, len(field), size)]
