"""From segments' scores to an answer: clip scores, search by example, fused evidence, calibration.

Pure functions on arrays. Segments of one clip lie side by side: `offsets (clips + 1,)` says where each clip's begin, so that
clip i holds the rows `offsets[i]:offsets[i + 1]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from earmark_client.model.calibration import Calibration, example_probability, query_probability, text_probability

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

__all__ = [
    "Calibration",
    "clip_scores",
    "example_probability",
    "example_scores",
    "example_segment_scores",
    "fuse",
    "jaccard",
    "query_probability",
    "segment_scores",
    "text_probability",
]

BEST_SEGMENTS = 3
"""A clip's score is the mean of its best three segments': one loud frame is not enough, and a long clip keeps its moments."""
CENTROID_SHARE = 0.4
"""How much two clips' mean directions count when they are compared; the rest is their segments' best matches."""


def segment_scores(text: Floats, strength: Floats, query: Floats) -> Floats:
    """Raw evidence for a query in each segment.

    Args:
        text: `(segments, dim)` unit text vectors.
        strength: `(segments,)`.
        query: `(dim,)` query vector.

    Returns:
        `(segments,)`, near [0, 1]: the query's share of what the model hears.
    """
    scores: Floats = (text @ query) * strength
    return scores


def clip_scores(raw: Floats, offsets: Ints) -> Floats:
    """The mean of each clip's best three segments.

    Args:
        raw: `(segments,)` raw evidence.
        offsets: `(clips + 1,)`.

    Returns:
        `(clips,) float32`; a clip without segments scores 0.
    """
    lengths = np.diff(offsets)
    scores = np.zeros(len(lengths), np.float32)
    filled = lengths > 0
    if not filled.any():
        return scores
    scores[filled] = _mean_of_best(raw.astype(np.float32), offsets[:-1][filled], lengths[filled])
    return scores


def _mean_of_best(left: Floats, starts: Ints, lengths: Ints) -> Floats:
    """Take each group's maximum out of `left` (a copy), three times over: no sorting, so a million rows take milliseconds."""
    owner = np.repeat(np.arange(len(starts)), lengths)
    total: Floats = np.zeros(len(starts), np.float32)
    for turn in range(BEST_SEGMENTS):
        best: Floats = np.maximum.reduceat(left, starts)
        total += np.where(turn < lengths, best, 0).astype(np.float32)
        at_best = np.flatnonzero(left == best[owner])
        owners = owner[at_best]
        first = np.concatenate(([True], owners[1:] > owners[:-1]))
        left[at_best[first]] = -np.inf
    mean: Floats = (total / np.minimum(lengths, BEST_SEGMENTS)).astype(np.float32)
    return mean


def example_scores(query: Floats, sound: Floats, offsets: Ints) -> Floats:
    """Raw likeness of clips to an example: mean directions compared, and segments' best matches both ways.

    Args:
        query: `(examples, dim)` unit sound vectors.
        sound: `(segments, dim)` unit sound vectors.
        offsets: `(clips + 1,)`.

    Returns:
        `(clips,) float32` in [-1, 1]; a clip without segments scores -1.
    """
    lengths = np.diff(offsets)
    scores = np.full(len(lengths), -1, np.float32)
    filled = lengths > 0
    if not filled.any() or not len(query):
        return scores
    starts, counts = offsets[:-1][filled], lengths[filled]
    likeness = sound @ query.T
    there = np.maximum.reduceat(likeness, starts, axis=0).mean(axis=1)
    back = np.add.reduceat(likeness.max(axis=1), starts) / counts
    centroids = _unit(np.add.reduceat(sound, starts, axis=0)) @ _unit(query.sum(axis=0))
    scores[filled] = CENTROID_SHARE * centroids + (1 - CENTROID_SHARE) / 2 * (there + back)
    return scores


def example_segment_scores(query: Floats, sound: Floats) -> Floats:
    """Raw likeness of single segments `(segments, dim)` to an example `(examples, dim)`: `(segments,)` in [-1, 1]."""
    return example_scores(query, sound, np.arange(len(sound) + 1, dtype=np.int64))


def fuse(
    *,
    calibration: Calibration,
    text: Floats | None = None,
    example: Floats | None = None,
    words: Floats | None = None,
    minus: Sequence[Floats] = (),
) -> Floats:
    """Weigh all evidence, each `(clips,)` in [0, 1] or missing, into one probability `(clips,)`.

    Words that were heard and an example that was given must both hold (geometric mean); a name that matches the words is
    evidence of its own for the words (noisy or); what is not wanted takes away what it explains.

    Raises:
        ValueError: there is no evidence at all.
    """
    if words is not None:
        named = calibration.word_weight * words
        text = named if text is None and example is None else 1 - (1 - (0 if text is None else text)) * (1 - named)
    parts = [part for part in (text, example) if part is not None]
    if not parts:
        raise ValueError("no evidence to fuse")
    score = parts[0] if len(parts) == 1 else np.sqrt(parts[0] * parts[1])
    for unwanted in minus:
        score = score * (1 - unwanted)
    return np.asarray(score, np.float32)


def jaccard(left: AbstractSet[str], right: AbstractSet[str]) -> float:
    """Shared share of two label sets, in [0, 1]; two empty sets are alike."""
    union = len(left | right)
    return len(left & right) / union if union else 1.0


def _unit(rows: Floats) -> Floats:
    scaled: Floats = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return scaled
