"""Which passages a search scores exactly: all of a small library; of a large one the best its indexes name, and more if they don't do.

Each pool comes with the best score that a passage outside it can still have. So a search ends when it has as many hits as are wanted, or
when nothing that was left out could be one: under a filter, beyond a first page or far down the scores just as well.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from earmark_client import ranking

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from earmark_client.catalogue import Catalogue, Pool
    from earmark_client.search import Target
    from earmark_client.shelf import Shelf

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]
    Span = tuple[float, int, int]
    """A score, and the passages `[first, last)` that have it."""

CANDIDATES = 320
"""Segments a large library's index gives for exact scoring, at least."""
MOST_CANDIDATES = 20_000
"""More than these are not asked of an index: then everything is scored exactly, which takes little longer."""
MOST_PASSAGES = 20
"""Passages of them that are scored exactly, or two for each hit that is wanted; of those that words name, half as many."""
FEW = 4
"""Times as many segments as passages are wanted, and most often that many passages are among them."""
MORE = 4
"""Times as many passages as before are scored where the ones before didn't do."""
EXACT_SEGMENTS = 200_000
"""Filters that leave no more segments than this are answered exactly, whatever the library's size."""
NOTHING = -1.0
"""Below every score: nothing was left out."""


@dataclass(frozen=True)
class Candidates:
    """Passages to score exactly, and the best score that one outside of them can have."""

    pool: Pool
    rest: float


@dataclass(frozen=True)
class _Named:
    """What one source names first: passages in its order, and the best evidence that it has for others."""

    passages: Ints
    left: float


@dataclass(frozen=True)
class _Listed:
    """Segments that an index lists, best first, for one vector or in turn for several: `(segments,)`; none behind reaches `reach`."""

    ids: Ints
    reach: Floats


def choose_pools(shelf: Shelf, target: Target, calibration: ranking.Calibration, *, limit: int | None) -> Iterator[Candidates]:
    """Ever larger pools, the last of all that pass the filters.

    Args:
        shelf: The loaded vectors.
        target: What is looked for.
        calibration: The model's.
        limit: How many hits are wanted; None means all, and only the last pool.
    """
    catalogue = shelf.catalogue
    inside = None if target.allowed is None else np.isin(catalogue.passage_clips, target.allowed)
    passages = None if inside is None else np.flatnonzero(inside)
    few = passages is not None and np.diff(catalogue.offsets)[passages].sum() <= EXACT_SEGMENTS
    if limit is not None and not shelf.text.is_exact and not few:
        yield from _near_pools(shelf, target, calibration, inside, max(MOST_PASSAGES, 2 * limit))
    yield Candidates(catalogue.pool(passages), NOTHING)


