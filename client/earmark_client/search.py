"""Query -> candidates -> fused evidence -> ranked, merged hits with reasons, or nothing found.

A small library is scored whole; a large one through its index, then exactly on the best candidates' passages. Both take the same
path from there: evidence per passage in [0, 1], one fused score, passages that follow each other merged into one event.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from earmark_client import ranking

if TYPE_CHECKING:
    import numpy.typing as npt

    from earmark_client.catalogue import Catalogue, Pool
    from earmark_client.model.labeler import TextQuery
    from earmark_client.records import Correction
    from earmark_client.shelf import Shelf

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

CANDIDATES = 300
"""Segments a large library's index gives for exact scoring."""
MOST_PASSAGES = 20
"""Passages of them that are scored exactly, or two for each hit that is wanted; of those that words name, half as many."""
FEW = 4
"""Times as many segments as passages are wanted, and most often that many passages are among them."""
EVENT_SHARE = 0.5
"""An event reaches as far as its segments score this share of its best one."""
EXACT_SEGMENTS = 200_000
"""Filters that leave no more segments than this are answered exactly, whatever the library's size."""


@dataclass(frozen=True)
class Target:
    """A query made comparable with stored vectors; each part may be missing."""

    text: TextQuery | None = None
    example: Floats | None = None
    """`(examples, dim)` unit sound vectors of what it should sound like."""
    minus: tuple[TextQuery, ...] = ()
    words: dict[int, float] | None = None
    """Share of the query's words in a clip's names and labels, by clip id."""
    allowed: Ints | None = None
    """Ascending ids of the clips that pass the filters; None means all."""
    said: tuple[tuple[Correction, float], ...] = ()
    """What people said about the query's words: corrections and the probability each stands for."""


@dataclass(frozen=True)
class Scored:
    """A pool with its evidence: `(passages,)` probabilities or None, their fused `score`, and a `curve` `(segments,)`."""

    pool: Pool
    score: Floats
    curve: Floats
    """Evidence segment by segment: it places the moment inside a passage."""
    text: Floats | None
    example: Floats | None
    words: Floats | None
    minus: tuple[Floats, ...]
    said: Floats
    """NaN where no person said anything about it, else what they said: 0 for a no, up to 1 for a yes."""


@dataclass(frozen=True)
class Event:
    """Neighbouring passages that are one answer; `peak`, `first` and `last` are positions in the catalogue."""

    row: int
    """The best passage's row in the pool."""
    score: float
    peak: int
    first: int
    last: int


def choose_pool(shelf: Shelf, target: Target, *, is_every: bool, most: int) -> Pool:
    """Choose the passages to score exactly: all of a small library, the index's best of a large one.

    Args:
        shelf: The loaded vectors.
        target: What is looked for.
        is_every: Rank every passage, however long it takes.
        most: Passages wanted at least, where there are so many.
    """
    catalogue = shelf.catalogue
    passages = None if target.allowed is None else np.flatnonzero(np.isin(catalogue.passage_clips, target.allowed))
    if is_every or shelf.text.is_exact:
        return catalogue.pool(passages)
    if passages is not None and np.diff(catalogue.offsets)[passages].sum() <= EXACT_SEGMENTS:
        return catalogue.pool(passages)
    near = _near_passages(shelf, target, max(MOST_PASSAGES, most))
    return catalogue.pool(near if passages is None else np.intersect1d(near, passages))


