"""What a record looks like: the columns of its table and the keys of its JSON object.

Keys are a promise: they are added to, never renamed or dropped. Times inside a clip are seconds; dates are ISO 8601 in UTC.
A table's days are those of the clock on the wall, as in `--after` and `--before`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from earmark_client.cli.output import clock
from earmark_client.cli.params import FIRST_S, LAST_S

if TYPE_CHECKING:
    from earmark_client.records import Clip, Evidence, Hit, Label, Segment

HIT_COLUMNS = ("score", "clip", "start", "end", "labels", "file")
CLIP_COLUMNS = ("clip", "length", "recorded", "file")
EVENT_COLUMNS = ("start", "end", "labels")
LABELS_SHOWN = 3


def hit_row(hit: Hit) -> tuple[str, ...]:
    """Return a hit's cells, in the order of `HIT_COLUMNS`."""
    return (f"{hit.score:.2f}", str(hit.clip_id), clock(hit.start_s), clock(hit.end_s), _names(hit.labels), hit.path)


def hit_record(hit: Hit) -> dict[str, object]:
    """Return a hit's JSON object."""
    return {
        "score": round(hit.score, 4),
        "clip": hit.clip_id,
        "segment": hit.segment_id,
        "path": hit.path,
        "start_s": round(hit.start_s, 3),
        "end_s": round(hit.end_s, 3),
        "peak_s": round(hit.peak_s, 3),
        "labels": [label_record(label) for label in hit.labels],
        "why": [asdict(part) for part in hit.why],
    }


def evidence_line(part: Evidence) -> str:
    """Return one part of a hit's reason as a line below it."""
    return f"  why: {part.source} {part.score:.2f}  {part.detail}"


def clip_row(clip: Clip) -> tuple[str, ...]:
    """Return a clip's cells, in the order of `CLIP_COLUMNS`."""
    path = clip.paths[0] if clip.paths else ""
    return (str(clip.id), clock(clip.duration_s), _day(clip.recorded_at_s), path)


def clip_record(clip: Clip) -> dict[str, object]:
    """Return a clip's JSON object."""
    return {
        "clip": clip.id,
        "content_sha256": clip.content_sha256,
        "paths": list(clip.paths),
        "duration_s": round(clip.duration_s, 3),
        "sample_rate_hz": clip.sample_rate_hz,
        "channels": clip.channels,
        "added_at": _date(clip.added_at_s),
        "recorded_at": _date(clip.recorded_at_s),
    }


def event_row(event: Segment | Hit, labels: Sequence[Label]) -> tuple[str, ...]:
    """Return the cells of one thing that happens in a clip, in the order of `EVENT_COLUMNS`."""
    return (clock(event.start_s), clock(event.end_s), _names(labels, scores=True))


def event_record(event: Segment | Hit, labels: Sequence[Label]) -> dict[str, object]:
    """Return the JSON object of one thing that happens in a clip."""
    span = {"clip": event.clip_id, "start_s": round(event.start_s, 3), "end_s": round(event.end_s, 3)}
    return span | {"labels": [label_record(label) for label in labels]}


def label_record(label: Label) -> dict[str, object]:
    """Return a label's JSON object."""
    return {"name": label.name, "score": round(label.score, 4)}


def plain_record(thing: object) -> dict[str, object]:
    """Return any frozen record as a JSON object; nothing in it is left out."""
    table = asdict(thing) if is_dataclass(thing) and not isinstance(thing, type) else {"name": thing}
    return {key: _plain(value) for key, value in table.items()}


def plain_lines(thing: object) -> list[tuple[str, str]]:
    """Return any frozen record as pairs of name and value for people."""
    return [(key.replace("_", " "), _words(value)) for key, value in plain_record(thing).items()]


def _names(labels: Sequence[Label], *, scores: bool = False) -> str:
    shown = labels[:LABELS_SHOWN]
    return ", ".join(f"{label.name} {label.score:.2f}" if scores else label.name for label in shown)


def _date(unix_s: float) -> str:
    """A file can bear any moment: one that no date names is shown as the nearest that one does."""
    return datetime.fromtimestamp(min(max(unix_s, FIRST_S), LAST_S), tz=UTC).isoformat(timespec="seconds")


def _day(unix_s: float) -> str:
    """The local day; at the calendar's ends, where a zone may lead out of it, UTC's."""
    moment = datetime.fromtimestamp(min(max(unix_s, FIRST_S), LAST_S), tz=UTC)
    try:
        return moment.astimezone().date().isoformat()
    except (ValueError, OverflowError):
        return moment.date().isoformat()


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_words(part) for part in value)
    return "-" if value is None else str(value)
