"""What `earmark privacy` says, in plain words: what was spent, what left the device, and what is not claimed.

The list of assumptions follows NIST SP 800-226: unit, neighbours, epsilon and delta, trust model, side channels, data collection.
"""

from __future__ import annotations

from dataclasses import dataclass

from earmark_client.learn.ledger import Budget, Ledger, Spent
from earmark_client.learn.ledger_rows import State
from earmark_shared.privacy.accountant import DEVICE_DELTA, RECORD_DELTA

ASSUMPTIONS = (
    (
        "Unit: one clip you added, with every segment cut from it. Two clips of one event, or one voice in many clips, count as two: "
        "what they have in common is protected less than either."
    ),
    "Neighbours: your library with and without that clip (add or remove one). For a whole device: it takes part, or sends zeros.",
    (
        f"Epsilon bounds how much more likely anything becomes through that one clip: a factor of e^epsilon, but for a chance of delta "
        f"({RECORD_DELTA:g} for a clip, {DEVICE_DELTA:g} for a device). It is an upper bound over everything since this data epoch began."
    ),
    (
        "Counted as public: that this device takes part and when, the round's settings, and how many clips you corrected, rounded down "
        "to a power of two."
    ),
    (
        "Trust: the clip's guarantee needs only this device and the Earmark installed on it, and holds against the server, the other "
        "devices and whoever gets a released model. The device's guarantee also needs that most devices of a round are honest."
    ),
    (
        "Side channels: how long training takes is not hidden from the server, which may have this device train three times a day; "
        "that and its memory aren't from other programs on this device."
    ),
    "Collection: no audio, label, correction, query or embedding is sent. A masked vector of fixed length is, each round.",
    "The noise comes from the operating system's cryptographic generator. If that is broken, so is the guarantee.",
)
NOT_CLAIMED = (
    "That nobody learns you take part.",
    "Anything about what you export, share or say elsewhere.",
    "Anything about somebody with your unlocked account.",
    "That a contribution can be taken back out of a released model: it is limited, not removable.",
)
NO_DEVICE_CLAIM = (
    "That it stays hidden what all your clips together have in common: at least one round had no device-level noise."
)
NO_ANCHOR = (
    "That an older copy of the whole disk is noticed: without the system's keyring it would bring back budget already spent."
)


@dataclass(frozen=True)
class PrivacyReport:
    """The ledger's state, ready to show."""

    spent: Spent
    budget: Budget
    sent_rounds: int
    """Rounds in which something left the device, in all epochs."""
    open_rounds: int
    """Reserved and neither sent nor taken back: counted as sent."""
    not_claimed: tuple[str, ...]
    assumptions: tuple[str, ...] = ASSUMPTIONS


def privacy_report(ledger: Ledger) -> PrivacyReport:
    """Read the ledger and say what it means.

    Raises:
        LedgerError: the ledger can't be trusted; nothing is claimed then.
    """
    last = {row.key: row for row in ledger.rows() if row.state != State.OPENED}
    states = [row.state for row in last.values() if row.attempt == 0]
    spent = ledger.spent()
    extra = [NO_DEVICE_CLAIM] if spent.device is None else []
    extra += [] if ledger.has_anchor else [NO_ANCHOR]
    return PrivacyReport(
        spent=spent,
        budget=ledger.budget,
        sent_rounds=states.count(State.COMMITTED),
        open_rounds=states.count(State.RESERVED),
        not_claimed=(*NOT_CLAIMED, *extra),
    )


def plain_words(report: PrivacyReport) -> str:
    """Return the report as lines of text, without colour."""
    spent, budget = report.spent, report.budget
    lines = [
        (
            f"Each clip: epsilon {spent.record:.2f} of {budget.record_epsilon:g} spent in this data epoch, "
            f"{spent.record_month:.2f} of {budget.record_epsilon_month:g} in the last 30 days (delta {RECORD_DELTA:g})."
        ),
        _device_line(report),
        f"Rounds that something left this device in: {report.sent_rounds}: one masked vector each, opened only as part of a sum.",
    ]
    if report.open_rounds:
        lines.append(f"Rounds begun and not finished: {report.open_rounds}. They count as spent.")
    lines += ["", "Not claimed:", *(f"  - {line}" for line in report.not_claimed)]
    lines += ["", "What this rests on:", *(f"  - {line}" for line in report.assumptions)]
    return "\n".join(lines)


def _device_line(report: PrivacyReport) -> str:
    device, limit = report.spent.device, report.budget.device_epsilon
    if device is None:
        return "This device as a whole: no epsilon is claimed."
    if not report.spent.rounds:
        return "This device as a whole: nothing spent."
    of = f" of {limit:g}" if limit is not None else ""
    return f"This device as a whole: epsilon {device:.2f}{of} spent in this data epoch (delta {DEVICE_DELTA:g})."
