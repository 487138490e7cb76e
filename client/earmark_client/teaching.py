"""Labels beyond the model's own: phrases a person adds, sounds a person teaches, and what is least certain.

A label that is new finds its clips at once: the library is searched for it, and the clips that answer get it. From then on new
clips get it as they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.asking import find_example
from earmark_client.hits import correct_labels, label_scores, said_of
from earmark_client.naming import find_segment
from earmark_client.records import Correction, Hit, Label, Segment
from earmark_client.search import Target, score_pool
from earmark_client.store.database import LabelRow
from earmark_client.updating import relabel
from earmark_shared.errors import NotInLibraryError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from earmark_client.describe import Floats, Model
    from earmark_client.records import Clip
    from earmark_client.shelf import Shelf
    from earmark_client.store.database import Database

    Ints = npt.NDArray[np.int64]

MOST_EXAMPLES = 20
SCORED_AT_ONCE = 4096
"""Segments of a clip whose vectors and scores, hundreds of labels each, are in memory together."""


@dataclass(frozen=True)
class KnownLabel:
    """A label that clips can get; `kind` is "base", "user" or "taught"."""

    name: str
    kind: str
    phrase: str


def known_labels(database: Database, model: Model) -> list[KnownLabel]:
    """The model's labels, then the person's own."""
    own = [KnownLabel(row.name, row.kind, row.phrase) for row in database.label_list()]
    return [KnownLabel(name, "base", name) for name in model.labeler.label_list().names] + own


def add_phrase(database: Database, shelf: Shelf, model: Model, name: str, phrase: str) -> int:
    """Add a label by words and give it to the clips that answer to it; returns how many.

    Raises:
        SettingsError: a sound was taught by that name, or it is no name.
    """
    _check_free(database, name, "user")
    target = Target(text=model.labeler.text_query(phrase))
    return _add(database, shelf, model, LabelRow(name, phrase, "user", model.version), target)


def teach(database: Database, shelf: Shelf, model: Model, name: str, files: Sequence[Path]) -> int:
    """Learn a sound from example files and give it to the clips that sound like it; returns how many.

    Raises:
        SettingsError: a phrase has that name, it is no name, or there are too many files.
    """
    _check_free(database, name, "taught")
    if not 1 <= len(files) <= MOST_EXAMPLES:
        raise SettingsError(f"{len(files)} examples were given.", hint=f"Three to five are best, {MOST_EXAMPLES} at most.")
    examples = np.concatenate([find_example(database, model, path, None) for path in files])
    row = LabelRow(name, name, "taught", model.version, vector=examples.ravel())
    return _add(database, shelf, model, row, Target(example=examples))


def remove_label(database: Database, model: Model, name: str) -> None:
    """Forget a label of the person's own, and take it off the clips that got it; what the model itself hears by that name stays."""
    with database.transaction():
        database.remove_label(name)
        _take_off(database, model, name)


def _take_off(database: Database, model: Model, name: str) -> None:
    """Take a label off all clips; where it is also the model's own, it goes back on those that the list in force gives it."""
    database.drop_label(name)
    if name in model.labeler.label_list().names:
        given = {clip_id: dict(labels) for clip_id, labels in relabel(database, model)}
        again = {clip_id: [(name, labels[name])] for clip_id, labels in given.items() if name in labels}
        database.add_labels(again, model_version=model.version)


def describe_clip(shelf: Shelf, clip: Clip) -> list[tuple[Segment, tuple[Label, ...]]]:
    """Stretches of a clip, in order of time; consecutive segments with the same best label are one, if nobody spoke of one alone."""
    catalogue = shelf.catalogue
    positions = np.flatnonzero(catalogue.clip_ids == clip.id)
    ids = catalogue.ids[positions]
    corrections = said_of(shelf.corrections, clip.id, ids)
    alone = {each.segment_id for each in corrections if each.segment_id is not None}
    stretches = []
    for begin, end, scores in _stretches(shelf, ids, alone):
        first, last = positions[begin], positions[end - 1]
        segment = Segment(int(catalogue.ids[first]), clip.id, float(catalogue.start_s[first]), float(catalogue.end_s[last]))
        said = said_of(corrections, clip.id, ids[begin:end])
        stretches.append((segment, correct_labels(shelf.labels.top(scores), said)))
    return stretches


def _stretches(shelf: Shelf, ids: Ints, alone: set[int]) -> Iterator[tuple[int, int, Floats]]:
    """Where among a clip's segments each stretch begins and ends, with its mean scores `(labels,)`; a block in memory at a time."""
    begin, kind, total = 0, ("", 0), np.zeros(len(shelf.labels.names))
    for start in range(0, len(ids), SCORED_AT_ONCE):
        block = ids[start : start + SCORED_AT_ONCE]
        scores = label_scores(shelf, block)
        for at, (segment_id, row) in enumerate(zip(block.tolist(), scores, strict=True), start):
            name = next((label.name for label in shelf.labels.top(row)), "")
            here = (name, segment_id if segment_id in alone else 0)
            if here != kind and at > begin:
                yield begin, at, (total / (at - begin)).astype(np.float32)
                begin, total = at, np.zeros_like(total)
            kind = here
            total += row
    if len(ids):
        yield begin, len(ids), (total / (len(ids) - begin)).astype(np.float32)


