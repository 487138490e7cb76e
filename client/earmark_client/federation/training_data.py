"""What a correction and a taught sound become when a device trains: encoder outputs from the database, text vectors of shared labels.

One clip is one record. A yes or no to a clip is a target of all its segments, one to a moment of that segment alone; segments that
nobody spoke of stay out. Where answers differ, a yes outlasts a no. A taught sound whose name is in the shared set is a yes to each of the library's clips that it
was taught with. A name that the schema's shared set does not hold never becomes training data, in whatever way it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.learn.finetune import TrainingPlan, TrainingSet, planned_event, train
from earmark_shared.head import HeadSchema, unit_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from earmark_client.records import Correction
    from earmark_client.store.database import Database
    from earmark_shared.crypto.secrets import Entropy
    from earmark_shared.head import Arrays, Floats
    from earmark_shared.privacy.accountant import SampledGaussian

SAME_SOUND = 0.9995
"""Cosine from which a stored sound vector is the example that a sound was taught with."""
TextOf = Callable[["NDArray[np.int64]", "Floats"], "Floats"]
"""Segment ids `(n,)` and encoder outputs `(n, inputs)` -> text vectors `(n, outputs)` before any correction."""


@dataclass(frozen=True)
class HeldHead:
    """The head a device holds: what a round must be about, and what training starts from."""

    version: int
    schema: HeadSchema
    arrays: Arrays
    label_vectors: Floats
    """`(labels, outputs)` unit text vectors of the schema's labels."""


@dataclass
class _Record:
    """One clip's answers: segment id, or None for the whole clip -> label index -> 1 or -1."""

    answers: dict[int | None, dict[int, int]] = field(default_factory=dict)

    def say(self, label: int, *, is_present: bool, segment_id: int | None) -> None:
        """Take one answer in."""
        said = self.answers.setdefault(segment_id, {})
        said[label] = max(said.get(label, -1), 1 if is_present else -1)

    def targets(self, segment_ids: NDArray[np.int64], labels: int) -> NDArray[np.int8]:
        """Return `(segments, labels)`: 1, -1, or 0 where nobody said anything."""
        found = np.zeros((len(segment_ids), labels), np.int8)
        for segment_id, said in self.answers.items():
            rows = slice(None) if segment_id is None else np.flatnonzero(segment_ids == segment_id)
            for label, answer in said.items():
                found[rows, label] = np.where(found[rows, label] == 1, 1, answer)
        return found


class CorrectionTrainer:
    """Trains on one library's corrections; nothing is read from it before the ledger asks what training will cost."""

    def __init__(self, head: HeldHead, data: TrainingSet, plan: TrainingPlan, entropy: Entropy) -> None:
        """Train `head` on `data` by `plan`."""
        self._head, self._data, self._plan, self._entropy = head, data, plan, entropy

    def event(self) -> SampledGaussian:
        """See `participant.Trainer`."""
        return planned_event(self._plan, self._data.clip_count)

    def update(self, paid: SampledGaussian) -> Floats:
        """See `participant.Trainer`."""
        trained = train(self._head.schema, self._head.arrays, self._data, self._plan, paid=paid, entropy=self._entropy)
        return trained.update


def training_set(
    database: Database, model_version: str, head: HeldHead, *, since_s: float = 0.0, text_of: TextOf | None = None
) -> TrainingSet:
    """Return what this library's person said about shared labels, `(clips, ...)`; only clips added since `since_s` (Unix time).

    `text_of` gives text vectors before any correction; without it those that are stored are taken, which are that in a base model.
    """
    records = _records(database, model_version, head.schema.labels)
    young = {clip.id for clip in database.clips() if clip.added_at_s >= since_s}
    rows: list[tuple[NDArray[np.int64], NDArray[np.int8]]] = []
    for clip_id in sorted(young & records.keys()):
        ids = database.segments_of(clip_id).ids
        targets = records[clip_id].targets(ids, len(head.schema.labels))
        spoken_of = targets.any(axis=1)
        if spoken_of.any():
            rows.append((ids[spoken_of], targets[spoken_of]))
    return _assemble(database, model_version, head, rows, text_of)


def _records(database: Database, model_version: str, labels: Sequence[str]) -> dict[int, _Record]:
    places = {name.lower(): place for place, name in enumerate(labels)}
    records: dict[int, _Record] = {}
    for correction in [*_taught(database, model_version, places), *database.corrections()]:
        place = places.get(correction.name.lower())
        if place is not None:
            record = records.setdefault(correction.clip_id, _Record())
            record.say(place, is_present=correction.is_present, segment_id=correction.segment_id)
    return records


def _taught(database: Database, model_version: str, places: dict[str, int]) -> list[Correction]:
    """Return a yes for every segment of the library that a shared label was taught with."""
    from earmark_client.records import Correction

    taught = [row for row in database.label_list() if row.kind == "taught" and row.name.lower() in places]
    found: list[Correction] = []
    if not taught:
        return found
    owners = {int(segment): int(clip) for segment, clip in zip(*_segment_owners(database), strict=True)}
    for block in database.blocks("sound", model_version):
        sounds = unit_rows(block.float32())
        for row in taught:
            if row.vector is None or row.vector.size % sounds.shape[1]:
                continue
            near = (sounds @ unit_rows(row.vector.reshape(-1, sounds.shape[1])).T).max(axis=1) >= SAME_SOUND
            found += [Correction(owners[int(each)], int(each), row.name, is_present=True) for each in block.ids[near]]
    return found


def _segment_owners(database: Database) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    table = database.segments()
    return table.ids, table.clip_ids


def _assemble(
    database: Database,
    model_version: str,
    head: HeldHead,
    rows: list[tuple[NDArray[np.int64], NDArray[np.int8]]],
    text_of: TextOf | None,
) -> TrainingSet:
    schema = head.schema
    ids = np.concatenate([part for part, _ in rows]) if rows else np.empty(0, np.int64)
    targets = np.concatenate([part for _, part in rows]) if rows else np.empty((0, len(schema.labels)), np.int8)
    if not len(ids):
        outputs, text = np.empty((0, schema.inputs), np.float32), np.empty((0, schema.outputs), np.float32)
    else:
        outputs = database.fetch("encoder", model_version, ids).float32()
        text = database.fetch("text", model_version, ids).float32() if text_of is None else text_of(ids, outputs)
    clips = np.repeat(np.arange(len(rows), dtype=np.int64), [len(part) for part, _ in rows])
    return TrainingSet(outputs, unit_rows(text), clips, targets, head.label_vectors)
