"""Fit the head's projections and its calibration on public recordings: a few axes and two small logistic regressions."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from earmark_client import ranking
from earmark_client.audio.features import FeatureExtractor, MelSpec
from earmark_client.audio.segment import Segmenter
from earmark_client.model.bundle import Bundle
from earmark_client.model.encoder import AudioEncoder
from earmark_client.model.head import Head, Vectors, mean_direction
from earmark_client.model.labeler import query_phrases
from earmark_client.model.text import TextEncoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Arrays = dict[str, npt.NDArray[np.generic]]

TEST_FOLD = "1"
TEXT_DIM, OUTPUT_AXES, CLASS_AXES, MULTI_AXES = 384, 112, 48, 96
OUTPUT_ROOTS = 2
"""Square roots taken of the encoder's output: its fourth root."""
RIDGE = 1.0
"""Added to the spread within labels, as a share of its mean: chosen on ESC-10, with axes from the corpus alone (.1 to 3 do about as well)."""
SPREAD_FLOOR = 0.03
"""Added to each class's spread, so that classes the recordings hardly hold keep their place."""
MULTI_RANGE = "mfcc_mean", "sounding_eighths"
CLASS_SHARE = 0.2
"""Share of the class probabilities in what is not multi-scale: .1 to .4 do about as well."""
MULTI_SHARE = 0.1
"""Share of the multi-scale features in a sound vector: more helps spoken words, and from here on hurts other sounds."""
MULTI_WHITENING = 0.25
"""Power of its variance that each multi-scale axis is divided by."""
DISTRACTORS = ("instrument", "weapon_impact", "interface", "creature", "human")
WORD_WEIGHT, THRESHOLD = 0.9, 0.5
TRIALS_SEED = 20261122


@dataclass(frozen=True)
class Sounds:
    """Public clips: `(segments, dim)` arrays and per clip a label, a group and a set name."""

    output: Floats
    multi: Floats
    offsets: npt.NDArray[np.int64]
    label: npt.NDArray[np.str_]
    group: npt.NDArray[np.str_]
    part: npt.NDArray[np.str_]

    def pick(self, clips: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows and offsets of some clips."""
        rows = np.concatenate([np.arange(self.offsets[clip], self.offsets[clip + 1]) for clip in clips])
        return rows, np.concatenate(([0], np.cumsum(np.diff(self.offsets)[clips])))


def listed(data_dir: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Path, label, group and set of each clip to fit on; ESC-10's test fold is left out here and nowhere else."""
    with (data_dir / "esc10" / "esc10.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["fold"] != TEST_FOLD:
                yield data_dir / "esc10" / row["file"], row["label"], row["freesound_id"], f"fold {row['fold']}"
    with (data_dir / "corpus" / "corpus.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["label_quality"] == "good" and not row["category"].startswith("speech"):
                yield data_dir / "corpus" / row["file"], row["label"], row["package"], row["category"]


def read_segments(path: Path) -> Floats:
    """One file's segments `(n, segment_samples)`; trusted files, so no sandbox."""
    import soundfile
    import soxr

    waveform, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(waveform.mean(axis=1), rate_hz, 16_000)
    segmenter = Segmenter()
    cuts = segmenter.push(mono) + segmenter.flush()
    return np.stack([cut.waveform for cut in cuts]) if cuts else np.empty((0, 15_600), np.float32)


def read_sounds(base_dir: Path, rows: Iterable[tuple[Path, str, str, str]]) -> Sounds:
    """Decode and encode the listed clips."""
    bundle = Bundle.load(base_dir)
    extract, encoder = FeatureExtractor(MelSpec(**bundle.section("frontend"))), AudioEncoder(bundle, threads=2)
    outputs, multis, lengths, texts = [], [], [], []
    for path, *text in rows:
        segments = read_segments(path)
        if not len(segments):
            continue
        features = extract(segments)
        outputs.append(encoder.encode(features.log_mel))
        multis.append(features.multi_scale)
        lengths.append(len(segments))
        texts.append(text)
    label, group, part = (np.array(column) for column in zip(*texts, strict=True))
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return Sounds(np.concatenate(outputs), np.concatenate(multis), offsets, label, group, part)


def principal(values: Floats, axes: int, whitening: float) -> dict[str, npt.NDArray[np.generic]]:
    """Mean, spread and the first principal axes of standardized `values (n, dim)`; signs fixed, so that bytes repeat."""
    exact = values.astype(np.float64)
    mean, spread = exact.mean(axis=0), exact.std(axis=0)
    spread += 0.01 * spread.mean()
    standard = (exact - mean) / spread
    variance, directions = np.linalg.eigh(standard.T @ standard / len(exact))
    chosen = directions[:, ::-1][:, :axes] / np.maximum(variance[::-1][:axes], 1e-6) ** whitening
    chosen *= np.where(chosen[np.abs(chosen).argmax(axis=0), np.arange(axes)] < 0, -1, 1)
    return {"mean": mean.astype(np.float32), "spread": spread.astype(np.float32), "axes": chosen.astype(np.float16)}


def telling(values: Floats, sounds: Sounds, clips: npt.NDArray[np.int64], count: int) -> dict[str, npt.NDArray[np.generic]]:
    """Mean, spread and `count` axes of `values (n, dim)` along which sounds vary, but recordings of one label among `clips` vary little.

    Within-class covariance normalization (Hatch, Kajarekar, Stolcke 2006), then the principal axes of all segments.
    """
    exact = values.astype(np.float64)
    mean, spread = exact.mean(axis=0), exact.std(axis=0)
    spread += 0.01 * spread.mean()
    standard = (exact - mean) / spread
    centres = (np.add.reduceat(standard, sounds.offsets[:-1]) / np.diff(sounds.offsets)[:, None])[clips]
    _, which, counts = np.unique(sounds.label[clips], return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), centres.shape[1]))
    np.add.at(sums, which, centres)
    apart = centres - (sums / counts[:, None])[which]
    within = apart.T @ apart / (counts - 1).sum()
    within += RIDGE * within.trace() / len(within) * np.eye(len(within))
    turn = np.linalg.cholesky(np.linalg.inv(within))
    _, directions = np.linalg.eigh(turn.T @ (standard.T @ standard / len(exact)) @ turn)
    axes = turn @ directions[:, ::-1][:, :count]
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(count)] < 0, -1, 1) / np.abs(axes).max()
    return {"mean": mean.astype(np.float32), "spread": spread.astype(np.float32), "axes": axes.astype(np.float16)}