def say(database: Database, clip: Clip, name: str, *, is_present: bool, moment: float | Hit | None, now_s: float) -> None:
    """Keep a yes or no to a name: for a whole clip, for the segment at a second of it, or for a hit's best one.

    Raises:
        NotInLibraryError: there is nothing at that second. SettingsError: it is no name.
    """
    _check_name(name)
    # Not a hit's second: overlapping segments hold it, and the one in their middle may be another than was asked about.
    at = moment.segment_id if isinstance(moment, Hit) else None if moment is None else find_segment(database, clip, moment)
    with database.transaction():
        database.add_correction(Correction(clip.id, at, name, is_present), now_s=now_s)


def take_back(database: Database, clip: Clip, name: str, at_s: float | None) -> int:
    """Forget a person's yes or no to a name, of a whole clip and of all its moments or only of those that hold a second; returns how many.

    Raises:
        NotInLibraryError: nobody said anything there by that name.
    """
    said = [each for each in database.corrections((clip.id,)) if each.name == name]
    if at_s is not None:
        table = database.segments_of(clip.id)
        here = set(table.ids[(table.start_s <= at_s) & (at_s < table.end_s)].tolist())
        said = [each for each in said if each.segment_id in here]
    if not said:
        where = "" if at_s is None else f" at {at_s:g} s"
        raise NotInLibraryError(f"Nobody said {name} of clip {clip.id}{where}.", hint="`earmark show` says what is where.")
    with database.transaction():
        for each in said:
            database.remove_correction(each)
    return len(said)


def least_certain(database: Database, shelf: Shelf, limit: int) -> list[Hit]:
    """The clips whose best unconfirmed label's score is nearest to one half, each as a hit with that label first."""
    said = {(correction.clip_id, correction.name) for correction in shelf.corrections}
    unsaid = {
        clip_id: [Label(name, score) for name, score in found if (clip_id, name) not in said]
        for clip_id, found in database.all_labels().items()
    }
    doubt = {clip_id: abs(found[0].score - 0.5) for clip_id, found in unsaid.items() if found}
    order = sorted(doubt, key=lambda clip_id: (doubt[clip_id], clip_id))[:limit]
    return [_doubtful(database, shelf, clip_id, unsaid[clip_id]) for clip_id in order]


def _doubtful(database: Database, shelf: Shelf, clip_id: int, found: list[Label]) -> Hit:
    """A clip's least certain label as a hit, at the segment where it is strongest."""
    catalogue, labels = shelf.catalogue, shelf.labels
    positions = np.flatnonzero(catalogue.clip_ids == clip_id)
    scores = label_scores(shelf, catalogue.ids[positions])
    column = labels.names.index(found[0].name) if found[0].name in labels.names else 0
    peak = positions[int(np.argmax(scores[:, column]))]
    clip = database.clip(clip_id)
    return Hit(
        clip_id=clip_id,
        segment_id=int(catalogue.ids[peak]),
        path=clip.paths[0] if clip.paths else "",
        start_s=float(catalogue.start_s[peak]),
        end_s=float(catalogue.end_s[peak]),
        peak_s=float(catalogue.start_s[peak]),
        score=found[0].score,
        labels=tuple(found),
    )


def _add(database: Database, shelf: Shelf, model: Model, row: LabelRow, target: Target) -> int:
    """Store a label and give it to every clip that answers to its target."""
    calibration = model.labeler.calibration
    scored = score_pool(shelf, target, shelf.catalogue.pool(None), calibration)
    hit = np.flatnonzero(scored.score >= calibration.threshold)
    clips: dict[int, float] = {}
    for clip_id, score in zip(shelf.catalogue.passage_clips[hit], scored.score[hit], strict=True):
        clips[int(clip_id)] = max(float(score), clips.get(int(clip_id), 0.0))
    with database.transaction():
        is_again = row.name in {known.name for known in database.label_list()}
        database.put_label(row)
        if is_again:  # what answered to the old examples or words may not answer to the new
            _take_off(database, model, row.name)
        for clip_id, score in clips.items():
            others = [(name, known) for name, known in database.labels_of(clip_id) if name != row.name]
            database.set_labels(clip_id, [*others, (row.name, score)], model_version=model.version)
    return len(clips)


def _check_free(database: Database, name: str, kind: str) -> None:
    """A label that was made in one way is not silently replaced by one of the other: taught examples can't be had back."""
    _check_name(name)
    known = {row.name: row.kind for row in database.label_list()}.get(name, kind)
    if known != kind:
        what = "a taught sound" if known == "taught" else "a label with a phrase"
        raise SettingsError(
            f"There is {what} of that name: {name}.", hint=f'Choose another name, or first: earmark labels remove "{name}"'
        )


def _check_name(name: str) -> None:
    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise SettingsError("A label is one line of 1 to 100 characters.", hint="Choose another name.")
