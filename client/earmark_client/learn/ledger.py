"""The privacy budget: what was spent, and the refusal to spend more.

    ledger = Ledger(database, key, clock=..., anchor=KeyringAnchor(...))
    ledger.reserve(charge)      # on the disk before a gradient exists; BudgetError if it would be too much
    ...train, send...
    ledger.commit(charge)       # or `release`, only if nothing left the device

Rules:
* Whatever is reserved and not released counts as spent. Only the process that reserved can release, so a crash spends.
* The budget is compared with the composition of everything in this data epoch *including* the reservation, not with a sum.
* A round is paid for once: its identifier or plan seen again is refused, whatever became of it. A retry names its attempt and pays
  for the device level again, not for the record level: it sends the same update.
* No spending at a time before the last row's.
* The last row's hash and number are mirrored in an anchor outside the database, written after it. A database behind its
  anchor, or on another branch, is refused. Without an anchor (passphrase mode) a rollback of the whole disk is not noticed.
* A budget is renewed by a person, a year after the epoch began at the earliest. Clips of an old epoch never train again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from earmark_client.learn.ledger_rows import Charge, Row, State, Storage, append_row, new_row, read_rows
from earmark_shared.errors import BudgetError, ClockError, LedgerError, LedgerRollbackError, ReplayedPlanError
from earmark_shared.privacy.accountant import DEVICE_DELTA, RECORD_DELTA, device_epsilon, record_epsilon

DAY_S = 86_400
MONTH_S = 30 * DAY_S
YEAR_S = 365 * DAY_S
_EPOCH = Charge(round_id=b"", plan_hash=b"", record=None)


@dataclass(frozen=True)
class Budget:
    """What a person allows; looser than the defaults is refused."""

    record_epsilon: float = 8.0
    """Record level, for a whole data epoch of at least 365 days, at delta 1e-5."""
    record_epsilon_month: float = 2.0
    """Record level, within any 30 days."""
    device_epsilon: float | None = None
    """Device level for an epoch at delta 1e-6; None claims nothing there, a number refuses rounds without device noise."""

    def __post_init__(self) -> None:
        """Only ever tighter."""
        device = math.inf if self.device_epsilon is None else self.device_epsilon
        if not (0.0 < self.record_epsilon <= 8.0 and 0.0 < self.record_epsilon_month <= 2.0 and device > 0.0):
            raise BudgetError("a budget can be tightened, never loosened", hint="at most epsilon 8 a year and 2 in 30 days")


@dataclass(frozen=True)
class Spent:
    """Epsilon so far, upper bounds, at the budget's deltas."""

    record: float
    record_month: float
    device: float | None
    """None when some round of the epoch had no device noise: then nothing is claimed at device level."""
    rounds: int


@dataclass(frozen=True)
class Anchored:
    """How far the ledger had come."""

    counter: int
    head_hash: bytes


class Anchor(Protocol):
    """A place outside the database, such as the system's keyring, that remembers how far the ledger had come."""

    def read(self) -> Anchored | None:
        """What was written last, or None if never."""

    def write(self, anchored: Anchored) -> None:
        """Remember it, on the disk for good when this returns."""


