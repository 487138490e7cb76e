"""Sounds for the simulator: encoded once, split among devices as people's sounds are: by uploader, by speaker, or unevenly at random."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.describe import Model
from earmark_client.federation.training_data import HeldHead
from earmark_client.learn.finetune import TrainingSet
from earmark_shared.base_head import FIRST_VERSION, base_arrays, base_schema
from earmark_shared.head import HeadSchema, first_head, unit_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from earmark_shared.head import Floats

ROOT = Path(__file__).resolve().parents[1]
SECONDS, LEAST_RMS = 5.0, 1e-3
SUFFIXES = {".wav", ".ogg", ".opus", ".flac", ".mp3"}
LABELS = {
    "dog bark": "bark", "sea waves": "ocean", "baby cry": "baby cry", "crying baby": "baby cry", "clock tick": "tick-tock",
    "person sneeze": "sneeze", "helicopter": "helicopter", "chainsaw": "chainsaw", "rooster": "chicken", "crackling fire": "crackle",
    "fire crackling": "crackle", "rain": "rain",
}  # fmt: skip
"""What some data sets call a sound -> the shared label for it; other names must be shared labels as they are."""
DIRICHLET = 0.5
HELD_OUT = 5
"""One recording in so many is held out."""


@dataclass(frozen=True)
class Sounds:
    """Recordings as the model hears them; `clips` maps each segment to a recording."""

    encoder: Floats
    text: Floats
    clips: NDArray[np.int64]
    labels: NDArray[np.int64]
    """Each recording's index in the schema's label set."""
    owners: NDArray[np.int64]
    """Who each came from: uploader, speaker; 0 where nobody says."""
    sources: NDArray[np.int64]
    """Recordings that were cut from one source stay on one side of a split."""

    @property
    def count(self) -> int:
        """How many recordings there are."""
        return len(self.labels)

    def take(self, which: NDArray[np.int64]) -> Sounds:
        """Return some recordings, in that order; one may come twice."""
        order = np.argsort(self.clips, kind="stable")
        counts = np.bincount(self.clips, minlength=self.count)
        starts = np.cumsum(counts) - counts
        rows = [order[starts[clip] : starts[clip] + counts[clip]] for clip in which]
        places = np.repeat(np.arange(len(which)), [len(part) for part in rows])
        flat = np.concatenate(rows)
        return Sounds(self.encoder[flat], self.text[flat], places, self.labels[which], self.owners[which], self.sources[which])


def base_held_head() -> tuple[HeldHead, Model]:
    """Return the head that rounds begin with, and the shipped model."""
    from earmark_client.model.bundle import Bundle

    model, schema = Model(Bundle.load(ROOT / "client/earmark_client/model/base")), base_schema()
    listed = model.labeler.label_list()
    places = {name: place for place, name in enumerate(listed.names)}
    vectors = unit_rows(listed.vectors[[places[label] for label in schema.labels]])
    return HeldHead(FIRST_VERSION, schema, base_arrays(), vectors), model


def encode_folder(folder: Path, head: HeldHead, model: Model) -> Sounds:
    """Encode every sound below `folder` whose label is shared; labels from its CSV, or from the folders' names."""
    rows = _listing(folder)
    owners = {name: place for place, name in enumerate(sorted({owner for _, _, owner, _ in rows}))}
    sources = {name: place for place, name in enumerate(sorted({source for _, _, _, source in rows}))}
    encoder, text, clips, kept = [], [], [], []
    for path, label, owner, source in rows:
        name = LABELS.get(label, label)
        outputs = _encode(path, model) if name in head.schema.labels else None
        if outputs is None:
            continue
        encoder.append(outputs[0])
        text.append(outputs[1])
        clips.append(np.full(len(outputs[0]), len(kept)))
        kept.append((head.schema.labels.index(name), owners[owner], sources[source]))
    if not kept:
        raise SystemExit(f"no sound in {folder} has a label that is shared")
    labels, owner_ids, source_ids = (np.array(column, dtype=np.int64) for column in zip(*kept, strict=True))
    return Sounds(np.concatenate(encoder), np.concatenate(text), np.concatenate(clips), labels, owner_ids, source_ids)


def _listing(folder: Path) -> list[tuple[Path, str, str, str]]:
    """Return (file, label, owner, source) of every sound."""
    tables = sorted(folder.glob("*.csv"))
    if tables:
        with tables[0].open(newline="", encoding="utf-8") as source:
            return [
                (
                    folder / row["file"],
                    row["label"],
                    row.get("uploader") or row.get("speaker") or "",
                    row.get("freesound_id") or row["file"],
                )
                for row in csv.DictReader(source)
            ]
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    return [(path, path.parent.name.replace("_", " "), "", path.name) for path in found]


