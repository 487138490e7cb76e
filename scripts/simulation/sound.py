"""Real sound for simulations: what the shipped model makes of each clip, computed once and kept in a file.

Clips of one recording or one package never stand on both sides of the split; spoken digits are tested on other takes of the same
speakers (the data set's own split) and, apart from that, on a speaker whom no device has heard.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import crc32

import numpy as np
import numpy.typing as npt
from recordings import corpus, digits, esc10

from earmark_client.audio.decode import Decoder
from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_shared.errors import AudioError, SettingsError

Floats = npt.NDArray[np.float32]
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAINING, TEST, STRANGER, UNUSED = "training", "test", "stranger", "unused"
LEFT_OUT_SPEAKER = "theo"
TEST_TAKES, DEVELOPMENT_TAKES = range(5), range(5, 10)
"""Of every other speaker: the data set's own test split, and what is held out of the rest while choosing."""
FOLDS, TEST_FOLD, DEVELOPMENT_FOLD = ("2", "3", "5"), "5", "3"
"""Of ESC-10; its fold 1 belongs to the development benchmark of retrieval and is never read here."""
TEST_THIRD, DEVELOPMENT_THIRD = 0, 1
"""Which third of the packages, by the CRC of the name, is held out."""
STORED = {"version", "listed", "encoder", "text", "starts", "kept"}
"""What a cache holds."""
FOREIGN = "give another file as --cache, or delete it"
SEGMENTS_MOST = 8
"""Segments kept of a clip, evenly spaced."""


@dataclass(frozen=True)
class Clip:
    """One recorded clip as the folder lists it."""

    path: Path
    label: str
    """What a person would call it; "" where no label is used."""
    owner: str
    """Whose it is: an uploader, a speaker, a package."""
    part: str
    """TRAINING, TEST (held out), STRANGER (a speaker that no device has heard) or UNUSED."""
    is_development: bool = False
    """Held out of training while a recipe is chosen; trains when it is reported."""
    is_spoken: bool = False
    """A digit of the spoken digits: owned by its speaker."""


