"""The ledger's anchor in the system's keyring: how far the ledger had come, where a copy of the disk can't reach."""

from __future__ import annotations

import hmac
from typing import Protocol

from earmark_client.learn.ledger import Anchored
from earmark_shared.crypto.hashing import HASH_SIZE, digest, u64
from earmark_shared.errors import LedgerRollbackError

SERVICE = "earmark"


class Backend(Protocol):
    """The two calls of a `keyring` backend that an anchor needs."""

    def get_password(self, service: str, username: str) -> str | None:
        """The stored text, or None."""

    def set_password(self, service: str, username: str, password: str) -> None:
        """Store a text."""


class KeyringAnchor:
    """One home's entry, under a MAC of the ledger's key: another home's entry, or a made-up one, is refused."""

    def __init__(self, backend: Backend, home_id: str, key: bytes) -> None:
        """Take an approved backend (`earmark_client.store.keyrings`)."""
        self._backend, self._home_id, self._key = backend, home_id, key

    def read(self) -> Anchored | None:
        """Return what `write` left, or None if it never did.

        Raises:
            LedgerRollbackError: the entry is not one that this home wrote.
        """
        text = self._backend.get_password(SERVICE, f"{self._home_id}/ledger")
        if text is None:
            return None
        try:
            number, head, _ = text.split(" ")
            anchored = Anchored(int(number), bytes.fromhex(head))
            same = anchored.counter > 0 and hmac.compare_digest(self._text(anchored).encode(), text.encode())
        except (ValueError, OverflowError) as error:
            raise LedgerRollbackError("The keyring's entry for the ledger is damaged.") from error
        if not same or len(anchored.head_hash) != HASH_SIZE:
            raise LedgerRollbackError("The keyring's entry for the ledger is not this library's.")
        return anchored

    def write(self, anchored: Anchored) -> None:
        """Store it, replacing what was there."""
        self._backend.set_password(SERVICE, f"{self._home_id}/ledger", self._text(anchored))

    def _text(self, anchored: Anchored) -> str:
        head = digest("earmark/ledger/anchor", self._home_id.encode(), u64(anchored.counter), anchored.head_hash)
        return f"{anchored.counter} {anchored.head_hash.hex()} {hmac.digest(self._key, head, 'sha256').hex()}"
