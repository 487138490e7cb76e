"""All labels that a segment can get: the model's own, phrases a person added, and sounds a person taught."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from earmark_client import ranking
from earmark_client.model.calibration import example_probability, text_probability
from earmark_client.model.labeler import LEAST_LISTED
from earmark_client.records import Label
from earmark_shared.errors import NotInLibraryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from earmark_client.describe import Floats, Model
    from earmark_client.store.database import Database, LabelRow

    Ints = npt.NDArray[np.int64]

BEST = 3
"""A label's score for a clip is the mean of its best three segments': one loud second is not enough, three are."""


class LabelSet:
    """The label list in force, with its taught sounds; one column each in every score array."""

    def __init__(self, model: Model, own: Sequence[LabelRow]) -> None:
        """Join the model's label list with a person's own labels."""
        self._model = model
        self._phrases = model.labeler.label_list([(row.name, row.phrase) for row in own if row.kind == "user"])
        self._taught = {row.name: taught_vectors(row, model.labeler.sound_dim) for row in own if is_taught_by(model, row)}
        self.names = (*self._phrases.names, *self._taught)

    @property
    def needs_sound(self) -> bool:
        """Whether `scores` looks at sound vectors: only taught sounds do."""
        return bool(self._taught)

    def scores(self, text: Floats, strength: Floats, sound: Floats | None) -> Floats:
        """Calibrated scores `(segments, labels)` of segments' text vectors, strengths and sound vectors."""
        columns = [self._model.labeler.labels(text, strength, self._phrases)]
        if sound is not None:
            columns += [self._example_probability(raw) for raw in self._taught_evidence(sound)]
        return np.concatenate(columns, axis=1)

    def span_scores(self, weighted: Floats, sound: Floats | None, rows: Ints) -> Floats:
        """Each label's mean of its best three segments, for many spans of stored segments at once; 0 if it can't be listed.

        What `scores` and `best_rows` give, but for the last bits. A calibrated score grows with its evidence: so the best are chosen
        first, only those are calibrated, and of the model's hundreds of labels only those that somewhere reach what is worth telling.

        Args:
            weighted: `(segments, text_dim)` text vectors times strength.
            sound: `(segments, sound_dim)`, if `needs_sound`.
            rows: `(spans, most)` which segments a span has; -1 behind its last.

        Returns:
            `(spans, labels)`.
        """
        scores = np.zeros((len(rows), len(self.names)), np.float32)
        raw, similarity = weighted @ self._phrases.turned, self._phrases.similarity
        listed = np.flatnonzero(self._phrase_probability(raw.max(axis=0), similarity) >= LEAST_LISTED)
        scores[:, listed] = _mean_of_best(raw[:, listed], rows, lambda best: self._phrase_probability(best, similarity[listed]))
        if sound is not None:
            evidence = np.concatenate(self._taught_evidence(sound), axis=1)
            scores[:, len(similarity) :] = _mean_of_best(evidence, rows, self._example_probability)
        return scores

    def _phrase_probability(self, raw: Floats, similarity: Floats) -> Floats:
        return text_probability(raw, similarity, self._model.labeler.calibration)

    def _example_probability(self, raw: Floats) -> Floats:
        return example_probability(raw, self._model.labeler.calibration)

    def _taught_evidence(self, sound: Floats) -> list[Floats]:
        """`(segments, 1)` for each taught sound."""
        return [ranking.example_segment_scores(examples, sound)[:, None] for examples in self._taught.values()]

    def top(self, scores: Floats) -> list[Label]:
        """The labels worth telling, best first, from `(labels,)` scores; a taught sound goes before the words of others.

        A person's label may have the name of one of the model's: each name is told once, as what comes first.
        """
        count = len(self._phrases.names)
        threshold = self._model.labeler.calibration.threshold
        taught = [
            Label(name, float(score)) for name, score in zip(self._taught, scores[count:], strict=False) if score >= threshold
        ]
        named = self._model.labeler.top_labels(scores[:count], self._phrases)
        found: dict[str, Label] = {}
        for label in (*sorted(taught, key=lambda label: -label.score), *(Label(name, float(score)) for name, score in named)):
            found.setdefault(label.name, label)
        return list(found.values())


def is_taught_by(model: Model, label: LabelRow) -> bool:
    """Whether a label was taught, and with this model's ears: another's sound vectors can't be compared."""
    return label.kind == "taught" and label.model_version.partition("+")[0] == model.base_version


def taught_vectors(label: LabelRow, dim: int) -> Floats:
    """The sound vectors `(examples, dim)` that a label was taught with."""
    if label.vector is None:
        raise NotInLibraryError(f"The label {label.name} has no examples.", hint="Teach it again.")
    vectors: Floats = label.vector.reshape(-1, dim)
    return vectors


def _mean_of_best(raw: Floats, rows: Ints, probability: Callable[[Floats], Floats]) -> Floats:
    """Evidence `(segments, columns)` -> each span's `(spans, columns)` mean of its best three segments' calibrated scores."""
    there = (rows >= 0)[:, :, None]
    best = probability(best_of_three(np.where(there, raw[rows], -np.inf))[:, : rows.shape[1]])
    there = there[:, :BEST]
    means: Floats = np.where(there, best, 0).sum(axis=1) / there.sum(axis=1)
    return means


def best_of_three(values: Floats) -> Floats:
    """The three largest of `values (spans, most, columns)` along the middle, descending: `(spans, BEST, columns)`.

    Row by row in three comparisons: sorting as many short columns takes three times as long.
    """
    best = np.full((len(values), BEST, values.shape[2]), -np.inf, np.float32)
    for row in np.moveaxis(values, 1, 0):
        left = row
        for place in range(BEST):
            held = best[:, place].copy()
            np.maximum(held, left, out=best[:, place])
            left = np.minimum(held, left)
    return best


def best_rows(best: Floats | None, scores: Floats) -> Floats:
    """Keep each column's best values.

    Args:
        best: `(up to BEST, labels)` from an earlier call, or None.
        scores: `(segments, labels)`.

    Returns:
        `(up to BEST, labels)`, each column descending.
    """
    rows = scores if best is None else np.concatenate((best, scores))
    kept: Floats = np.sort(rows, axis=0)[::-1][:BEST]
    return kept


def stored_best(database: Database, model: Model, labels: LabelSet, clip_id: int) -> Floats:
    """The best scores of each label among what an interrupted `add` stored of a clip: `(up to BEST, labels)`."""
    ids = database.segments_of(clip_id).ids
    if not len(ids):  # killed before its first batch
        return np.zeros((0, len(labels.names)), np.float32)
    text = database.fetch("text", model.version, ids).float32()
    strength = database.fetch("strength", model.base_version, ids).float32()[:, 0]
    sound = database.fetch("sound", model.base_version, ids).float32()
    return best_rows(None, labels.scores(text, strength, sound))
