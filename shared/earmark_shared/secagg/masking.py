"""Masks on a vector and off again: `[1, update]` as uint32, every mask added modulo 2^32.

Slot 0 counts devices: it holds 1, and must sum to exactly the number of survivors. A device adds its self mask and, for
every other device, their pair mask: the one with the lower index adds it, the other subtracts it.

    masked = mask(update, MaskSeeds(added=[own, ...], subtracted=[...]))
    unmask(masked, MaskSeeds(added=[own, ...], subtracted=[...]))             # in place, the same seeds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from earmark_shared.crypto.keystream import Words, add_keystreams, subtract_keystreams
from earmark_shared.crypto.secrets import erase
from earmark_shared.errors import NormError

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP_MOST = 2**30
"""No single device's coordinate reaches this, so that no honest sum of 256 wraps unseen."""


@dataclass(frozen=True)
class MaskSeeds:
    """Whose keystreams are in a masked vector; 32 bytes each."""

    added: Sequence[bytearray] = field(default_factory=list)
    subtracted: Sequence[bytearray] = field(default_factory=list)

    def erase(self) -> None:
        """Overwrite every seed."""
        erase(*self.added, *self.subtracted)


def mask(update: NDArray[np.integer], seeds: MaskSeeds) -> Words:
    """Return the masked vector `(d + 1,) uint32` of an integer update `(d,)` that holds its noise already.

    Raises:
        NormError: a coordinate is too large.
    """
    if update.size and int(np.abs(update).max()) >= STEP_MOST:
        raise NormError("a coordinate of the update is too large")
    words = np.empty(len(update) + 1, dtype="<u4")
    words[0] = 1
    words[1:] = update.astype(np.int32).view(np.uint32)
    add_keystreams(words, seeds.added)
    subtract_keystreams(words, seeds.subtracted)
    return words


def unmask(words: Words, seeds: MaskSeeds) -> None:
    """Take the masks off again, in place; undoes `mask`, of one vector or of a sum of vectors."""
    subtract_keystreams(words, seeds.added)
    add_keystreams(words, seeds.subtracted)
