"""The head: encoder output -> text vector, strength and sound vector; words -> query vector; label scores.

The *label bridge* joins sound and language. A sound is a row of class probabilities p; a query is a row of weights w over the
same classes, from how near its words are to each class's phrases in the sentence model. Their inner product w.p is the evidence.
Both are folded into the sentence model's dimension by one matrix that keeps inner products and turns each class's direction
towards its name's vector: text = P (p / spread), query = P (w * spread).
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from earmark_client.model.calibration import Calibration, text_probability
from earmark_client.model.labels import LabelList, read_labels
from earmark_client.model.text import TextEncoder
from earmark_shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from earmark_client.model.bundle import Bundle

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

HIGHEST_CODE = 127
KEPT_QUERIES = 256
PRODUCT_ROWS = 8
LISTED = 8
"""Labels shown of a clip or segment, at most."""
LEAST_LISTED = 0.2
"""Calibrated score a listed label needs."""


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


@dataclass(frozen=True)
class TextQuery:
    """Words made comparable with segments."""

    text: str
    vector: Floats
    """`(text_dim,)`: its inner product with strength * text vector is the raw evidence, near [0, 1]."""
    similarity: float
    """How near the words are to the nearest label text, in [-1, 1]."""
    nearest: tuple[tuple[str, float], ...]
    """The labels it was understood as, and how much each counts; best first."""


def query_phrases(text: str, templates: Sequence[str]) -> list[str]:
    """The sentences that stand for `text`; the sentence model is asked about each."""
    return [template.format(text.lower().strip()) for template in templates]


def mean_direction(vectors: Floats) -> Floats:
    """The unit vector `(dim,)` between unit vectors `(n, dim)`."""
    total = vectors.sum(axis=0)
    direction: Floats = (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)
    return direction


class Head:
    """The head's arrays and the arithmetic on them; a segment's bits don't depend on its batch (see `_in_groups`)."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take the arrays of head.safetensors.

        Raises:
            ModelError: one is missing or doesn't fit.
        """
        try:
            full = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
            self._kernel = full["class_codes"] * full["class_scale"]
            self._bias = full["class_bias"]
            self._fold = np.ascontiguousarray((full["fold"] / full["class_spread"]).T)
            self.class_vectors = np.ascontiguousarray((full["fold"] * full["class_spread"]).T)
            self._phrases = full["phrase_codes"] * full["phrase_scale"][:, None]
            self._phrase_starts = arrays["phrase_starts"].astype(np.int64)
            self._sharpness = float(full["sharpness"][0])
            self._parts = [{key: full[f"{part}_{key}"] for key in ("mean", "spread", "axes")} for part in ("output", "multi")]
            self._multi_start = int(full["multi_start"][0])
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
        return sum(part["axes"].shape[1] for part in self._parts)

    def describe(self, encoder_output: Floats, multi_scale: Floats) -> Vectors:
        """Encoder output `(n, dim)` and multi-scale features `(n, F)` of n segments -> what they keep."""
        output = np.asarray(encoder_output, np.float32)
        folded = _in_groups(self.class_probabilities(output), self._fold)
        strength = np.sqrt(_in_rows(folded * folded))
        text = np.asarray(folded / np.maximum(strength, np.float32(1e-12))[:, None], np.float32)
        return Vectors(text, strength, self._describe_sound(output, multi_scale))

    def class_probabilities(self, encoder_output: Floats) -> Floats:
        """Encoder output `(n, dim)` -> `(n, classes)` in [0, 1]."""
        logits = _in_groups(encoder_output, self._kernel) + self._bias
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), np.float32)

    def _describe_sound(self, encoder_output: Floats, multi_scale: Floats) -> Floats:
        """Two parts, each of unit length before it gets its share; square roots tame the encoder's few loud outputs."""
        stop = self._multi_start + len(self._parts[1]["mean"])
        inputs = (np.sqrt(np.maximum(encoder_output, 0)), multi_scale[:, self._multi_start : stop])
        pieces = []
        for values, part, share in zip(inputs, self._parts, self._shares, strict=True):
            piece = _in_groups(((values - part["mean"]) / part["spread"]).astype(np.float32), part["axes"])
            length = np.maximum(np.sqrt(_in_rows(piece * piece)), np.float32(1e-12))
            pieces.append(piece * np.asarray(share / length, np.float32)[:, None])
        return np.concatenate(pieces, axis=1)

    def weigh_classes(self, direction: Floats) -> tuple[Floats, float]:
        """Words' direction `(sentence_dim,)` -> weights `(classes,)` that sum to 1, and the nearest phrase's similarity."""
        nearest = np.maximum.reduceat(self._phrases @ direction, self._phrase_starts)
        odds = np.exp((nearest - nearest.max()) * self._sharpness)
        return (odds / odds.sum()).astype(np.float32), float(nearest.max())

    def fold_query(self, weights: Floats) -> Floats:
        """Class weights `(classes,)` -> query vector `(text_dim,)`."""
        vector: Floats = np.einsum("i,ij->j", weights, self.class_vectors)
        return vector


