"""Which segment lies where: the in-memory table that turns an index's segment ids into clips and passages.

A *passage* is a stretch of at most `PASSAGE_S` seconds of one clip. It is what a search ranks: a short clip is one passage, a day's
recording is thousands, so a moment in a long file competes on equal terms with a short file, and one formula serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.store.blocks import slots_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Doubles = npt.NDArray[np.float64]

PASSAGE_S = 10.0
"""Long enough for the mean of a sound's best three segments, short enough to be one moment."""


@dataclass(frozen=True)
class Catalogue:
    """The searchable segments, ordered by clip and time. A *position* is a row here; arrays are `(segments,)`."""

    ids: Ints
    clip_ids: Ints
    start_s: Doubles
    end_s: Doubles

    @classmethod
    def order(cls, ids: Ints, clip_ids: Ints, start_s: Doubles, end_s: Doubles) -> Catalogue:
        """Sort segments by clip, then time."""
        order = np.lexsort((start_s, clip_ids))
        return cls(ids[order], clip_ids[order], start_s[order], end_s[order])

    def __len__(self) -> int:
        """Number of segments."""
        return len(self.ids)

    @cached_property
    def offsets(self) -> Ints:
        """`(passages + 1,)` positions at which passages begin, and the end."""
        if not len(self):
            return np.zeros(1, np.int64)
        part = (self.start_s // PASSAGE_S).astype(np.int64)
        new = (np.diff(self.clip_ids) != 0) | (np.diff(part) != 0)
        return np.concatenate(([0], np.flatnonzero(new) + 1, [len(self)])).astype(np.int64)

    @cached_property
    def passage_clips(self) -> Ints:
        """`(passages,)` the clip of each passage."""
        return self.clip_ids[self.offsets[:-1]]

    @cached_property
    def _by_id(self) -> tuple[Ints, Ints]:
        order = np.argsort(self.ids)
        return self.ids[order], order

    def positions(self, ids: Ints) -> Ints:
        """Positions of segment ids; ids that are not here are left out."""
        known, order = self._by_id
        if not len(known):
            return np.zeros(0, np.int64)
        slot = slots_of(ids, known)
        positions: Ints = order[slot[known[slot] == ids]]
        return positions

    def passages_of(self, positions: Ints) -> Ints:
        """The passage of each position."""
        return np.searchsorted(self.offsets, positions, side="right") - 1

    def pool(self, passages: Ints | None) -> Pool:
        """The segments of some passages (ascending), or of all."""
        if passages is None:
            count = len(self.offsets) - 1
            return Pool(np.arange(count), np.arange(len(self)), self.offsets, self.ids)
        sizes = self.offsets[passages + 1] - self.offsets[passages]
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        positions = np.arange(offsets[-1]) + np.repeat(self.offsets[passages] - offsets[:-1], sizes)
        return Pool(passages, positions, offsets, self.ids[positions])


@dataclass(frozen=True)
class Pool:
    """The passages that a search scores exactly, and their segments: `offsets` cut `(segments,)` arrays into passages."""

    passages: Ints
    positions: Ints
    offsets: Ints
    ids: Ints

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.passages)
