"""What an `add` has done so far, and all in all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earmark_shared.errors import EarmarkError


@dataclass(frozen=True)
class AddProgress:
    """How far an `add` has come."""

    done_files: int
    total_files: int
    sound_s: float
    """Seconds of new sound so far."""
    elapsed_s: float
    current: str
    """The path of the file that was last finished."""


@dataclass(frozen=True)
class AddReport:
    """What an `add` did."""

    added: int
    known: int
    moved: int
    problems: tuple[tuple[str, EarmarkError], ...]
    sound_s: float
    seconds: float
    silent: int = 0
    """How many of the added clips hold nothing loud enough to hear: they have no segment, and no search finds them."""
    passed_over: int = 0
    """Sound files of formats that are not read, met in folders."""


@dataclass
class Tally:
    """An `AddReport` in the making."""

    total_files: int
    added: int = 0
    known: int = 0
    moved: int = 0
    silent: int = 0
    passed_over: int = 0
    sound_s: float = 0.0
    current: str = ""
    problems: list[tuple[str, EarmarkError]] = field(default_factory=list)

    @property
    def done_files(self) -> int:
        """Files that are through, one way or the other."""
        return self.added + self.known + self.moved + len(self.problems)

    def report(self, seconds: float) -> AddReport:
        """What was done, once all is."""
        return AddReport(
            added=self.added,
            known=self.known,
            moved=self.moved,
            problems=tuple(self.problems),
            sound_s=self.sound_s,
            seconds=seconds,
            silent=self.silent,
            passed_over=self.passed_over,
        )
