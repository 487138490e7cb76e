"""The plain records of the store, with units in their names; `earmark_client.records` has the nouns that the user meets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipRow:
    """What is known of a clip before its sound is."""

    content_sha256: str
    duration_s: float
    sample_rate_hz: int
    channels: int
    size_bytes: int
    added_at_s: float
    recorded_at_s: float
    model_version: str = ""


@dataclass(frozen=True)
class StoredClip:
    """A clip by its content: `stored_until_s` is where a pending clip's segments end, so that it can go on from there."""

    id: int
    is_ready: bool
    stored_until_s: float
    model_version: str


@dataclass(frozen=True)
class SegmentTable:
    """Segments in ascending order of id; four arrays of one length."""

    ids: NDArray[np.int64]
    clip_ids: NDArray[np.int64]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


@dataclass(frozen=True)
class LabelRow:
    """A label that the user added (`phrase`) or taught (`vector`, learned from examples)."""

    name: str
    phrase: str
    kind: str
    model_version: str
    threshold: float | None = None
    vector: NDArray[np.float32] | None = None
    extra: bytes | None = None


@dataclass(frozen=True)
class Counts:
    """How much a library holds."""

    clips: int
    pending: int
    segments: int
    duration_s: float
    size_bytes: int
