"""All labels that a segment can get: the model's own, phrases a person added, and sounds a person taught."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from earmark_client import ranking
from earmark_client.records import Label
from earmark_shared.errors import NotInLibraryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from earmark_client.describe import Floats, Model
    from earmark_client.store.database import LabelRow

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
            calibration = self._model.labeler.calibration
            for examples in self._taught.values():
                raw = ranking.example_segment_scores(examples, sound)
                columns.append(ranking.example_probability(raw, calibration)[:, None])
        return np.concatenate(columns, axis=1)

    def top(self, scores: Floats) -> list[Label]:
        """The labels worth telling, best first, from `(labels,)` scores; a taught sound goes before the words of others."""
        count = len(self._phrases.names)
        threshold = self._model.labeler.calibration.threshold
        taught = [
            Label(name, float(score)) for name, score in zip(self._taught, scores[count:], strict=False) if score >= threshold
        ]
        named = self._model.labeler.top_labels(scores[:count], self._phrases)
        return [*sorted(taught, key=lambda label: -label.score), *(Label(name, float(score)) for name, score in named)]


def is_taught_by(model: Model, label: LabelRow) -> bool:
    """Whether a label was taught, and with this model's ears: another's sound vectors can't be compared."""
    return label.kind == "taught" and label.model_version.partition("+")[0] == model.base_version


def taught_vectors(label: LabelRow, dim: int) -> Floats:
    """The sound vectors `(examples, dim)` that a label was taught with."""
    if label.vector is None:
        raise NotInLibraryError(f"The label {label.name} has no examples.", hint="Teach it again.")
    vectors: Floats = label.vector.reshape(-1, dim)
    return vectors


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