class Ledger:
    """The one way to spend privacy on this device."""

    def __init__(
        self,
        storage: Storage,
        key: bytes,
        *,
        clock: Callable[[], float],
        anchor: Anchor | None = None,
        budget: Budget | None = None,
        is_anchor_due: bool = False,
    ) -> None:
        """Read and check what is there; `clock` gives Unix seconds. With `is_anchor_due` an anchor may be empty and is written now.

        Raises:
            LedgerError: the rows were changed. LedgerRollbackError: they are older than the anchor.
        """
        self._storage, self._key, self._clock, self._anchor = storage, key, clock, anchor
        self.budget = budget or Budget()
        self._mine: set[tuple[bytes, int]] = set()
        self._is_anchor_due = is_anchor_due
        with storage.transaction():
            rows = self._read(storage)
            if not rows:
                rows = [self._append(rows, _EPOCH, State.OPENED, at_s=int(clock()))]
        self._mirror(rows)
        self._is_anchor_due = False

    @property
    def has_anchor(self) -> bool:
        """Whether a rollback of the whole disk would be noticed."""
        return self._anchor is not None

    def rows(self) -> list[Row]:
        """Return every row, checked."""
        return self._read(self._storage)

    def epoch_started_s(self) -> int:
        """Return when this data epoch began: only clips added since then, or in the first epoch all, may train."""
        opened = [row for row in self.rows() if row.state == State.OPENED]
        return opened[-1].at_s if len(opened) > 1 else 0

    def spent(self) -> Spent:
        """Return what this epoch has cost so far, reservations included."""
        rows = self.rows()
        return _spent(rows, now_s=max(int(self._clock()), rows[-1].at_s))

    def reserve(self, charge: Charge) -> Spent:
        """Write down that `charge` is about to be spent and return what will then have been.

        Raises:
            ReplayedPlanError: this round was seen before. ClockError: the clock went back.
            BudgetError: it would be too much, or the round has no noise where the budget wants some.
        """
        with self._storage.transaction():
            rows = self._read(self._storage)
            now_s = self._now(rows)
            _check_new(rows, charge)
            row = new_row(charge, State.RESERVED, at_s=now_s, after=rows)
            after = _spent([*rows, row], now_s=now_s)
            self._check_budget(after)
            append_row(self._storage, self._key, row)
        self._mine.add(row.key)
        self._mirror([*rows, row])
        return after

    def commit(self, charge: Charge) -> None:
        """Write down that something left the device: spent for good.

        Raises:
            LedgerError: it is not reserved.
        """
        self._settle(charge, State.COMMITTED)

    def release(self, charge: Charge) -> None:
        """Take a reservation back. Only if nothing at all left the device.

        Raises:
            LedgerError: it is not reserved, or another process reserved it: that one may have sent.
        """
        if (charge.round_id, charge.attempt) not in self._mine:
            raise LedgerError("only who reserved can know that nothing was sent")
        self._settle(charge, State.RELEASED)

    def check_renewable(self) -> None:
        """Pass when a year has gone by since the epoch began; else raise as `renew` would, before anybody is asked."""
        self._renewed_at_s(self.rows())

    def renew(self) -> None:
        """Begin a new data epoch with a full budget; the caller has asked the person.

        Raises:
            BudgetError: the epoch is younger than 365 days. ClockError: the clock went back.
        """
        with self._storage.transaction():
            rows = self._read(self._storage)
            rows.append(self._append(rows, _EPOCH, State.OPENED, at_s=self._renewed_at_s(rows)))
        self._mirror(rows)

    def _renewed_at_s(self, rows: Sequence[Row]) -> int:
        now_s = self._now(rows)
        left_s = YEAR_S - now_s + max(row.at_s for row in rows if row.state == State.OPENED)
        if left_s > 0:
            raise BudgetError("a budget lasts 365 days", hint=f"days to go: {-(-left_s // DAY_S)}")
        return now_s

    def _settle(self, charge: Charge, state: State) -> None:
        with self._storage.transaction():
            rows = self._read(self._storage)
            about = [row for row in rows if row.key == (charge.round_id, charge.attempt)]
            if not about or about[-1].state != State.RESERVED or about[-1].plan_hash != charge.plan_hash:
                raise LedgerError("this round is not reserved")
            # The row repeats what was reserved, not what the caller now says. A clock that went back can't stop it.
            at_s = max(int(self._clock()), rows[-1].at_s)
            rows.append(self._append(rows, _charge_of(about[-1]), state, at_s=at_s))
        self._mirror(rows)

    def _append(self, rows: Sequence[Row], charge: Charge, state: State, *, at_s: int) -> Row:
        row = new_row(charge, state, at_s=at_s, after=rows)
        append_row(self._storage, self._key, row)
        return row

    def _read(self, storage: Storage) -> list[Row]:
        # The anchor first: a writer changes it last, so what is read now is never ahead of the rows read next.
        anchored = self._anchor.read() if self._anchor is not None else None
        rows = read_rows(storage, self._key)
        if anchored is not None and (len(rows) < anchored.counter or rows[anchored.counter - 1].sha256() != anchored.head_hash):
            raise LedgerRollbackError(hint="Training stays off: restore the newest library, or erase this one.")
        # One row without an anchor is a first start that was cut short; more of them had one.
        if self._anchor is not None and anchored is None and len(rows) > 1 and not self._is_anchor_due:
            raise LedgerRollbackError("What remembers how far the ledger had come is gone.", hint="Training stays off.")
        return rows

    def _mirror(self, rows: Sequence[Row]) -> None:
        if self._anchor is None:
            return
        known = self._anchor.read()
        if known is None or known.counter < len(rows):
            self._anchor.write(Anchored(len(rows), rows[-1].sha256()))

    def _now(self, rows: Sequence[Row]) -> int:
        now_s = int(self._clock())
        if now_s < rows[-1].at_s:
            raise ClockError(hint="Set the clock right; training goes on once it is past the last round.")
        return now_s

    def _check_budget(self, after: Spent) -> None:
        budget = self.budget
        if budget.device_epsilon is not None and after.device is None:
            raise BudgetError("this round adds no device-level noise, and your budget asks for it")
        limits = [
            (after.record, budget.record_epsilon, "this data epoch"),
            (after.record_month, budget.record_epsilon_month, "30 days"),
            (after.device or 0.0, budget.device_epsilon or math.inf, "this data epoch, as a device"),
        ]
        for spent, limit, period in limits:
            if not spent <= limit:
                raise BudgetError(f"this round would bring epsilon to {spent:.2f} of {limit:g} for {period}")