def heard(sounds: Sounds, probabilities: Floats, clips: npt.NDArray[np.int64]) -> Arrays:
    """The parts of a sound vector that labels have a say in, those of `clips`: from the encoder's output and the classes' `(n, classes)`."""
    output = np.maximum(sounds.output, 0) ** 0.5**OUTPUT_ROOTS
    parts = {"output": (output, OUTPUT_AXES), "classes": (np.sqrt(probabilities), CLASS_AXES)}
    return {
        f"{part}_{key}": value
        for part, (values, count) in parts.items()
        for key, value in telling(values, sounds, clips, count).items()
    }


def fold_arrays(probabilities: Floats, names: Floats) -> Arrays:
    """The matrix that folds class probabilities into the sentence model's dimension.

    Its rows span the directions in which standardized probabilities vary most, so inner products survive; the rotation among
    them is free, and is chosen to bring each class's direction as near to its name's `(classes, dim)` as it goes.
    """
    exact = probabilities.astype(np.float64)
    spread = exact.std(axis=0) + SPREAD_FLOOR
    _, directions = np.linalg.eigh((exact / spread).T @ (exact / spread))
    kept = directions[:, -TEXT_DIM:].T
    left, _, right = np.linalg.svd(names.T.astype(np.float64) @ kept.T)
    return {"fold": (left @ right @ kept).astype(np.float16), "class_spread": spread.astype(np.float32)}


def fit_logistic(inputs: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], ridge: float = 1e-2) -> list[float]:
    """Weights and offset of a logistic regression, by Newton's method; yes and no count equally, however many there are."""
    rows = np.c_[inputs, np.ones(len(inputs))]
    counts = np.where(wanted > 0, 0.5 / np.mean(wanted > 0), 0.5 / np.mean(wanted == 0))
    weights = np.zeros(rows.shape[1])
    penalty = ridge * np.diag([1.0] * (rows.shape[1] - 1) + [0.0])
    for _ in range(100):
        expected = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (counts * (expected - wanted)) / len(rows) + penalty @ weights
        curvature = (rows * (counts * expected * (1 - expected))[:, None]).T @ rows / len(rows) + penalty
        weights -= np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), slope)
    return [round(float(weight), 4) for weight in weights]


def libraries(sounds: Sounds) -> Iterator[npt.NDArray[np.int64]]:
    """Clips of make-believe libraries: each fold alone, and among 150 other sounds."""
    generator = np.random.default_rng(TRIALS_SEED)
    others = np.flatnonzero(np.isin(sounds.part, DISTRACTORS))
    for fold in sorted({part for part in sounds.part if part.startswith("fold")}):
        clips = np.flatnonzero(sounds.part == fold)
        yield clips
        yield np.concatenate((clips, np.sort(generator.choice(others, 150, replace=False))))


def text_trials(
    sounds: Sounds, vectors: Vectors, queries: list[tuple[str, Floats, float]]
) -> Iterator[tuple[float, float, bool]]:
    """(raw, similarity, is right) of the best right and the best wrong clip, for each library and query."""
    for clips in libraries(sounds):
        rows, offsets = sounds.pick(clips)
        for label, vector, similarity in queries:
            raw = ranking.clip_scores(ranking.segment_scores(vectors.text[rows], vectors.strength[rows], vector), offsets)
            right = sounds.label[clips] == label
            yield float(raw[~right].max()), similarity, False
            if right.any():
                yield float(raw[right].max()), similarity, True


