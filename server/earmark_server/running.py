"""A run of our app as `earmark-server round` watches it, and what it tells of rounds that came to an end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark_server.coordinator import describe
from earmark_server.rounds import UNDECIDED, finished
from earmark_shared.errors import NetworkError

if TYPE_CHECKING:
    from earmark_server.checkpoint import Checkpoint, RoundRecord
    from earmark_server.flower import Control
    from earmark_shared.files import FileLock


class News:
    """What became of rounds, told once each."""

    def __init__(self, checkpoint: Checkpoint, tell: Callable[[str], None]) -> None:
        """Tell of what is not in the checkpoint yet."""
        self._checkpoint, self._tell = checkpoint, tell
        self.told = finished(checkpoint.load())
        """How many rounds came to an end."""
        self._back = {record.number for record in self._ended() if record.outcome == "taken back"}

    def tell(self) -> int:
        """Tell of rounds that ended since, and of older ones whose head was taken back; return how many ended in all."""
        ended = self._ended()
        for place, record in enumerate(ended):
            is_back = record.outcome == "taken back" and record.number not in self._back
            if place >= self.told or is_back:
                self._tell(describe(record))
            if is_back:
                self._back.add(record.number)
        self.told = len(ended)
        return self.told

    def _ended(self) -> list[RoundRecord]:
        state = self._checkpoint.load()
        return [record for record in (state.rounds if state else ()) if record.outcome not in UNDECIDED]


@dataclass
class Run:
    """A run of our app, watched by what the SuperLink says and by the lock that the app's process holds: that is free at once.

    Before one is started, those whose process is gone are ended at the SuperLink, too: they may have announced messages whose contents
    will never come, and nodes ask for those as long as the run seems to go on.
    """

    lock: FileLock
    number: int = 0
    was_held: bool = False
    why: str = ""
    """What the last run died of, if its app said so, and how many rounds there were by then."""
    told: int = -1

    def start(self, control: Control, until: int) -> None:
        """Start one, to run until there were so many rounds in all."""
        control.stop_runs()
        self.number, self.was_held = control.start_run(until), False

    def died_as_before(self, control: Control, told: int, warn: Callable[[str], None]) -> bool:
        """Say what this run died of, if one was started; return whether the one before died of it too, and no round ended since."""
        if not self.number:
            return False
        before, self.why, self.told = (self.why, self.told), control.run_error(self.number), told
        if self.why:
            warn(f"a run died: {self.why}")
        return bool(self.why) and before == (self.why, told)

    def is_alive(self, control: Control) -> bool:
        """Whether it goes on, as far as one can tell."""
        if not self.number or control.has_ended(self.number):
            return False
        was_held, self.was_held = self.was_held, self.lock.is_held()
        return self.was_held or not was_held

    @property
    def given_up(self) -> NetworkError:
        """What to raise when no other is started."""
        if self.why:
            return NetworkError(f"the rounds can't go on: {self.why}", hint="mend that, and run `earmark-server round` again")
        hint = "DIR/flower/superexec.log or superlink.log may say why"
        return NetworkError("the rounds were started again and again, and died", hint=hint)