def _near_pools(
    shelf: Shelf, target: Target, calibration: ranking.Calibration, inside: Mask | None, most: int
) -> Iterator[Candidates]:
    """Pools of the passages that indexes, words and people name first, `most` a source and then ever more."""
    catalogue, count = shelf.catalogue, 0
    words, said = _named_spans(catalogue, target), _said_spans(catalogue, target)
    while FEW * most <= MOST_CANDIDATES:
        wanted = max(CANDIDATES, FEW * most)
        if wanted != count:
            count, listed = wanted, _ask(shelf, target, wanted)
        text, example = (None if each is None else _first_passages(catalogue, each, inside, most) for each in listed)
        named, spoken = _first_of_spans(words, inside, most // 2), _first_of_spans(said, inside, most // 2)
        chosen = [each.passages for each in (text, example, named, spoken) if each is not None]
        pool = catalogue.pool(np.unique(np.concatenate(chosen)))
        yield Candidates(pool, max(spoken.left, _best_left(target, text, example, named, calibration)))
        most *= MORE


def _ask(shelf: Shelf, target: Target, count: int) -> tuple[_Listed | None, _Listed | None]:
    """What the index of texts and that of sounds list; None where the target has no such part."""
    text = example = None
    if target.text is not None:
        text = _listed(*shelf.text.search(target.text.vector[None], count))
    if target.example is not None:
        example = _listed(*shelf.sound.search(target.example, max(count // len(target.example), 50)))
    return text, example


def _listed(ids: Ints, scores: Floats) -> _Listed:
    """One list of `(queries, segments)`: the first of each, the second of each, and so on."""
    return _Listed(ids.T.ravel(), np.repeat(scores.max(axis=0), len(scores)))


def _first_passages(catalogue: Catalogue, listed: _Listed, inside: Mask | None, most: int) -> _Named:
    """The first `most` distinct passages, in order of appearance; as a rule the first few segments name enough."""
    ids, reach = listed.ids, listed.reach
    known = np.isin(ids, catalogue.ids) if (ids < 0).any() else None  # an index of fewer rows fills up with -1
    if known is not None:
        ids, reach = ids[known], reach[known]
    chosen, left = np.zeros(0, np.int64), NOTHING
    for count in (FEW * most, len(ids)):
        passages, scores = catalogue.passages_of(catalogue.positions(ids[:count])), reach[:count]
        left = float(scores[-1]) if len(scores) else NOTHING
        if inside is not None:
            passages, scores = passages[inside[passages]], scores[inside[passages]]
        distinct, first = np.unique(passages, return_index=True)
        order = np.argsort(first)
        chosen = distinct[order][:most]
        if len(distinct) > most:
            left = float(scores[first[order[most]]])
        if len(chosen) == most:
            break
    return _Named(chosen, left)


def _named_spans(catalogue: Catalogue, target: Target) -> list[Span]:
    """The clips that words name, as spans of passages, best first."""
    words = target.words or {}
    if target.allowed is not None and words:
        clips = np.fromiter(words, np.int64, len(words))
        words = {clip: words[clip] for clip in clips[np.isin(clips, target.allowed)].tolist()}
    best = heapq.nsmallest(MOST_CANDIDATES, words, key=lambda clip: (-words[clip], clip))
    return _spans(catalogue, [(words[clip], clip) for clip in best])


def _said_spans(catalogue: Catalogue, target: Target) -> list[Span]:
    """What people said yes to: whole clips, or the passages of moments; the nearest words first."""
    yes = sorted((pair for pair in target.said if pair[1] > 0), key=lambda pair: -pair[1])
    clips = _spans(catalogue, [(probability, said.clip_id) for said, probability in yes if said.segment_id is None])
    moments = {said.segment_id: probability for said, probability in reversed(yes) if said.segment_id is not None}
    positions = catalogue.positions(np.array(sorted(moments), np.int64)) if moments else np.zeros(0, np.int64)
    ids, passages = catalogue.ids[positions].tolist(), catalogue.passages_of(positions).tolist()
    spans = [(moments[segment], passage, passage + 1) for segment, passage in zip(ids, passages, strict=True)]
    return sorted([*clips, *spans], key=lambda span: -span[0])


def _spans(catalogue: Catalogue, scored: list[tuple[float, int]]) -> list[Span]:
    """Clips with their scores, as spans of passages; those without any are left out."""
    clips = [clip for _, clip in scored]
    first, last = (np.searchsorted(catalogue.passage_clips, clips, side=side).tolist() for side in ("left", "right"))
    return [(score, *span) for (score, _), span in zip(scored, zip(first, last, strict=True), strict=True) if span[0] < span[1]]


def _first_of_spans(spans: Iterable[Span], inside: Mask | None, most: int) -> _Named:
    """The first `most` passages of spans, best first."""
    chosen: list[int] = []
    for score, first, last in spans:
        within = [passage for passage in range(first, min(last, first + most)) if inside is None or inside[passage]]
        room = most - len(chosen)
        chosen += within[:room]
        if len(within) > room or last - first > most:
            return _Named(np.array(chosen, np.int64), score)
    return _Named(np.array(chosen, np.int64), NOTHING)


def _best_left(
    target: Target, text: _Named | None, example: _Named | None, words: _Named, calibration: ranking.Calibration
) -> float:
    """The score of a passage that has the best of each evidence that the sources left out."""
    by_text = by_example = by_words = None
    if target.text is not None and text is not None:
        raw = np.array([text.left], np.float32)
        by_text = ranking.query_probability(raw, target.text.similarity, target.text.background, calibration)
    if example is not None:
        by_example = ranking.example_probability(np.array([example.left], np.float32), calibration)
    if words.left > 0 or (text is None and example is None):
        by_words = np.array([max(words.left, 0.0)], np.float32)
    return float(ranking.fuse(calibration=calibration, text=by_text, example=by_example, words=by_words)[0])
