"""Head, label texts and sentence encoder joined: sounds to vectors, words to queries, evidence to labels.

The *label bridge* joins sound and language. A sound is a row of class probabilities p; a query is a row of weights w over the
same classes, from how near its words are to each class's phrases in the sentence model. Their inner product w.p is the evidence.
Both are folded into the sentence model's dimension by one matrix that keeps inner products and turns each class's direction
towards its name's vector: text = P (p / spread), query = P (w * spread).
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from earmark_client.model.calibration import Calibration, text_probability
from earmark_client.model.head import Head, in_groups, mean_direction
from earmark_client.model.imported import read_head
from earmark_client.model.labels import LabelList, read_labels
from earmark_client.model.text import TextEncoder
from earmark_shared.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from earmark_client.model.bundle import Bundle
    from earmark_client.model.head import Vectors

Floats = npt.NDArray[np.float32]

KEPT_QUERIES = 256
NO_WORDS_HINT = "Ask by example: --like FILE. Or go back to a model that knows words: earmark model use base"
LISTED = 8
"""Labels shown of a clip or segment, at most."""
LEAST_LISTED = 0.2
"""Calibrated score a listed label needs."""


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
    background: float | None = None
    """What a tenth of public recordings exceed for these words, as raw evidence; None where that was not measured."""


def query_phrases(text: str, templates: Sequence[str]) -> list[str]:
    """The sentences that stand for `text`; the sentence model is asked about each. What `text` begins with is not said twice."""
    words = text.lower().strip()
    return [template.format(words.removeprefix(template.partition("{}")[0])) for template in templates]


class Labeler:
    """A model's head, its label texts and its sentence encoder, which is opened by the first words."""

    def __init__(self, bundle: Bundle) -> None:
        """Read and check the head and the labels of `bundle`."""
        from safetensors.numpy import load

        self._bundle = bundle
        part = bundle.section("calibration")
        self.calibration = Calibration.read(part)
        self._templates = tuple(str(template) for template in part.get("templates", ["{}"]))
        head = bundle.section("head")
        self._head: Head = read_head(head.get("kind"), load(bundle.read(str(head["file"]))))
        self._base = read_labels(bundle.read(str(bundle.section("labels")["file"])))
        if len(self._base) != len(self._head.class_vectors):
            raise ModelError("The model's labels and its head don't belong together.")
        self._known: OrderedDict[str, Future[TextQuery]] = OrderedDict()
        self._lock = Lock()

    @cached_property
    def _sentences(self) -> TextEncoder:
        return TextEncoder(self._bundle)

    @property
    def knows_words(self) -> bool:
        """Whether it can compare words with sound; an imported encoder without names or text can't."""
        return self._head.knows_words

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

    def describe_text(self, encoder_output: Floats) -> tuple[Floats, Floats]:
        """Encoder output `(n, dim)` alone -> text vectors and strengths; for the shipped model's head."""
        return self._shipped_head.describe_text(encoder_output)

    def hears_like(self, other: Labeler) -> bool:
        """Whether both make the same sound vectors; for the shipped model's heads."""
        return all(map(np.array_equal, self._shipped_head.sound_arrays, other._shipped_head.sound_arrays))

    @property
    def _shipped_head(self) -> Head:
        if type(self._head) is not Head:
            raise ModelError(f"The model {self._bundle.version} is not a shipped one.")
        return self._head

    def understand(self, text: str) -> Future[TextQuery]:
        """Understand `text`, opening the sentence encoder if need be; the last few hundred are remembered. Its fault is the result's.

        Raises:
            SettingsError: the model knows no words.
        """
        if not self.knows_words:
            raise SettingsError(f"The model {self._bundle.version} knows no words, only sounds.", hint=NO_WORDS_HINT)
        is_new = False
        with self._lock:
            known = self._known.pop(text, None)
            if known is None or (known.done() and known.exception() is not None):
                known, is_new = Future(), True
            self._known[text] = known
            if len(self._known) > KEPT_QUERIES:
                self._known.popitem(last=False)
        if is_new:
            try:
                known.set_result(self._understand(text))
            except BaseException as error:  # whoever asks for the result meets it, and nobody waits for it for ever
                known.set_exception(error)
                if not isinstance(error, Exception):  # an interrupt
                    raise
        return known

    def text_query(self, text: str) -> TextQuery:
        """Understand `text`; ModelError if the sentence encoder can't be opened."""
        return self.understand(text).result()

    def _understand(self, text: str) -> TextQuery:
        direction = mean_direction(self._sentences.encode(query_phrases(text, self._templates)))
        vector, similarity, weights = self._head.understand(direction)
        best = np.argsort(-weights, kind="stable")[:3]
        nearest = tuple((self._base[index].name, float(weights[index])) for index in best)
        return TextQuery(text, vector, similarity, nearest, self._head.background(weights))

    def query_vector(self, text: str) -> Floats:
        """`(text_dim,) float32`: what to take the inner product of strength * text vector with."""
        return self.text_query(text).vector

    def label_list(self, own: Sequence[tuple[str, str]] = ()) -> LabelList:
        """The model's labels and then a person's `own` (name, phrase) pairs."""
        if not own or not self.knows_words:
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
        raw = in_groups(weighted, labels.turned)
        return text_probability(raw, labels.similarity, self.calibration)

    def top_labels(self, scores: Floats, labels: LabelList, *, limit: int = LISTED) -> list[tuple[str, float]]:
        """The labels worth showing for scores `(labels,)`, best first: a broad one only where no narrower one says more."""
        # A handful of hundreds: from here on Python is faster than numpy, and a search does this for each hit.
        told = {index: float(scores[index]) for index in np.flatnonzero(scores >= LEAST_LISTED).tolist()}
        broad = {index for index in told if labels.is_broad[index]}
        best_narrow = max((score for index, score in told.items() if index not in broad), default=0.0)
        shown = [index for index in told if index not in broad or best_narrow < max(LEAST_LISTED, told[index] / 2)]
        return [(labels.names[index], told[index]) for index in sorted(shown, key=lambda index: -told[index])[:limit]]