class Labeler:
    """A model's head, its label texts and its sentence encoder, which is opened by the first words."""

    def __init__(self, bundle: Bundle) -> None:
        """Read and check the head and the labels of `bundle`."""
        from safetensors.numpy import load

        self._bundle = bundle
        part = bundle.section("calibration")
        self.calibration = Calibration.read(part)
        self._templates = tuple(str(template) for template in part.get("templates", ["{}"]))
        self._head = Head(load(bundle.read(str(bundle.section("head")["file"]))))
        self._base = read_labels(bundle.read(str(bundle.section("labels")["file"])))
        if len(self._base) != len(self._head.class_vectors):
            raise ModelError("The model's labels and its head don't belong together.")
        self._known: OrderedDict[str, Future[TextQuery]] = OrderedDict()
        self._lock = Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="words")

    @cached_property
    def _sentences(self) -> TextEncoder:
        return TextEncoder(self._bundle)

    @property
    def text_dim(self) -> int:
        """Length of a text vector."""
        return self._head.text_dim

    @property
    def sound_dim(self) -> int:
        """Length of a sound vector."""
        return self._head.sound_dim

    def describe(self, encoder_output: Floats, multi_scale: Floats) -> Vectors:
        """Encoder output `(n, dim)` and multi-scale features `(n, F)` -> vectors, row by row the same bits whatever n is."""
        return self._head.describe(encoder_output, multi_scale)

    def begin(self, text: str) -> Future[TextQuery]:
        """Begin to understand `text` in a thread, opening the sentence encoder if need be; the last few hundred are remembered.

        Opening takes a third of a cold search and encoding most of a warm one, and so do loading the index and looking up words.
        """
        with self._lock:
            known = self._known.pop(text, None)
            if known is None or (known.done() and known.exception() is not None):
                known = self._reader.submit(self._understand, text)
            self._known[text] = known
            if len(self._known) > KEPT_QUERIES:
                self._known.popitem(last=False)
            return known

    def text_query(self, text: str) -> TextQuery:
        """Understand `text`; ModelError if the sentence encoder can't be opened."""
        return self.begin(text).result()

    def _understand(self, text: str) -> TextQuery:
        direction = mean_direction(self._sentences.encode(query_phrases(text, self._templates)))
        weights, similarity = self._head.weigh_classes(direction)
        best = np.argsort(-weights, kind="stable")[:3]
        nearest = tuple((self._base[index].name, float(weights[index])) for index in best)
        return TextQuery(text, self._head.fold_query(weights), similarity, nearest)

    def query_vector(self, text: str) -> Floats:
        """`(text_dim,) float32`: what to take the inner product of strength * text vector with."""
        return self.text_query(text).vector

    def label_list(self, own: Sequence[tuple[str, str]] = ()) -> LabelList:
        """The model's labels and then a person's `own` (name, phrase) pairs."""
        if not own:
            return self._model_list
        base, queries = self._model_list, [self.text_query(phrase) for _, phrase in own]
        return LabelList(
            names=(*base.names, *(name for name, _ in own)),
            vectors=np.concatenate((base.vectors, *(query.vector[None] for query in queries))),
            similarity=np.concatenate((base.similarity, np.array([query.similarity for query in queries], np.float32))),
            is_broad=np.concatenate((base.is_broad, np.zeros(len(queries), np.bool_))),
        )

    @cached_property
    def _model_list(self) -> LabelList:
        listed = [index for index, label in enumerate(self._base) if label.is_listed]
        return LabelList(
            names=tuple(self._base[index].name for index in listed),
            vectors=self._head.class_vectors[listed],
            similarity=np.ones(len(listed), np.float32),
            is_broad=np.array([self._base[index].is_broad for index in listed], np.bool_),
        )

    def labels(self, text: Floats, strength: Floats, labels: LabelList) -> Floats:
        """Calibrated scores `(n, labels)` in [0, 1] of segments' text vectors `(n, text_dim)` and strength `(n,)`."""
        weighted = np.asarray(text, np.float32) * np.asarray(strength, np.float32)[:, None]
        raw = _in_groups(weighted, labels.turned)
        return text_probability(raw, labels.similarity, self.calibration)

    def top_labels(self, scores: Floats, labels: LabelList, *, limit: int = LISTED) -> list[tuple[str, float]]:
        """The labels worth showing for scores `(labels,)`, best first: a broad one only where no narrower one says more."""
        worth = np.flatnonzero(scores >= LEAST_LISTED)
        told, is_broad = scores[worth], labels.is_broad[worth]
        best_narrow = told[~is_broad].max(initial=0.0)
        shown = worth[~is_broad | (best_narrow < np.maximum(LEAST_LISTED, told / 2))]
        shown = shown[np.argsort(-scores[shown], kind="stable")][:limit]
        return [(labels.names[index], float(scores[index])) for index in shown]


def _in_rows(values: Floats) -> Floats:
    """Each row's sum `(n,)`, by the same pairwise order whatever n is."""
    sums: Floats = np.ascontiguousarray(values).sum(axis=1, dtype=np.float32)
    return sums


def _in_groups(rows: Floats, matrix: Floats) -> Floats:
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
