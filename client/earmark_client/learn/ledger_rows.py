"""The ledger's rows: append-only, each naming the hash of the one before, each under a MAC of this library's key.

The table is `earmark_client.store.schema.LEDGER`. A row is never changed: what becomes of a reservation is another row. `read_rows` gives back what `append_row` wrote, or refuses.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Protocol

from earmark_shared.crypto.hashing import HASH_SIZE, digest, f64, u64
from earmark_shared.errors import LedgerError
from earmark_shared.privacy.accountant import DeviceGaussian, SampledGaussian

FIRST_HASH = bytes(HASH_SIZE)


class Storage(Protocol):
    """What the ledger needs of a database (the store's `Database` has it): changes inside a transaction are on the disk for good when it ends, or never were."""

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""

    def transaction(self) -> AbstractContextManager[Any]:
        """Hold the write lock from the start of the block to its end."""


class State(StrEnum):
    """What a row says."""

    OPENED = "opened"
    RESERVED = "reserved"
    COMMITTED = "committed"
    RELEASED = "released"


@dataclass(frozen=True)
class Charge:
    """What one attempt of one round will spend."""

    round_id: bytes
    plan_hash: bytes
    record: SampledGaussian | None
    """Local training; None for a retry that sends the same update again."""
    device: DeviceGaussian | None = None
    """Noise on the opened sum; None where no device-level guarantee is claimed."""
    attempt: int = 0


@dataclass(frozen=True)
class Row:
    """One line of the ledger, its fields in the order in which they are hashed."""

    seq: int
    at_s: int
    round_id: bytes
    plan_hash: bytes
    attempt: int
    mechanism: str
    sigma: float
    q: float
    steps: int
    z_eff: float
    state: str
    prev_hash: bytes

    @property
    def key(self) -> tuple[bytes, int]:
        """Which attempt of which round this row is about."""
        return self.round_id, self.attempt

    @property
    def record(self) -> SampledGaussian | None:
        """The record-level event, if this row names one."""
        return SampledGaussian(self.sigma, self.q, self.steps) if self.steps else None

    @property
    def device(self) -> DeviceGaussian | None:
        """The device-level event, if this row names one."""
        return DeviceGaussian(self.z_eff) if self.z_eff else None

    def sha256(self) -> bytes:
        """Return the hash that the next row names."""
        return digest("earmark/ledger/row", *(_part(getattr(self, field.name)) for field in fields(self)))


def new_row(charge: Charge, state: State, *, at_s: int, after: Sequence[Row]) -> Row:
    """Return the row that says `state` of `charge`, to come after the rows there are."""
    record, device = charge.record, charge.device
    named = [name for name, event in (("record", record), ("device", device)) if event is not None]
    return Row(
        seq=len(after) + 1,
        at_s=at_s,
        round_id=charge.round_id,
        plan_hash=charge.plan_hash,
        attempt=charge.attempt,
        mechanism="+".join(named) or "none",
        sigma=record.noise_multiplier if record else 0.0,
        q=record.sampling_probability if record else 0.0,
        steps=record.steps if record else 0,
        z_eff=device.noise_multiplier if device else 0.0,
        state=state.value,
        prev_hash=after[-1].sha256() if after else FIRST_HASH,
    )


def append_row(storage: Storage, key: bytes, row: Row) -> None:
    """Write one row under its MAC; the caller holds the transaction."""
    values = [getattr(row, field.name) for field in fields(row)]
    marks = ", ".join("?" * (len(values) + 1))
    storage.execute(f"INSERT INTO privacy_ledger VALUES ({marks})", [*values, _mac(key, row)])  # noqa: S608  question marks only


def read_rows(storage: Storage, key: bytes) -> list[Row]:
    """Return all rows in order, each checked against its MAC and the row before.

    Raises:
        LedgerError: a row is missing, added, changed or out of place.
    """
    rows: list[Row] = []
    for *values, mac in storage.execute("SELECT * FROM privacy_ledger ORDER BY seq"):
        row = _row(values)
        before = rows[-1].sha256() if rows else FIRST_HASH
        if row.seq != len(rows) + 1 or row.prev_hash != before or not hmac.compare_digest(_mac(key, row), bytes(mac)):
            raise LedgerError(hint="Training stays off: what was spent can't be known any more.")
        rows.append(row)
    return rows


def _row(values: Sequence[Any]) -> Row:
    try:
        row = Row(*values)
        row.sha256()
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LedgerError("The record of spent privacy has a row of another shape.") from error
    return row


def _mac(key: bytes, row: Row) -> bytes:
    return hmac.digest(key, row.sha256(), "sha256")


def _part(value: bytes | str | float) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return f64(value) if isinstance(value, float) else u64(value)
