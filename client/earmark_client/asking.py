"""A person's query becomes a target: words become vectors, an example file becomes sound vectors, filters become clip ids."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from earmark_client import ranking
from earmark_client.audio.opening import content_sha256, display_name
from earmark_client.labelling import is_taught_by, taught_vectors
from earmark_client.search import Target
from earmark_shared.errors import AudioError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from earmark_client.describe import Floats, Model
    from earmark_client.records import Correction, Query
    from earmark_client.shelf import Shelf
    from earmark_client.store.database import Database

MOST_EXAMPLE_SEGMENTS = 64
"""A longer example is thinned out to this many segments, evenly."""
SAME_WORDS = 0.5
"""Jaccard similarity from which a person's label speaks about a query: "dog" about "dog barking"."""
LEAST_NAMED, ALL_NAMED = 100, 1_000_000
"""Clips listed for one word: ten for each hit that is wanted, and not fewer than the first; all, where every clip is ranked or filtered."""
UNSAID = frozenset(
    [
        "a",
        "an",
        "and",
        "at",
        "by",
        "for",
        "from",
        "in",
        "is",
        "it",
        "of",
        "off",
        "on",
        "or",
        "some",
        "the",
        "to",
        "while",
        "with",
        "my",
        "your",
        "sound",  # "the sound of rain" asks for rain, and every other file is called a sound or a recording
        "sounds",
        "recording",
        "recordings",
    ]
)


def content_words(text: str) -> frozenset[str]:
    """The words of a text that say something, in lower case; all of them where none does."""
    words = frozenset(re.findall(r"\w+", text.lower()))
    return words - UNSAID or words


def find_example(database: Database, model: Model, path: Path, at_s: float | None) -> Floats:
    """Sound vectors `(examples, dim)` of a file, or only of the segment at `at_s`; a clip of the library is not read again.

    Raises:
        AudioError: the file can't be used, or has nothing at that second.
    """
    stored = database.clip_by_hash(content_sha256(path))
    if stored is None or not stored.is_ready or not database.is_described(stored.id, model.base_version):
        return read_example(model, path, at_s)
    table = database.segments_of(stored.id)
    ids = table.ids if at_s is None else table.ids[(table.start_s <= at_s) & (at_s < table.end_s)][-1:]
    if not len(ids):
        raise _nothing_there(path, at_s)
    return database.fetch("sound", model.base_version, ids[_thinned(len(ids))]).float32()


def read_example(model: Model, path: Path, at_s: float | None = None) -> Floats:
    """The same from the file itself."""
    from earmark_client.audio.decode import Decoder

    segmenter = model.segmenter()
    found = []
    with Decoder() as decoder, decoder.open(path, roots=(path.parent,)) as stream:
        for block in stream:
            found += segmenter.push(block)
    found += segmenter.flush()
    if at_s is not None:
        found = [cut for cut in found if cut.start_s <= at_s < cut.end_s][-1:]
    if not found:
        raise _nothing_there(path, at_s)
    vectors, _ = model.describe(np.stack([found[index].waveform for index in _thinned(len(found))]))
    return vectors.sound


def _thinned(count: int) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, MOST_EXAMPLE_SEGMENTS).astype(np.intp))


def _nothing_there(path: Path, at_s: float | None) -> AudioError:
    where = "" if at_s is None else f" at {at_s:g} s"
    return AudioError(f"{display_name(path)}: there is nothing to hear{where}", hint="name a second where there is sound")


def word_matches(database: Database, text: str, most: int) -> dict[int, float]:
    """Share of the text's words that stand in a clip's file name or people's labels, by clip id; half of them or more.

    At most `most` clips are listed for each word, and as many that have all of them. The model's own labels are left out: they
    are the sound's evidence already, and would count twice.
    """
    words = sorted(content_words(text))
    found: Counter[int] = Counter()
    each = [database.search_words(word, most) for word in words]
    for listed in each:
        found.update(listed)
    # A list that was cut short may lack clips that have all the words; where a word stands nowhere, no clip has.
    if len(words) > 1 and all(each) and any(len(listed) == most for listed in each):
        every = database.search_words(words[0], most, also=words[1:])
        found.update({clip_id: len(words) - found[clip_id] for clip_id in every})
    return {clip_id: count / len(words) for clip_id, count in found.items() if 2 * count >= len(words)}


def named_clips(database: Database, query: Query) -> dict[int, float] | None:
    """What `word_matches` gives for a query's text; None where it has none.

    Raises:
        SettingsError: the query asks for nothing.
    """
    if not query.text and query.like is None:
        raise SettingsError("The query asks for nothing.", hint="Give words, an example, or both.")
    # What a filter leaves may be anywhere among them.
    most = ALL_NAMED if query.limit is None or _is_filtered(query) else max(LEAST_NAMED, 10 * query.limit)
    return word_matches(database, query.text, most) if query.text else None


def make_target(database: Database, model: Model, shelf: Shelf, query: Query, words: dict[int, float] | None) -> Target:
    """Turn a query, and the clips that its `words` name, into what can be compared with stored vectors.

    A query that is just the name of a taught sound is answered by its examples: the person's own doorbell, not any bell. So is what is
    not wanted.

    Raises:
        AudioError: the example can't be used.
    """
    example = None if query.like is None else find_example(database, model, query.like, query.at_s)
    said, allowed = tuple(verdicts(shelf.corrections, query.text)), _allowed(database, query)
    text = None
    if query.text:
        learned = _learned(model, shelf, query.text)
        if learned is not None:
            example = learned if example is None else np.concatenate((example, learned))
        elif model.labeler.knows_words:  # a model that knows none leaves it at names and people's labels
            text = model.labeler.text_query(query.text)
    unwanted = [(each, _learned(model, shelf, each)) for each in query.exclude]
    return Target(
        text=text,
        example=example,
        minus=tuple(model.labeler.text_query(text) if taught is None else taught for text, taught in unwanted),
        words=words,
        allowed=allowed,
        said=said,
    )


def _learned(model: Model, shelf: Shelf, text: str) -> Floats | None:
    """The sound vectors `(examples, dim)` of the taught sound that is called `text`, or None."""
    taught = {row.name.lower(): row for row in shelf.own_labels if is_taught_by(model, row)}
    row = taught.get(text.strip().lower())
    return None if row is None else taught_vectors(row, model.labeler.sound_dim)


def _allowed(database: Database, query: Query) -> npt.NDArray[np.int64] | None:
    if not _is_filtered(query):
        return None
    return database.clip_ids(folder=query.folder, after_s=query.after_s, before_s=query.before_s, label=query.label)


def _is_filtered(query: Query) -> bool:
    return any(each is not None for each in (query.folder, query.after_s, query.before_s, query.label))


def verdicts(corrections: list[Correction], text: str | None) -> list[tuple[Correction, float]]:
    """The corrections that speak about a text, each with the probability it stands for: 0 for a no, up to 1 for a yes.

    A yes counts as far as its words are the query's; a no only when it is about exactly these words.
    """
    words = content_words(text) if text else frozenset()
    found = []
    for correction in corrections:
        alike = ranking.jaccard(set(words), set(content_words(correction.name))) if words else 0.0
        if correction.is_present and alike >= SAME_WORDS:
            found.append((correction, alike))
        elif not correction.is_present and alike == 1.0:
            found.append((correction, 0.0))
    return found