def _encode(path: Path, model: Model) -> tuple[Floats, Floats] | None:
    import soundfile
    import soxr

    waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(waveform.mean(axis=1), rate, 16_000).astype("f4")[: int(SECONDS * 16_000)]
    samples = int(model.bundle.section("segment")["samples"])
    starts = range(0, max(1, len(mono) - samples + 1), samples)
    cut = np.stack([np.pad(mono[at : at + samples], (0, max(0, samples - len(mono[at : at + samples])))) for at in starts])
    cut = cut[np.sqrt(np.square(cut).mean(axis=1)) > LEAST_RMS]
    if not len(cut):
        return None
    vectors, output = model.describe(cut)
    return output, vectors.text


def synthetic(labels: int = 12, recordings: int = 1200, segments: int = 3) -> tuple[HeldHead, Sounds]:
    """Return made-up encoder outputs whose classes the first head confuses; nothing of it is sound."""
    rng = np.random.default_rng(5)
    schema = HeadSchema(1024, 384, 64, ("up",), tuple(f"label {number}" for number in range(labels)))
    vectors = unit_rows(rng.normal(size=(labels, 384)).astype("f4"))
    centres, wanted = rng.normal(size=(labels, 1024)), rng.integers(0, labels, recordings)
    clips = np.repeat(np.arange(recordings), segments)
    encoder = (centres[wanted][clips] + rng.normal(size=(len(clips), 1024)) * 2).astype("f4")
    text = unit_rows((vectors[wanted][clips] * 0.6 + rng.normal(size=(len(clips), 384)) * 0.2).astype("f4"))
    sounds = Sounds(encoder, text, clips, wanted.astype(np.int64), np.zeros(recordings, np.int64), np.arange(recordings))
    return HeldHead(FIRST_VERSION, schema, first_head(schema, b"simulate"), vectors), sounds


def hold_out(sounds: Sounds, *, seed: int) -> tuple[Sounds, Sounds]:
    """Return the recordings to train on and those held out; what was cut from one source stays together."""
    rng = np.random.default_rng(seed)
    out = rng.permutation(int(sounds.sources.max()) + 1) % HELD_OUT == 0
    is_out = out[sounds.sources]
    return sounds.take(np.flatnonzero(~is_out)), sounds.take(np.flatnonzero(is_out))


def split_sounds(sounds: Sounds, head: HeldHead, *, devices: int, clips: int, how: str, seed: int) -> list[TrainingSet]:
    """Deal recordings to devices: each its owners', or with labels drawn from a Dirichlet; drawn again where there are too few."""
    rng = np.random.default_rng(seed)
    owners = [np.flatnonzero(sounds.owners == owner) for owner in np.unique(sounds.owners)] if how != "dirichlet" else []
    parts = []
    for device in range(devices):
        if owners:
            own = owners[device % len(owners)]
            drawn = rng.permutation(own)[:clips]
            more = rng.choice(sounds.count, max(0, clips - len(drawn)), replace=sounds.count < clips)
            drawn = np.concatenate((drawn, more))
        else:
            weights = rng.dirichlet(np.full(int(sounds.labels.max()) + 1, DIRICHLET))[sounds.labels] + 1e-9
            drawn = rng.choice(sounds.count, clips, replace=sounds.count < clips, p=weights / weights.sum())
        parts.append(as_training_set(sounds.take(drawn), head))
    return parts


def as_training_set(sounds: Sounds, head: HeldHead) -> TrainingSet:
    """Return recordings as the answers of a person who said of each what it is."""
    targets = np.zeros((sounds.count, len(head.schema.labels)), dtype=np.int8)
    targets[np.arange(sounds.count), sounds.labels] = 1
    return TrainingSet(sounds.encoder, unit_rows(sounds.text), sounds.clips, targets, head.label_vectors)


def join_sets(parts: Sequence[TrainingSet]) -> TrainingSet:
    """Return everybody's clips as one set."""
    offsets = np.cumsum([0, *(len(part.targets) for part in parts[:-1])])
    return TrainingSet(
        np.concatenate([part.encoder_outputs for part in parts]),
        np.concatenate([part.text for part in parts]),
        np.concatenate([part.clips + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.targets for part in parts]),
        parts[0].label_vectors,
    )
