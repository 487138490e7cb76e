"""Fit the head's projections and its calibration on public recordings: a few axes and two small logistic regressions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from head_calibration import calibrate, understand
from recordings import corpus, esc10, read_mono
from safetensors.numpy import save_file

from earmark_client import ranking
from earmark_client.audio.features import FeatureExtractor, MelSpec
from earmark_client.audio.segment import Segmenter
from earmark_client.model.bundle import Bundle
from earmark_client.model.encoder import AudioEncoder
from earmark_client.model.head import Head
from earmark_shared.errors import UnreadableAudioError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Arrays = dict[str, npt.NDArray[np.generic]]

TEXT_DIM = 384
RIDGE = 1.0
"""Added to the spread within labels, as a share of its mean: chosen on ESC-10, with axes from the corpus alone (.1 to 3 do about as well)."""
SPREAD_FLOOR = 0.03
"""Added to each class's spread, so that classes the recordings hardly hold keep their place."""
MULTI_RANGE = "mfcc_mean", "sounding_eighths"
MULTI_WHITENING = 0.25
"""Power of its variance that each multi-scale axis is divided by."""
BACKGROUND_SHARE = 0.1
"""Share of public recordings that exceed a class's background: of .02 to .25, those up to .15 do about as well on labels left out."""


@dataclass(frozen=True)
class Recipe:
    """What a sound vector is made of; by default the shipped one's (`benchmarks/vectors.py` compares)."""

    roots: int = 2
    """Square roots taken of the encoder's output."""
    output_axes: int = 112
    class_axes: int = 48
    class_share: float = 0.2
    """Share of the class probabilities in what is not multi-scale."""
    multi_axes: int = 96
    multi_share: float = 0.1
    """Share of the multi-scale features in a sound vector: more helps spoken words, and from here on hurts other sounds."""
    is_told: bool = True
    """Whether labels have a say in the axes; else they are the principal ones."""


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
    """Path, label, group and set of each clip to fit on."""
    for row in esc10(data_dir, "freesound_id"):
        yield data_dir / "esc10" / row["file"], row["label"], row["freesound_id"], f"fold {row['fold']}"
    for row in corpus(data_dir, "label", "label_quality", "category"):
        if row["label_quality"] == "good" and not row["category"].startswith("speech"):
            yield data_dir / "corpus" / row["file"], row["label"], row["package"], row["category"]


def read_segments(path: Path) -> Floats:
    """One file's segments `(n, segment_samples)`; UnreadableAudioError if it can't be read."""
    segmenter = Segmenter()
    cuts = segmenter.push(read_mono(path)) + segmenter.flush()
    return np.stack([cut.waveform for cut in cuts]) if cuts else np.empty((0, 15_600), np.float32)


def read_sounds(
    base_dir: Path, rows: Iterable[tuple[Path, str, str, str]], tell: Callable[[object], None] | None = None
) -> Sounds:
    """Decode and encode the listed clips; what can't be read ends this, or is told and left out.

    Raises:
        UnreadableAudioError: a clip can't be read and there is no `tell`, or none can.
    """
    bundle = Bundle.load(base_dir)
    extract, encoder = FeatureExtractor(MelSpec(**bundle.section("frontend"))), AudioEncoder(bundle, threads=2)
    outputs, multis, lengths, texts = [], [], [], []
    for path, *text in rows:
        try:
            segments = read_segments(path)
        except UnreadableAudioError as problem:
            if tell is None:
                raise
            tell(problem)
            continue
        if not len(segments):
            continue
        features = extract(segments)
        outputs.append(encoder.encode(features.log_mel))
        multis.append(features.multi_scale)
        lengths.append(len(segments))
        texts.append(text)
    if not outputs:
        raise UnreadableAudioError("none of the clips has sound that can be read")
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


