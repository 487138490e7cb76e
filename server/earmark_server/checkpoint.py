"""What a coordinator must not forget: the newest head, the number of the next round, every plan and what became of it.

One folder: `state.json`, replaced as a whole, and a file of arrays per head. A head is on the disk before the state names it, so a
server that is killed anywhere finds either the state before or the state after. Masked vectors, shares and keys are never here.

    store = Checkpoint(folder)
    state = store.load() or store.begin(model)
    store.save(replace(state, rounds=state.rounds + 1))
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from earmark_shared.errors import StoreError
from earmark_shared.files import make_private_folder, write_atomic
from earmark_shared.head import HeadSchema, arrays_sha256

if TYPE_CHECKING:
    from earmark_shared.head import Arrays, Floats

FORMAT = 1
STATE = "state.json"
HEADS_KEPT = 8
"""Heads that are kept beyond those that the state names: candidates that were refused, and what was in force before."""


@dataclass(frozen=True)
class Model:
    """A head under its version."""

    version: int
    schema: HeadSchema
    arrays: Arrays

    @property
    def sha256(self) -> bytes:
        """What a round plan names it by."""
        return arrays_sha256(self.schema, self.arrays)


@dataclass(frozen=True)
class RoundRecord:
    """One round for the audit: what was planned, who was summed, what was judged. Hashes in hexadecimal."""

    number: int
    round_id: str
    plan: str
    """The signed plan, encoded."""
    model_version: int
    outcome: str = "open"
    """open, aborted, lost (the server died), candidate, refused (by the gate), published, taken back (found bad later; the head before
    it was published again)."""
    devices: int = 0
    """Devices in the opened sums."""
    transcripts: tuple[tuple[str, str, str], ...] = ()
    """T1, T3 and the sum's SHA-256 of every shard."""
    reason: str = ""
    """What went wrong, also in a round that was published: whom the server refused, and why."""
    report: dict[str, float] = field(default_factory=dict)
    """What the gate measured."""


@dataclass(frozen=True)
class State:
    """Where a federation stands."""

    version: int
    """The newest published head's."""
    head: str
    """Its SHA-256; `heads/` holds it under this name."""
    schema: str
    """The schema's canonical text."""
    rounds: tuple[RoundRecord, ...] = ()
    candidate: str = ""
    """A head that was computed and not yet judged and published: its SHA-256."""
    previous: str = ""
    """The head that was in force before the newest one: its SHA-256; nothing before the first, and after one was taken back."""

    @property
    def open_round(self) -> RoundRecord | None:
        """The last round, if nothing became of it yet."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].outcome == "open" else None

    def with_last(self, **changes: Any) -> State:  # noqa: ANN401  the fields of RoundRecord
        """Return the state with the last round's record changed."""
        return replace(self, rounds=(*self.rounds[:-1], replace(self.rounds[-1], **changes)))

    def with_taken_back(self, reason: str) -> State:
        """Return the state with the round that made the newest head marked; rounds after it published nothing."""
        made = max((place for place, record in enumerate(self.rounds) if record.outcome == "published"), default=None)
        if made is None:
            return self
        record = replace(self.rounds[made], outcome="taken back", reason=reason)
        return replace(self, rounds=(*self.rounds[:made], record, *self.rounds[made + 1 :]))


class Checkpoint:
    """The folder; one process writes it at a time."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, and make it if it isn't there."""
        self._folder = folder
        for each in (folder, folder / "heads"):
            if not each.exists():
                make_private_folder(each)

    def begin(self, model: Model) -> State:
        """Write the first state, which names `model`."""
        state = State(model.version, self.keep(model.schema, model.arrays), model.schema.to_json())
        self.save(state)
        return state

    def load(self) -> State | None:
        """Return the state, or None when there is none yet.

        Raises:
            StoreError: it can't be read.
        """
        path = self._folder / STATE
        if not path.exists():
            return None
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            rounds = tuple(_record(row) for row in table.pop("rounds"))
            if table.pop("format") != FORMAT:
                raise ValueError  # noqa: TRY301  one answer for every way to be unreadable
            return State(**table, rounds=rounds)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{path} can't be read.", hint="Restore it from a backup: without it no round goes on.") from error

    def catch_up(self, newest: Model) -> None:
        """Go on from `newest` if it was released past this checkpoint: by hand, or taken back. A candidate under its number is given up."""
        state = self.load()
        if state is None or newest.version <= state.version or newest.sha256.hex() == state.candidate:
            return
        if state.candidate:
            state = state.with_last(outcome="refused", reason=f"release {newest.version} came before it")
        name = self.keep(newest.schema, newest.arrays)
        if name == state.previous:
            state = state.with_taken_back(f"release {newest.version} is the head before it")
        self.save(replace(state, version=newest.version, head=name, schema=newest.schema.to_json(), candidate="", previous=""))

    def save(self, state: State) -> None:
        """Replace the state; it is on the disk for good when this returns. Heads that no state needs any more go, but for the last few."""
        write_atomic(self._folder / STATE, json.dumps({"format": FORMAT} | asdict(state), indent=1).encode())
        named = {f"{name}.npz" for name in (state.head, state.candidate, state.previous)}
        rest = [path for path in (self._folder / "heads").glob("*.npz") if path.name not in named]
        for path in sorted(rest, key=lambda path: path.stat().st_mtime_ns)[:-HEADS_KEPT]:
            path.unlink()

    def keep(self, schema: HeadSchema, arrays: Arrays) -> str:
        """Write a head and return its SHA-256."""
        name = arrays_sha256(schema, arrays).hex()
        whole = io.BytesIO()
        np.savez(whole, allow_pickle=False, **dict(arrays))
        write_atomic(self._folder / "heads" / f"{name}.npz", whole.getvalue())
        return name

    def arrays(self, schema: HeadSchema, name: str) -> dict[str, Floats]:
        """Return a head that was kept.

        Raises:
            StoreError: it is gone, or is not what its name says.
        """
        path = self._folder / "heads" / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                found = {key: stored[key] for key in stored.files}
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} can't be read.") from error
        if arrays_sha256(schema, found).hex() != name:
            raise StoreError(f"{path} is not the head it was.")
        return found

    def model(self, state: State) -> Model:
        """Return the newest published head."""
        schema = HeadSchema.from_json(state.schema)
        return Model(state.version, schema, self.arrays(schema, state.head))


def _record(row: dict[str, Any]) -> RoundRecord:
    return RoundRecord(**(row | {"transcripts": tuple(tuple(each) for each in row["transcripts"])}))
