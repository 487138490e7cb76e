"""Which head is in force on this device: the base model alone, or with a released correction; and the one before, to go back to.

A *model version* is a base bundle and at most one correction. The files of corrections lie in the home's `models` folder under
their hashes and never change; which of them is in force is a line in the encrypted database, written in the same transaction as
the labels that it made. So vectors, labels and model can't come apart, whenever the process is killed.

    stage(folder, release, schema_json, head)      # checked, then written; a file that is there is the whole file
    correction = load_correction(folder, release)  # checked again, each time
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from earmark_client.model.head import dequantize_output
from earmark_shared.errors import ModelError, StoreError
from earmark_shared.files import make_private_folder, read_private, write_atomic
from earmark_shared.head import correct
from earmark_shared.release import HEAD_BYTES_MOST, SCHEMA_BYTES_MOST, Release, open_release

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from earmark_client.model.head import Codes, Floats
    from earmark_shared.head import HeadSchema

ROWS = 8
"""Segments corrected at once, always so many: a row's bits can't depend on the others."""
LINE = "line"
"""Where the database keeps which line of releases was asked last. In one line numbers only grow (`federation.releases.Floor`)."""
REFETCH = "`earmark update` fetches it again; `earmark update --rollback` goes back to the model before."


@dataclass(frozen=True)
class Correction:
    """A released head, loaded."""

    release: Release
    schema: HeadSchema
    arrays: dict[str, Floats]

    def apply(self, codes: Codes, scale: Floats, text: npt.NDArray[np.float16]) -> Floats:
        """Correct text vectors, from nothing but what the library stores of a segment.

        Args:
            codes: `(n, inputs) int8` quantized encoder output, with
            scale: `(n,) float32`.
            text: `(n, outputs) float16`, the base model's unit text vectors.

        Returns:
            `(n, outputs) float32` unit text vectors, row by row the same bits whatever n is.
        """
        heard, before = dequantize_output(codes, scale), text.astype(np.float32)
        corrected = np.empty_like(before)
        for start in range(0, len(before), ROWS):
            part = slice(start, start + ROWS)
            rows = correct(self.arrays, _filled(heard[part]), _filled(before[part]))
            corrected[part] = rows[: len(before[part])]
        return corrected


@dataclass(frozen=True)
class ActiveState:
    """What is in force, what was before, and what is being prepared; None stands for the base model alone."""

    active: Release | None = None
    has_previous: bool = False
    previous: Release | None = None
    next: Release | None = None
    """A release whose vectors are being made; searches still use `active`."""
    taken_back: int = 0
    """Number of the newest release that the person went back from; not to be installed again unless asked for."""
    waiting: Release | None = None
    """A newer release that canary devices try first; it is the next to be put in force here."""
    waiting_since_s: int = 0
    """When this device saw it first, or else put the one before it in force; Unix seconds."""
    latest: Release | None = None
    """The newest release while one waits: that one, or one that came after it."""
    line: str = ""
    """The line of releases that all this is about; empty in what was stored before lines had names."""

    @property
    def highest(self) -> int:
        """The highest number of a release in here, 0 without any."""
        releases = (self.active, self.previous, self.next, self.waiting, self.latest)
        return max([self.taken_back, *(each.number for each in releases if each is not None)])

    @property
    def newest(self) -> Release | None:
        """What a round is about."""
        return self.latest or self.active

    @property
    def before(self) -> Release | None:
        """What going back puts in force: the release before, or the base model if the newest one says that this one was taken back."""
        is_undone = self.previous is not None and self.newest is not None and self.newest.undoes(self.previous.number)
        return None if is_undone else self.previous

    @property
    def kept(self) -> set[Release]:
        """Those whose files must stay."""
        return {each for each in (self.active, self.previous, self.waiting, self.latest) if each is not None}

    def to_json(self) -> str:
        """Return the state as the database keeps it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ActiveState:
        """Read what `to_json` wrote; ModelError if it is anything else."""
        try:
            table: dict[str, Any] = json.loads(text)
            return cls(
                active=_release(table["active"]),
                has_previous=bool(table["has_previous"]),
                previous=_release(table["previous"]),
                next=_release(table["next"]),
                taken_back=int(table["taken_back"]),
                waiting=_release(table.get("waiting")),  # what was stored before 2026-11-28 has none of these three
                waiting_since_s=int(table.get("waiting_since_s", 0)),
                latest=_release(table.get("latest")),
                line=str(table.get("line", "")),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError("What this library knows of its model can't be read.") from error


def stage(folder: Path, release: Release, schema_json: bytes, head: bytes) -> None:
    """Check a release's files and put them into `folder`, each whole or not at all; nothing is in force by that.

    Raises:
        ModelError: they are not what the release names, or no head. DiskFullError: there is no room.
    """
    open_release(release, schema_json, head)
    make_private_folder(folder)
    for path, data in zip(_paths(folder, release), (schema_json, head), strict=True):
        write_atomic(path, data)


def load_correction(folder: Path, release: Release) -> Correction:
    """Read and check a staged release.

    Raises:
        ModelError: a file is missing, or not what it was.
    """
    schema_path, head_path = _paths(folder, release)
    try:
        schema_json, head = read_private(schema_path, SCHEMA_BYTES_MOST), read_private(head_path, HEAD_BYTES_MOST)
    except StoreError as error:
        raise ModelError(f"The released head {release.number} can't be read: {error}", hint=REFETCH) from error
    schema, arrays = open_release(release, schema_json, head)
    return Correction(release, schema, {name: np.ascontiguousarray(array) for name, array in arrays.items()})


def forget_others(folder: Path, kept: set[Release]) -> None:
    """Delete the files of releases that nobody can go back to."""
    names = {path.name for release in kept for path in _paths(folder, release)}
    for path in [*folder.glob("head-*.safetensors"), *folder.glob("schema-*.json")]:
        if path.name not in names:
            path.unlink(missing_ok=True)


def _paths(folder: Path, release: Release) -> tuple[Path, Path]:
    return folder / f"schema-{release.schema_sha256}.json", folder / release.head_name


def _filled(rows: Floats) -> Floats:
    if len(rows) == ROWS:
        return np.ascontiguousarray(rows)
    filled = np.zeros((ROWS, rows.shape[1]), np.float32)
    filled[: len(rows)] = rows
    return filled


def _release(table: dict[str, Any] | None) -> Release | None:
    if table is None:
        return None
    return Release(**table | {"undone": tuple((int(first), int(last)) for first, last in table.get("undone") or ())})