def _spent(rows: Sequence[Row], *, now_s: int) -> Spent:
    """Compose everything since the epoch began that was reserved and never released."""
    began = max(index for index, row in enumerate(rows) if row.state == State.OPENED)
    # An attempt's last row decides; all its rows name the same events.
    last = {row.key: row for row in rows[began + 1 :] if row.state != State.OPENED}
    charged = [row for row in last.values() if row.state != State.RELEASED]
    reserved_s = {row.key: row.at_s for row in reversed(rows)}
    recent = [row for row in charged if reserved_s[row.key] > now_s - MONTH_S]
    devices = [row.device for row in charged]
    return Spent(
        record=record_epsilon([row.record for row in charged if row.record], delta=RECORD_DELTA),
        record_month=record_epsilon([row.record for row in recent if row.record], delta=RECORD_DELTA),
        device=None if None in devices else device_epsilon([event for event in devices if event], delta=DEVICE_DELTA),
        rounds=sum(row.attempt == 0 for row in charged),
    )


def _check_new(rows: Sequence[Row], charge: Charge) -> None:
    if charge.record is None and charge.device is None:
        raise BudgetError("a round without noise is never paid for")
    if charge.attempt == 0:
        if charge.record is None:
            raise BudgetError("a first attempt trains, so it spends at record level")
        if any(charge.round_id == row.round_id or charge.plan_hash == row.plan_hash for row in rows):
            raise ReplayedPlanError
        return
    about = [row for row in rows if row.round_id == charge.round_id and row.plan_hash == charge.plan_hash]
    attempts = {row.attempt: row.state for row in about}
    if charge.attempt in attempts or attempts.get(charge.attempt - 1, State.RELEASED) == State.RELEASED:
        raise ReplayedPlanError("a retry follows the attempt before it, once")
    if charge.record is not None:
        raise BudgetError("a retry sends the same update again and trains nothing")


def _charge_of(row: Row) -> Charge:
    return Charge(row.round_id, row.plan_hash, row.record, row.device, row.attempt)
