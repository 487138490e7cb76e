"""The nouns of a library: frozen records with units in their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Clip:
    """One imported file's audio; several paths may hold the same content."""

    id: int
    content_sha256: str
    paths: tuple[str, ...]
    duration_s: float
    sample_rate_hz: int
    channels: int
    added_at_s: float
    """Unix time of the first import."""
    recorded_at_s: float
    """Unix time the file was last modified: the nearest thing to a recording date that every format has."""


@dataclass(frozen=True)
class Segment:
    """`[start_s, end_s)` of a clip, the unit of search."""

    id: int
    clip_id: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Label:
    """A predicted name and its calibrated score in [0, 1]."""

    name: str
    score: float


@dataclass(frozen=True)
class Correction:
    """A person's yes or no to a name, for a whole clip (`segment_id` None) or one segment."""

    clip_id: int
    segment_id: int | None
    name: str
    is_present: bool


@dataclass(frozen=True)
class Query:
    """What is asked: words, an example, or both; minus what is not wanted; within filters."""

    text: str | None = None
    like: Path | None = None
    at_s: float | None = None
    """Only the segment of `like` at this second; None means the whole file."""
    exclude: tuple[str, ...] = ()
    label: str | None = None
    folder: str | None = None
    after_s: float | None = None
    before_s: float | None = None
    limit: int | None = 10
    """At most this many hits; None means all."""
    min_score: float | None = None
    """Calibrated score a hit needs; None means the model's own threshold, 0 means every clip is ranked."""


@dataclass(frozen=True)
class Evidence:
    """One part of a hit's reason: where it came from, what it says, how much it weighs in [0, 1]."""

    source: str
    detail: str
    score: float


@dataclass(frozen=True)
class Hit:
    """One event that answers a query: neighbouring segments of a clip, merged."""

    clip_id: int
    segment_id: int
    """The event's best segment; its start is the moment to play."""
    path: str
    start_s: float
    end_s: float
    peak_s: float
    score: float
    """Calibrated probability in [0, 1] that this is what was asked for."""
    labels: tuple[Label, ...] = ()
    why: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A search's outcome: hits best first, or none and the nearest miss."""

    hits: tuple[Hit, ...]
    nearest_miss: Hit | None
    model_version: str
    is_names_only: bool = False
    """The words were looked for among names and people's labels alone: the model in force knows none."""


@dataclass(frozen=True)
class Removal:
    """What was forgotten."""

    clips: int
    kept: int
    """Clips that lost a path and are still at another."""


@dataclass(frozen=True)
class Status:
    """What a library holds."""

    home: str
    model: str
    clips: int
    pending: int
    """Clips whose import was interrupted; adding their files again completes them."""
    segments: int
    sound_s: float
    sound_bytes: int
    corrections: int
    own_labels: int
    is_rolled_back: bool
    unheard: int = 0
    """Clips that the model in force has not heard, since their files were gone when it took over."""
    waiting_release: int = 0
    """Number of a release that other devices try first, or 0; `earmark update` puts it in force at once."""
