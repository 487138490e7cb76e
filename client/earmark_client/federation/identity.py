"""A device's own keys and what it knows of its federation: kept in the encrypted database, nowhere in clear.

    keys = DeviceKeys.create(os.urandom)
    membership = load_membership(database)        # None in a library that joined nothing

Flower's node wants its key in a file: `node_key_file` makes one that is on no disk.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark_shared.crypto.certificates import ALIAS_SIZE, Enrolment, peek
from earmark_shared.crypto.enrol_log import read_head
from earmark_shared.crypto.hashing import digest
from earmark_shared.crypto.identities import Identity
from earmark_shared.crypto.nodes import NodeKey
from earmark_shared.enrolment import Root, read_plan_key, unpack
from earmark_shared.errors import PolicyError, TamperedError
from earmark_shared.wire.channel import Address, Credentials
from earmark_shared.wire.codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earmark_client.store.database import Database
    from earmark_shared.crypto.secrets import Entropy

PENDING = ("pending.identity", "pending.node_key", "pending.token")
NAMES = ("address", "root", "identity", "node_key", "certificate", "tls_certificate", "head", "revoked")
"""What a membership consists of, one blob each; `lab` is kept apart since it outlives every membership."""
NODE_NUMBER = "node_number"
"""What the SuperLink calls this device's node; learned when it first connects."""


@dataclass(frozen=True)
class DeviceKeys:
    """The keys that a device proves to have when it joins."""

    identity: Identity
    """Ed25519: signs the device's messages in rounds."""
    node: NodeKey
    """ECDSA: the TLS client certificate's key, and the Flower node's."""

    @classmethod
    def create(cls, entropy: Entropy) -> DeviceKeys:
        """Make new keys."""
        return cls(Identity.create(entropy), NodeKey.create())


@dataclass(frozen=True)
class Membership:
    """A device's place in a federation."""

    address: Address
    """Where it joined."""
    root: Root
    """Whom it trusts; the challenge in it is spent."""
    keys: DeviceKeys
    certificate: bytes
    """The enrolment certificate, 129 bytes; SA1 sends it."""
    tls_certificate: bytes
    """X.509, DER."""
    head: bytes
    """The newest log head seen, signed."""
    revoked: bytes
    """Aliases that are shut out, sorted, one after the other."""
    is_lab: bool

    @property
    def alias(self) -> bytes:
        """This device's pseudonym, 16 bytes."""
        return peek(self.certificate).alias

    @property
    def member_address(self) -> Address:
        """Where enrolled devices go."""
        return Address(self.address.host, self.root.member_port)

    @property
    def ca_pem(self) -> bytes:
        """The authority of the server's TLS certificate."""
        return ssl.DER_cert_to_PEM_cert(self.root.tls_ca).encode()

    @property
    def enrolment(self) -> Enrolment:
        """What this device knew of enrolment when it last followed the log (`enrol.follow` brings it up to date)."""
        head = read_head(self.head, self.root.authority)
        return Enrolment(self.root.authority, frozenset(unpack(self.revoked, ALIAS_SIZE)), head.least_epoch)

    def plan_key(self, *, now_s: int) -> bytes:
        """Return the key that signs rounds, 32 bytes; CertificateError if it has run out."""
        return read_plan_key(self.root.plan_key, self.root.authority, now_s=now_s)

    @property
    def credentials(self) -> Credentials:
        """This device's TLS key and certificate."""
        return Credentials(self.keys.node.private_pem(), ssl.DER_cert_to_PEM_cert(self.tls_certificate).encode())


def is_lab(database: Database) -> bool:
    """Whether this library ever joined, or tried to join, as a lab."""
    return database.federation_value("lab") is not None


def record_lab(database: Database) -> None:
    """Make the library a lab home, for good; inside a transaction."""
    database.set_federation_value("lab", b"\x01")


def set_paused(database: Database, *, is_paused: bool) -> None:
    """Write down whether this device may take part in rounds; it holds for a device that is in the middle of its rounds too."""
    with database.transaction():
        database.set_federation_value("paused", b"\x01" if is_paused else None)


def check_not_paused(database: Database) -> None:
    """Pass a device whose person lets it take part.

    Raises:
        PolicyError: it is paused.
    """
    if database.federation_value("paused") is not None:
        raise PolicyError("Taking part is paused.", hint="earmark participate --resume")


def load_pending(database: Database, token: bytes) -> DeviceKeys | None:
    """Return the keys of a join that was begun with this token and not finished; another token wants fresh ones."""
    identity, node, known = (database.federation_value(name) for name in PENDING)
    if identity is None or node is None or known != digest("earmark/enrol/token", token):
        return None
    return DeviceKeys(Identity(identity), NodeKey(node))


def store_pending(database: Database, keys: DeviceKeys, token: bytes) -> None:
    """Keep the keys of a join that begins; inside a transaction."""
    values = (keys.identity.private_bytes(), keys.node.private_bytes(), digest("earmark/enrol/token", token))
    for name, value in zip(PENDING, values, strict=True):
        database.set_federation_value(name, bytes(value))


def load_membership(database: Database) -> Membership | None:
    """Return the library's membership, or None.

    Raises:
        TamperedError: some of it is missing.
    """
    found = {name: database.federation_value(name) for name in NAMES}
    if found["certificate"] is None:
        return None
    values = {name: value for name, value in found.items() if value is not None}
    if len(values) != len(NAMES):
        raise TamperedError("What this library knows of its federation is incomplete.", hint="earmark leave --offline")
    host, _, port = values["address"].decode().rpartition(" ")
    return Membership(
        address=Address(host, int(port)),
        root=decode(Root, values["root"]),
        keys=DeviceKeys(Identity(values["identity"]), NodeKey(values["node_key"])),
        certificate=values["certificate"],
        tls_certificate=values["tls_certificate"],
        head=values["head"],
        revoked=values["revoked"],
        is_lab=is_lab(database),
    )


def store_membership(database: Database, membership: Membership) -> None:
    """Keep a membership, all of it; inside a transaction."""
    values = (
        f"{membership.address.host} {membership.address.port}".encode(),
        encode(membership.root),
        bytes(membership.keys.identity.private_bytes()),
        bytes(membership.keys.node.private_bytes()),
        membership.certificate,
        membership.tls_certificate,
        membership.head,
        membership.revoked,
    )
    for name, value in zip(NAMES, values, strict=True):
        database.set_federation_value(name, value)
    for name in PENDING:
        database.set_federation_value(name, None)


def forget_membership(database: Database) -> None:
    """Delete every key and certificate. That it was a lab stays, and what was seen of releases. Inside a transaction."""
    for name in (*NAMES, *PENDING, NODE_NUMBER):
        database.set_federation_value(name, None)


@contextlib.contextmanager
def node_key_file(keys: DeviceKeys) -> Iterator[int]:
    """Give `flower-supernode` its private key as an open file without a name, in memory alone: a kill leaves nothing on the disk."""
    descriptor = os.memfd_create("earmark-node-key")
    try:
        os.write(descriptor, keys.node.private_openssh())
        yield descriptor
    finally:
        os.close(descriptor)