def example_trials(sounds: Sounds, vectors: Vectors) -> Iterator[tuple[float, bool]]:
    """(raw, is right) of the best clip with the example's label and of the best without; never the example's own group."""
    for clips in libraries(sounds):
        rows, offsets = sounds.pick(clips)
        sound = vectors.sound[rows]
        for place in np.flatnonzero(np.char.startswith(sounds.part[clips], "fold")):
            raw = ranking.example_scores(sound[offsets[place] : offsets[place + 1]], sound, offsets)
            foreign = sounds.group[clips] != sounds.group[clips[place]]
            right = sounds.label[clips] == sounds.label[clips[place]]
            yield float(raw[foreign & ~right].max()), False
            if (foreign & right).any():
                yield float(raw[foreign & right].max()), True


def understand(base_dir: Path, head: Head, data_dir: Path, folder: Path) -> list[tuple[str, Floats, float]]:
    """Label ("" for none), query vector and similarity of all calibration queries."""
    from build_head import QUERY_TEMPLATES

    known = json.loads((data_dir / "esc10" / "queries.json").read_text(encoding="utf-8"))
    asked = [(label, text) for label, texts in known.items() for text in (*texts["seen"] * 3, *texts["reworded"])]
    asked += [
        ("", line) for line in (folder / "not_sounds.txt").read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")
    ]
    sentences = TextEncoder(Bundle.load(base_dir))
    result = []
    for label, text in asked:
        weights, similarity = head.weigh_classes(mean_direction(sentences.encode(query_phrases(text, QUERY_TEMPLATES))))
        result.append((label, head.fold_query(weights), similarity))
    return result


def calibrate(sounds: Sounds, vectors: Vectors, queries: list[tuple[str, Floats, float]]) -> dict[str, float]:
    """The constants of `ranking.Calibration`."""
    raw, similarity, right = (np.array(column, np.float64) for column in zip(*text_trials(sounds, vectors, queries), strict=True))
    inside = np.clip(raw, 1e-3, 1 - 1e-3)
    text = fit_logistic(np.c_[np.log(inside / (1 - inside)), similarity], right)
    likeness, alike = (np.array(column, np.float64) for column in zip(*example_trials(sounds, vectors), strict=True))
    example = fit_logistic(likeness[:, None], alike, ridge=1e-4)
    return {
        "text_slope": text[0],
        "text_similarity": text[1],
        "text_offset": text[2],
        "example_slope": example[0],
        "example_offset": example[1],
        "word_weight": WORD_WEIGHT,
        "threshold": THRESHOLD,
    }


def fit(base_dir: Path, data_dir: Path, arrays: Arrays, names: Floats, folder: Path) -> None:
    """Fit on the recordings in `data_dir` and write fitted.safetensors and fitted.json into `folder`."""
    sounds = read_sounds(base_dir, listed(data_dir))
    layout = {name: (start, stop) for name, start, stop in FeatureExtractor(MelSpec()).layout}
    start, stop = layout[MULTI_RANGE[0]][0], layout[MULTI_RANGE[1]][1]
    is_esc10 = np.char.startswith(sounds.part, "fold")
    kernel = arrays["class_codes"].astype(np.float32) * arrays["class_scale"].astype(np.float32)
    logits = np.clip(sounds.output @ kernel + arrays["class_bias"].astype(np.float32), -60, 60)
    probabilities = 1 / (1 + np.exp(-logits))
    fitted = heard(sounds, probabilities, np.arange(len(sounds.label)))
    multi = principal(sounds.multi[:, start:stop], MULTI_AXES, MULTI_WHITENING)
    fitted |= {f"multi_{key}": value for key, value in multi.items()}
    fitted["multi_start"] = np.array([start], np.int32)
    fitted["output_roots"] = np.array([OUTPUT_ROOTS], np.int32)
    rest = 1 - MULTI_SHARE
    fitted["sound_shares"] = np.array([rest * (1 - CLASS_SHARE), rest * CLASS_SHARE, MULTI_SHARE], np.float32)
    fitted |= fold_arrays(probabilities, names)
    save_file(dict(sorted(fitted.items())), folder / "fitted.safetensors")
    # Likeness is calibrated on ESC-10 with axes that know nothing of it: with the shipped ones it would look too good there.
    head = Head({**arrays, **fitted, **heard(sounds, probabilities, np.flatnonzero(~is_esc10))})
    constants = calibrate(sounds, head.describe(sounds.output, sounds.multi), understand(base_dir, head, data_dir, folder))
    (folder / "fitted.json").write_text(json.dumps(constants, indent=1, sort_keys=True) + "\n", encoding="utf-8")