@dataclass(frozen=True)
class Sounds:
    """n clips and their segments; row ranges of clip i are `starts[i]:starts[i + 1]`."""

    encoder: Floats
    """`(segments, inputs)` encoder outputs."""
    text: Floats
    """`(segments, outputs)` the base model's text vectors."""
    starts: npt.NDArray[np.int64]
    label: npt.NDArray[np.str_]
    owner: npt.NDArray[np.str_]
    part: npt.NDArray[np.str_]
    is_spoken: npt.NDArray[np.bool_]

    def rows(self, clips: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the segments of `clips`, and for each the place of its clip in `clips`."""
        ranges = [np.arange(self.starts[clip], self.starts[clip + 1]) for clip in clips]
        places = np.repeat(np.arange(len(clips)), [len(each) for each in ranges])
        return np.concatenate(ranges), places.astype(np.int64)


def listed(folder: Path) -> Iterator[Clip]:
    """Yield the clips of a folder with `esc10/`, `fsdd/` and, where it is there, `corpus/`."""
    for row in esc10(folder, "uploader"):
        if row["fold"] in FOLDS:
            part, held_out = TEST if row["fold"] == TEST_FOLD else TRAINING, row["fold"] == DEVELOPMENT_FOLD
            yield Clip(folder / "esc10" / row["file"], row["label"], row["uploader"], part, held_out)
    for each in digits(folder):
        part = STRANGER if each.speaker == LEFT_OUT_SPEAKER else TEST if each.take in TEST_TAKES else TRAINING
        held_out = each.take in DEVELOPMENT_TAKES
        yield Clip(each.path, DIGITS[int(each.digit)], each.speaker, part, held_out, is_spoken=True)
    if (folder / "corpus" / "corpus.csv").exists():
        yield from _corpus(folder)


def _corpus(folder: Path) -> Iterator[Clip]:
    """Yield the well-labelled clips, speech never being one; labels of one package alone can't be tested."""
    rows = [row for row in corpus(folder, "label", "label_quality") if row["label_quality"] == "good"]
    packages = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        packages[row["label"]].add(row["package"])
        counts[row["label"]] += 1
    for row in rows:
        label = row["label"]
        is_used = len(packages[label]) > 1 and counts[label] >= 5
        # A third of the packages are left out, chosen by their names: the same ones whatever else is in the folder.
        third = crc32(row["package"].encode()) % 3
        part = TEST if is_used and third == TEST_THIRD else TRAINING
        held_out = is_used and third == DEVELOPMENT_THIRD
        yield Clip(folder / "corpus" / row["file"], label if is_used else "", row["package"], part, held_out)


def load_sounds(folder: Path, cache: Path, *, is_development: bool = False) -> Sounds:
    """Return what the shipped model makes of the folder's clips, from `cache` if it holds just that.

    While a recipe is chosen (`is_development`), other clips are held out, and those that will be reported are not looked at.
    """
    version, clips = Bundle.load(BASE_MODEL).version, list(listed(folder))
    names = np.array([clip.path.relative_to(folder).as_posix() for clip in clips])
    stored = _read(cache)
    if not stored or str(stored["version"]) != version or not np.array_equal(stored["listed"], names):
        stored = {"version": np.array(version), "listed": names} | _describe(clips)
        cache.parent.mkdir(parents=True, exist_ok=True)
        whole = cache.with_suffix(".part.npz")
        np.savez(whole, **stored)
        whole.replace(cache)
    kept = [clips[place] for place in stored["kept"]]
    return Sounds(
        stored["encoder"],
        stored["text"],
        stored["starts"],
        np.array([clip.label for clip in kept]),
        np.array([clip.owner for clip in kept]),
        np.array([_part(clip, is_development=is_development) for clip in kept]),
        np.array([clip.is_spoken for clip in kept]),
    )


def _part(clip: Clip, *, is_development: bool) -> str:
    if not is_development:
        return clip.part
    if clip.part != TRAINING:
        return UNUSED
    return TEST if clip.is_development else TRAINING


def _read(cache: Path) -> dict[str, npt.NDArray[Any]]:
    """Return what the file holds, nothing if there is none; another program's file is not written over."""
    if not cache.exists():
        return {}
    try:
        with np.load(cache, allow_pickle=False) as opened:
            stored = dict(opened)
    except (ValueError, AttributeError, TypeError, EOFError, BadZipFile) as refusal:
        raise SettingsError(f"{cache} can't be read as a cache", hint=FOREIGN) from refusal
    if not stored.keys() >= STORED:
        raise SettingsError(f"{cache} is not what an earlier simulation kept", hint=FOREIGN)
    return stored


def _describe(clips: Sequence[Clip]) -> dict[str, npt.NDArray[Any]]:
    model = Model(Bundle.load(BASE_MODEL))
    encoder, text, kept = [], [], []
    with Decoder() as decoder:
        for place, clip in enumerate(clips):
            if place % 500 == 0:
                print(f"describing clip {place} of {len(clips)}", file=sys.stderr, flush=True)
            waveforms = _segments(model, decoder, clip.path)
            if waveforms is not None:
                vectors, output = model.describe(waveforms)
                encoder.append(output)
                text.append(vectors.text)
                kept.append(place)
    if not kept:
        raise SettingsError("none of the folder's clips has sound that can be read", hint="name another as --data")
    starts = np.concatenate(([0], np.cumsum([len(each) for each in encoder]))).astype(np.int64)
    return {"encoder": np.concatenate(encoder), "text": np.concatenate(text), "starts": starts, "kept": np.array(kept)}


def _segments(model: Model, decoder: Decoder, path: Path) -> Floats | None:
    """Return a clip's segments `(n, segment_samples)`, or None if it is silent or can't be read."""
    segmenter = model.segmenter()
    try:
        with decoder.open(path, roots=(path.parent,)) as stream:
            cuts = [cut for block in stream for cut in segmenter.push(block)] + segmenter.flush()
    except AudioError as error:
        print(error, file=sys.stderr)
        return None
    if not cuts:
        return None
    places = np.unique(np.linspace(0, len(cuts) - 1, min(len(cuts), SEGMENTS_MOST)).astype(np.int64))
    return np.stack([cuts[place].waveform for place in places])