def heard(sounds: Sounds, probabilities: Floats, clips: npt.NDArray[np.int64], recipe: Recipe) -> Arrays:
    """The parts of a sound vector that labels have a say in, those of `clips`: from the encoder's output and the classes' `(n, classes)`."""
    parts = {"output": (np.maximum(sounds.output, 0) ** 0.5**recipe.roots, recipe.output_axes)}
    if recipe.class_axes:
        parts["classes"] = (np.sqrt(probabilities), recipe.class_axes)
    found = {
        part: telling(values, sounds, clips, count) if recipe.is_told else principal(values, count, 0.0)
        for part, (values, count) in parts.items()
    }
    return {f"{part}_{key}": value for part, arrays in found.items() for key, value in arrays.items()}


def sound_arrays(sounds: Sounds, probabilities: Floats, clips: npt.NDArray[np.int64], recipe: Recipe) -> Arrays:
    """All that makes sound vectors; of the labels, only those of `clips` are looked at."""
    layout = {name: (start, stop) for name, start, stop in FeatureExtractor(MelSpec()).layout}
    start, stop = layout[MULTI_RANGE[0]][0], layout[MULTI_RANGE[1]][1]
    multi = principal(sounds.multi[:, start:stop], recipe.multi_axes, MULTI_WHITENING)
    rest = 1 - recipe.multi_share
    shares = [rest * (1 - recipe.class_share), rest * recipe.class_share] if recipe.class_axes else [rest]
    return {
        **heard(sounds, probabilities, clips, recipe),
        **{f"multi_{key}": value for key, value in multi.items()},
        "multi_start": np.array([start], np.int32),
        "output_roots": np.array([recipe.roots], np.int32),
        "sound_shares": np.array([*shares, recipe.multi_share], np.float32),
    }


def background(sounds: Sounds, probabilities: Floats, clips: npt.NDArray[np.int64]) -> Floats:
    """`(classes,)` the evidence that `BACKGROUND_SHARE` of `clips` exceed for each class."""
    rows, offsets = sounds.pick(clips)
    scores = [ranking.clip_scores(column, offsets) for column in np.ascontiguousarray(probabilities[rows].T)]
    reached: Floats = np.quantile(np.stack(scores), 1 - BACKGROUND_SHARE, axis=1).astype(np.float32)
    return reached


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


def class_probabilities(arrays: Arrays, output: Floats) -> Floats:
    """`(n, classes)` of encoder output `(n, dim)`, by the class layer in `arrays`."""
    kernel = arrays["class_codes"].astype(np.float32) * arrays["class_scale"].astype(np.float32)
    probabilities: Floats = 1 / (1 + np.exp(-np.clip(output @ kernel + arrays["class_bias"].astype(np.float32), -60, 60)))
    return probabilities


def fit(base_dir: Path, data_dir: Path, arrays: Arrays, names: Floats, folder: Path) -> None:
    """Fit on the recordings in `data_dir` and write fitted.safetensors and fitted.json into `folder`."""
    sounds, recipe = read_sounds(base_dir, listed(data_dir)), Recipe()
    is_esc10 = np.char.startswith(sounds.part, "fold")
    probabilities = class_probabilities(arrays, sounds.output)
    fitted = sound_arrays(sounds, probabilities, np.arange(len(sounds.label)), recipe)
    fitted["class_background"] = background(sounds, probabilities, np.flatnonzero(~is_esc10))
    fitted |= fold_arrays(probabilities, names)
    save_file(dict(sorted(fitted.items())), folder / "fitted.safetensors")
    # Likeness is calibrated on ESC-10 with axes that know nothing of it: with the shipped ones it would look too good there.
    head = Head({**arrays, **fitted, **heard(sounds, probabilities, np.flatnonzero(~is_esc10), recipe)})
    constants = calibrate(sounds, head.describe(sounds.output, sounds.multi), understand(base_dir, head, data_dir, folder))
    (folder / "fitted.json").write_text(json.dumps(constants, indent=1, sort_keys=True) + "\n", encoding="utf-8")
