"""The privacy ledger of a home: its rows in the encrypted database, its key from the home's, its anchor in the system's keyring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earmark_client.learn.anchor import KeyringAnchor
from earmark_client.learn.ledger import Budget, Ledger
from earmark_client.store import keys
from earmark_client.store.home import ANCHOR_DUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark_client.store.home import Home


def open_ledger(home: Home, secret: keys.Secret, *, clock: Callable[[], float], budget: Budget | None = None) -> Ledger:
    """Open the ledger of an open home; `clock` gives Unix seconds.

    Raises:
        LedgerError: its rows were changed. LedgerRollbackError: they are older than the keyring's entry.
    """
    key, anchor = keys.derive(keys.unlock(home.folder, secret), "ledger"), None
    if isinstance(secret, keys.Keyring):
        anchor = KeyringAnchor(secret.open().backend, str(keys.read_header(home.folder)["home_id"]), key)
    is_due = anchor is not None and bool(home.database.get_meta(ANCHOR_DUE, 0))
    ledger = Ledger(home.database, key, clock=clock, anchor=anchor, budget=budget, is_anchor_due=is_due)
    if is_due:
        with home.database.transaction():
            home.database.set_meta(ANCHOR_DUE, 0)
    return ledger
