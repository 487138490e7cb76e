"""The shipped model's head: encoder output -> text vector, strength and sound vector; words' direction -> query vector.

`labeler.py` tells what the *label bridge* is that it computes; heads of imported models are in `imported.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from earmark_shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

HIGHEST_CODE = 127
PRODUCT_ROWS = 8
PARTS = "output", "classes", "multi"
"""What a sound vector is made of, in this order: the encoder's output, class probabilities, multi-scale features. Heads that were
made before 2026-11-28 have no `classes` and no `output_roots`; they still open, for a library may be searched by one."""


def quantize_output(encoder_output: Floats) -> tuple[Codes, Floats]:
    """Encoder output `(n, dim)`, nothing negative -> codes `(n, dim) int8` and scale `(n,) float32`; off by at most scale / 2."""
    scale = (np.maximum(encoder_output.max(axis=1), 1e-12) / HIGHEST_CODE).astype(np.float32)
    codes = np.rint(np.maximum(encoder_output, 0) / scale[:, None])
    return np.minimum(codes, HIGHEST_CODE).astype(np.int8), scale


def dequantize_output(codes: Codes, scale: Floats) -> Floats:
    """Codes `(n, dim) int8` and scale `(n,)` -> encoder output `(n, dim) float32`."""
    return codes.astype(np.float32) * scale.astype(np.float32)[:, None]


@dataclass(frozen=True)
class Vectors:
    """What a segment keeps: `text (n, text_dim)` unit, `strength (n,)`, `sound (n, sound_dim)` unit; all float32."""

    text: Floats
    strength: Floats
    sound: Floats
    corrected: Floats | None = None
    """`(n, text_dim)` what a released head makes of `text`, where one is in force."""

    @property
    def searched(self) -> Floats:
        """The text vectors that searches and labels go by: `(n, text_dim)`."""
        return self.text if self.corrected is None else self.corrected

    def rows(self, which: slice) -> Vectors:
        """The same of some segments."""
        corrected = None if self.corrected is None else self.corrected[which]
        return Vectors(self.text[which], self.strength[which], self.sound[which], corrected)


def mean_direction(vectors: Floats) -> Floats:
    """The unit vector `(dim,)` between unit vectors `(n, dim)`."""
    total = vectors.sum(axis=0)
    direction: Floats = (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)
    return direction


class Head:
    """The head's arrays and the arithmetic on them; a segment's bits don't depend on its batch (see `in_groups`)."""

    knows_words = True
    """Whether words can be compared with what it makes of sound."""
    class_background: Floats | None = None
    """`(classes,)` the evidence for each class that a tenth of public recordings exceed; None where that was not measured."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take the arrays of head.safetensors.

        Raises:
            ModelError: one is missing or doesn't fit.
        """
        try:
            full = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
            self._kernel = full["class_codes"] * full["class_scale"]
            self._bias = full["class_bias"]
            self.class_background = full.get("class_background")
            self._fold = np.ascontiguousarray((full["fold"] / full["class_spread"]).T)
            self.class_vectors = np.ascontiguousarray((full["fold"] * full["class_spread"]).T)
            self._phrases = full["phrase_codes"] * full["phrase_scale"][:, None]
            self._phrase_starts = arrays["phrase_starts"].astype(np.int64)
            self._sharpness = float(full["sharpness"][0])
            known = [part for part in PARTS if part != "classes" or "classes_axes" in full]
            self._parts = {part: {key: full[f"{part}_{key}"] for key in ("mean", "spread", "axes")} for part in known}
            self._multi_start = int(full["multi_start"][0])
            self._roots = int(full["output_roots"][0]) if "output_roots" in full else 1
            self._shares = np.sqrt(full["sound_shares"])
        except KeyError as error:
            raise ModelError(f"The model's head has no {error.args[0]!r}.") from error

    @property
    def text_dim(self) -> int:
        """Length of a text vector."""
        return int(self.class_vectors.shape[1])

    @property
    def sound_dim(self) -> int:
        """Length of a sound vector."""
        return sum(part["axes"].shape[1] for part in self._parts.values())

    def describe(self, encoder_output: Floats, multi_scale: Floats) -> Vectors:
        """Encoder output `(n, dim)` and multi-scale features `(n, F)` of n segments -> what they keep."""
        output = np.asarray(encoder_output, np.float32)
        classes = self.class_probabilities(output)
        return Vectors(*self._fold_classes(classes), self._describe_sound(output, classes, multi_scale))

    def describe_text(self, encoder_output: Floats) -> tuple[Floats, Floats]:
        """Encoder output `(n, dim)` -> unit text vectors `(n, text_dim)` and strengths `(n,)`."""
        return self._fold_classes(self.class_probabilities(encoder_output))

    def _fold_classes(self, classes: Floats) -> tuple[Floats, Floats]:
        folded = in_groups(classes, self._fold)
        strength: Floats = np.sqrt(in_rows(folded * folded))
        text = np.asarray(folded / np.maximum(strength, np.float32(1e-12))[:, None], np.float32)
        return text, strength

    @property
    def sound_arrays(self) -> list[Floats]:
        """All that sound vectors are made with, in a fixed order: where they are the same, so are the vectors."""
        parts = [part[key] for part in self._parts.values() for key in sorted(part)]
        classes = [self._kernel, self._bias] if "classes" in self._parts else []
        return [*parts, *classes, self._shares, np.array([self._multi_start, self._roots], np.float32)]

    def class_probabilities(self, encoder_output: Floats) -> Floats:
        """Encoder output `(n, dim)` -> `(n, classes)` in [0, 1]."""
        logits = in_groups(encoder_output, self._kernel) + self._bias
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), np.float32)

    def _describe_sound(self, encoder_output: Floats, classes: Floats, multi_scale: Floats) -> Floats:
        """Parts, each of unit length before it gets its share; roots tame the encoder's few loud outputs and the classes' few sure ones."""
        rooted = np.maximum(encoder_output, 0)
        for _ in range(self._roots):
            rooted = np.sqrt(rooted)
        stop = self._multi_start + len(self._parts["multi"]["mean"])
        inputs = {"output": rooted, "classes": np.sqrt(classes), "multi": multi_scale[:, self._multi_start : stop]}
        pieces = []
        for (name, part), share in zip(self._parts.items(), self._shares, strict=True):
            piece = in_groups(((inputs[name] - part["mean"]) / part["spread"]).astype(np.float32), part["axes"])
            length = np.maximum(np.sqrt(in_rows(piece * piece)), np.float32(1e-12))
            pieces.append(piece * np.asarray(share / length, np.float32)[:, None])
        return np.concatenate(pieces, axis=1)

    def understand(self, direction: Floats) -> tuple[Floats, float, Floats]:
        """Words' direction `(sentence_dim,)` -> query vector `(text_dim,)`, the nearest phrase's similarity, `(classes,)` weights."""
        weights, similarity = self.weigh_classes(direction)
        return self.fold_query(weights), similarity, weights

    def weigh_classes(self, direction: Floats) -> tuple[Floats, float]:
        """Words' direction `(sentence_dim,)` -> weights `(classes,)` that sum to 1, and the nearest phrase's similarity."""
        nearest = np.maximum.reduceat(self._phrases @ direction, self._phrase_starts)
        odds = np.exp((nearest - nearest.max()) * self._sharpness)
        return (odds / odds.sum()).astype(np.float32), float(nearest.max())

    def background(self, weights: Floats) -> float | None:
        """What a tenth of public recordings exceed for a query of class weights `(classes,)`; None where that was not measured."""
        return None if self.class_background is None else float(weights @ self.class_background)

    def fold_query(self, weights: Floats) -> Floats:
        """Class weights `(classes,)` -> query vector `(text_dim,)`."""
        vector: Floats = np.einsum("i,ij->j", weights, self.class_vectors)
        return vector


def in_rows(values: Floats) -> Floats:
    """Each row's sum `(n,)`, by the same pairwise order whatever n is."""
    sums: Floats = np.ascontiguousarray(values).sum(axis=1, dtype=np.float32)
    return sums


def in_groups(rows: Floats, matrix: Floats) -> Floats:
    """Rows `(n, dim)` times `(dim, m)` in products of eight rows, the last filled up: a row's bits can't depend on the others.

    A BLAS chooses its order of summing by the shape and by its number of threads, which is one here; within one shape every row
    meets the same kernels (held by a test).
    """
    padded = np.zeros((-(-len(rows) // PRODUCT_ROWS) * PRODUCT_ROWS, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    product = np.empty((len(padded), matrix.shape[1]), np.float32)
    for start in range(0, len(padded), PRODUCT_ROWS):
        group = slice(start, start + PRODUCT_ROWS)
        np.matmul(padded[group], matrix, out=product[group])
    return product[: len(rows)]
