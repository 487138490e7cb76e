"""A library of any size without any sound: seeded vectors in clusters, real words in its rows.

A segment's text vector lies where real ones do: near the directions of a few of the model's labels, which is where queries by
words look. Each cluster is a mixture of up to three labels and some noise; a clip of 20 segments is in two clusters. A segment's
strength makes its evidence for the main label a random probability. Everything follows from the seed, so the exact float32
vectors can be made again to compare with.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from common import say

from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL, Library
from earmark_client.model.bundle import Bundle
from earmark_client.store import connection
from earmark_client.store.database import ClipRow, Database
from earmark_client.store.home import create_home, open_home
from earmark_client.store.keys import KeyFile, create_key_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

CLUSTERS = 20_000
CLIP_SEGMENTS = 20
CALL_CLIPS = 25
"""500 segments a call, as `add` stores them."""
COMMIT_CALLS = 20
HOP_S, SEGMENT_S = 0.48, 0.975
SPREAD = 0.35
"""Length of the noise around a cluster's centre, which has length 1; a segment's cosine with its centre is about .94."""
FOLDERS = ("garden", "kitchen", "street", "woods", "studio", "holiday", "office", "cellar")
NAMES = (
    "{label} {number:05d}",
    "REC_{number:05d}_{label}",
    "{label} {folder} take {number}",
    "recording {number:05d} {label} {folder}",
)


@dataclass(frozen=True)
class Rows:
    """Vectors of some consecutive clips' segments, exact: unit `text`, unit `sound`, `strength`; and each clip's main label."""

    text: Floats
    sound: Floats
    strength: Floats
    clip_labels: Ints

    @property
    def weighted(self) -> Floats:
        """What a query is compared with: text vectors times strength."""
        return self.text * self.strength[:, None]


class Synthetic:
    """A seeded library of `segments` segments for a model."""

    def __init__(self, model: Model, segments: int, *, seed: int = 0) -> None:
        labels = model.labeler.label_list()
        self.labels = labels.names
        self.clips = -(-segments // CLIP_SEGMENTS)
        self._seed = seed
        self._queries = np.asarray(labels.vectors, np.float32)
        random = np.random.default_rng(seed)
        chosen = random.integers(len(self.labels), size=(CLUSTERS, 3))
        shares = random.dirichlet((4.0, 1.0, 0.5), CLUSTERS).astype(np.float32)
        mixture = np.einsum("ck,ckd->cd", shares, unit(self._queries)[chosen])
        self._centres = unit(unit(mixture) + 0.3 * noise(random, CLUSTERS, mixture.shape[1]))
        self._main = chosen[:, 0]
        self._sound = unit(noise(random, CLUSTERS, model.labeler.sound_dim))

    def calls(self) -> Iterator[tuple[range, Rows]]:
        """All clips in order, some at a time, with their rows."""
        for start in range(0, self.clips, CALL_CLIPS):
            clips = range(start, min(start + CALL_CLIPS, self.clips))
            yield clips, self.rows(clips)

    def rows(self, clips: range) -> Rows:
        """The rows of one call's clips."""
        random = np.random.default_rng((self._seed, clips.start))
        clusters = np.repeat(random.integers(CLUSTERS, size=(len(clips), 2)), CLIP_SEGMENTS // 2, axis=1).ravel()
        text = unit(self._centres[clusters] + SPREAD * noise(random, len(clusters), self._centres.shape[1]))
        sound = unit(self._sound[clusters] + SPREAD * noise(random, len(clusters), self._sound.shape[1]))
        main = self._main[clusters]
        heard = random.beta(1.0, 3.0, len(clusters)).astype(np.float32)
        reach = np.einsum("nd,nd->n", text, self._queries[main])
        strength = heard / np.maximum(reach, 0.1)
        return Rows(text, sound, strength.astype(np.float32), main[::CLIP_SEGMENTS])

    def name(self, clip: int, label: int) -> tuple[str, str]:
        """A clip's folder and file name without suffix."""
        random = np.random.default_rng((self._seed, 1, clip))
        folder = FOLDERS[int(random.integers(len(FOLDERS)))]
        pattern = NAMES[int(random.integers(len(NAMES)))]
        words = self.labels[label].lower().replace("(", "").replace(")", "").replace("/", " ")
        return folder, pattern.format(label=words.replace(" ", "-"), number=clip, folder=folder)


def unit(rows: Floats) -> Floats:
    """Rows `(n, dim)` at length 1."""
    scaled: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def noise(random: np.random.Generator, count: int, dim: int) -> Floats:
    """Vectors `(count, dim)` in all directions, of length about 1."""
    return random.standard_normal((count, dim), np.float32) / np.float32(np.sqrt(dim))


def build_home(home: Path, key: Path, segments: int) -> None:
    """Make a home, opened by a new key file, with a synthetic library in it, unless the very same is there already."""
    model = Model(Bundle.load(BASE_MODEL))
    note, built = home.with_suffix(".built"), f"{segments} segments for {model.version}"
    if note.exists() and note.read_text() == built:
        say(f"using {home} as it is")
        return
    shutil.rmtree(home, ignore_errors=True)
    key.unlink(missing_ok=True)
    started_s = time.monotonic()
    synthetic = Synthetic(model, segments)
    # The builder's own memory needs no wiping, and writing takes a fifth of the time; the home's file is the same.
    connection.BEFORE_FIRST_READ = tuple(pragma for pragma in connection.BEFORE_FIRST_READ if "memory" not in pragma)
    create_key_file(key)
    create_home(home, KeyFile(key))
    with open_home(home, KeyFile(key), write=True) as opened:
        calls = synthetic.calls()
        while _fill(opened.database, synthetic, calls, model.version):
            pass
    note.write_text(built)
    say(f"built {segments} segments in {time.monotonic() - started_s:.0f} s, {(home / 'library.db').stat().st_size / 1e6:.0f} MB")


def _fill(database: Database, synthetic: Synthetic, calls: Iterator[tuple[range, Rows]], version: str) -> bool:
    """One transaction."""
    with database.transaction():
        for _, (clips, rows) in zip(range(COMMIT_CALLS), calls, strict=False):
            _store(database, synthetic, clips, rows, version)
            last = clips.stop
        if last == synthetic.clips:
            database.merge_words()  # as `add` does at its end
        return last < synthetic.clips


def _store(database: Database, synthetic: Synthetic, clips: range, rows: Rows, version: str) -> None:
    length_s = (CLIP_SEGMENTS - 1) * HOP_S + SEGMENT_S
    stored = []
    for clip, label in zip(clips, rows.clip_labels, strict=True):
        folder, stem = synthetic.name(clip, int(label))
        sha = hashlib.sha256(f"{clip}".encode()).hexdigest()
        row = ClipRow(sha, length_s, 48_000, 1, 1_000_000, 1.7e9 + clip, 1.6e9 + 1000.0 * clip, version)
        clip_id = database.insert_clip(row, f"/home/someone/Recordings/{folder}/{stem}.wav")
        database.finish_clip(clip_id, duration_s=length_s, names=stem)
        database.set_labels(clip_id, [(synthetic.labels[label], 0.8)], model_version=version)
        stored.append(clip_id)
    starts = np.tile(np.arange(CLIP_SEGMENTS) * HOP_S, len(clips))
    database.add_segments(
        np.repeat(stored, CLIP_SEGMENTS),
        starts,
        starts + SEGMENT_S,
        model_version=version,
        vectors={
            "text": rows.text.astype(np.float16),
            "sound": rows.sound.astype(np.float16),
            "strength": rows.strength[:, None],
        },
    )


def query_texts(labels: tuple[str, ...], count: int, *, seed: int = 1) -> list[str]:
    """Different texts that people might ask, about what a library holds."""
    patterns = (
        "{}",
        "a {} somewhere",
        "the sound of {}",
        "{} in the distance",
        "loud {}",
        "recording of {} at night",
        "two people and {}",
    )
    texts = [pattern.format(label.lower()) for pattern in patterns for label in labels]
    chosen = np.random.default_rng(seed).permutation(len(texts))[:count]
    return [texts[index] for index in chosen]


def open_library(home: Path, key: Path) -> Library:
    """The library that `build_home` made."""
    return Library.open(home, unlock=KeyFile(key))