def _near_passages(shelf: Shelf, target: Target, most: int) -> Ints:
    """The passages that the indexes and the words name first, ascending: `(up to most a source,)`."""
    found: list[Ints] = []
    catalogue = shelf.catalogue
    if target.text is not None:
        found.append(shelf.text.search(target.text.vector[None], CANDIDATES)[0][0])
    if target.example is not None:
        each = max(CANDIDATES // len(target.example), 50)
        found.append(shelf.sound.search(target.example, each)[0].T.ravel())
    chosen = [_first_passages(catalogue, ids, most) for ids in found]
    if target.words:
        words = target.words
        best = heapq.nsmallest(most // 2, words, key=lambda clip: (-words[clip], clip))
        first, last = (np.searchsorted(catalogue.passage_clips, best, side=side).tolist() for side in ("left", "right"))
        spans = itertools.chain.from_iterable(range(*span) for span in zip(first, last, strict=True))
        chosen.append(np.fromiter(itertools.islice(spans, most // 2), np.int64))
    return np.unique(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def _first_passages(catalogue: Catalogue, ids: Ints, most: int) -> Ints:
    """The first `most` distinct passages of segments, in order of appearance; as a rule the first few segments name enough."""
    chosen = np.zeros(0, np.int64)
    for count in (FEW * most, len(ids)):
        passages = catalogue.passages_of(catalogue.positions(ids[:count]))
        distinct, first = np.unique(passages, return_index=True)
        chosen = distinct[np.argsort(first)][:most]
        if len(chosen) == most:
            break
    return chosen


def score_pool(shelf: Shelf, target: Target, pool: Pool, calibration: ranking.Calibration) -> Scored:
    """Weigh all evidence for each passage of the pool."""
    text = example = words = None
    curve = np.ones(len(pool.ids), np.float32)
    if target.text is not None:
        text, along = _text_evidence(shelf, target.text, pool, calibration)
        curve = curve * along
    if target.example is not None:
        vectors = shelf.sound.vectors(pool.ids)
        example = ranking.example_probability(ranking.example_scores(target.example, vectors, pool.offsets), calibration)
        curve = curve * ranking.example_probability(ranking.example_segment_scores(target.example, vectors), calibration)
    if target.words or (target.text is None and target.example is None):
        named = target.words or {}
        clips = shelf.catalogue.passage_clips[pool.passages]
        words = np.array([named.get(int(clip), 0.0) for clip in clips], np.float32)
    minus = tuple(_text_evidence(shelf, query, pool, calibration)[0] for query in target.minus)
    said = _said(shelf.catalogue, target, pool, curve)
    fused = ranking.fuse(text=text, example=example, words=words, minus=minus, calibration=calibration)
    score = np.where(np.isnan(said), fused, np.where(said > 0, np.maximum(fused, said), 0.0)).astype(np.float32)
    return Scored(pool, score, curve, text, example, words, minus, said)


def _said(catalogue: Catalogue, target: Target, pool: Pool, curve: Floats) -> Floats:
    """What people said, `(passages,)`; a yes about one segment also lifts the curve there, so that it is the moment shown."""
    said = np.full(len(pool), np.nan, np.float32)
    clips = catalogue.passage_clips[pool.passages]
    for correction, probability in target.said:
        if correction.segment_id is None:
            said[clips == correction.clip_id] = probability
            continue
        here = np.flatnonzero(pool.ids == correction.segment_id)
        if len(here):
            curve[here] = 1.0 if probability else 0.0
            if probability:
                said[np.searchsorted(pool.offsets, here, side="right") - 1] = probability
    return said


def _text_evidence(shelf: Shelf, query: TextQuery, pool: Pool, calibration: ranking.Calibration) -> tuple[Floats, Floats]:
    """Probabilities by passage `(passages,)` and by segment `(segments,)`."""
    raw = shelf.text_scores(pool, query.vector)
    by_passage, along = (
        ranking.query_probability(evidence, query.similarity, query.background, calibration)
        for evidence in (ranking.clip_scores(raw, pool.offsets), raw)
    )
    return by_passage, along


def find_events(catalogue: Catalogue, scored: Scored, *, least: float, join_from: float, limit: int | None) -> list[Event]:
    """Rank the passages that score `least` or more; neighbours that both reach `join_from` are one event.

    Returns:
        At most `limit` events, best first; equal scores in order of clip and time.
    """
    rows = np.flatnonzero(scored.score >= least)
    if not len(rows):
        return []
    passages = scored.pool.passages[rows]
    clips = catalogue.passage_clips[passages]
    strong = scored.score[rows] >= join_from
    joined = (passages[1:] - passages[:-1] == 1) & (clips[1:] == clips[:-1]) & strong[1:] & strong[:-1]
    starts = np.concatenate(([0], np.flatnonzero(~joined) + 1))
    ends = np.concatenate((starts[1:], [len(rows)]))
    best = np.maximum.reduceat(scored.score[rows], starts)
    order = np.argsort(-best, kind="stable")[:limit]
    return [_event(scored, rows[starts[run] : ends[run]], float(best[run])) for run in order]


def _event(scored: Scored, rows: Ints, score: float) -> Event:
    """Place the event of some consecutive pool rows at the segments that carry it."""
    begin, end = int(scored.pool.offsets[rows[0]]), int(scored.pool.offsets[rows[-1] + 1])
    curve = scored.curve[begin:end]
    peak = int(np.argmax(curve))
    carrying = np.flatnonzero(curve >= EVENT_SHARE * curve[peak])
    positions = scored.pool.positions[begin:end]
    row = int(rows[np.argmax(scored.score[rows])])
    return Event(row, score, int(positions[peak]), int(positions[carrying[0]]), int(positions[carrying[-1]]))
