"""Heads of imported models: what their encoders' outputs are to searches. Each is a `Head` with another arithmetic.

    classes  an encoder with a class layer (AST): class probabilities are the text vector, and words are weighed over the names of the
             classes in the shipped sentence model, as the label bridge does
    joint    an encoder with a text encoder of its own (CLAP): sound and words lie in one space
    sound    an encoder alone (Whisper's): sounds are compared with sounds, and words with nothing

A joint head's evidence is how many times better the words fit the sound than all label texts together, as log-odds. With scale s,
sound a, words q and label texts b it is s a.q - log(sum(exp(s a.b))): one inner product, if the sum is kept as one more number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from earmark_client.model.head import Floats, Head, Vectors, in_groups, in_rows
from earmark_shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping


class _ImportedHead(Head):
    """What all have in common: the sound vector is the encoder output, standardized by sounds made up at the import."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take the arrays of head.safetensors.

        Raises:
            ModelError: one is missing.
        """
        try:
            self._mean, self._spread = (np.asarray(arrays[f"sound_{name}"], np.float32) for name in ("mean", "spread"))
            self._read(arrays)
        except KeyError as error:
            raise ModelError(f"The model's head has no {error.args[0]!r}.") from error

    def _read(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:  # noqa: ARG002  a kind with words needs more of them
        self.class_vectors = np.zeros((0, 1), np.float32)

    @property
    def sound_dim(self) -> int:
        """Length of a sound vector."""
        return len(self._mean)

    def describe(self, encoder_output: Floats, multi_scale: Floats) -> Vectors:  # noqa: ARG002  the shipped front end's alone
        """Encoder output `(n, dim)` of n segments -> what they keep."""
        output = np.asarray(encoder_output, np.float32)
        text, strength = _unit(self._listen(output))
        return Vectors(text, strength, _unit((output - self._mean) / self._spread)[0])

    def _listen(self, output: Floats) -> Floats:
        """`(n, text_dim)` evidence before it is made unit length; nothing here."""
        return np.zeros((len(output), self.text_dim), np.float32)


class SoundHead(_ImportedHead):
    """No words: every segment says nothing about any."""

    knows_words = False


class ClassHead(_ImportedHead):
    """Class probabilities, and words weighed over the classes' names."""

    def _read(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._kernel, self._bias = (np.asarray(arrays[f"class_{name}"], np.float32) for name in ("kernel", "bias"))
        self._phrases = np.asarray(arrays["phrases"], np.float32)
        self._phrase_starts = arrays["phrase_starts"].astype(np.int64)
        self._sharpness = float(arrays["sharpness"][0])
        self._is_one = bool(arrays["is_one_of"][0])
        self.class_vectors = np.eye(len(self._bias), dtype=np.float32)

    def class_probabilities(self, encoder_output: Floats) -> Floats:
        """Encoder output `(n, dim)` -> `(n, classes)` in [0, 1]; where the classes exclude each other, they sum to 1."""
        if not self._is_one:
            return super().class_probabilities(encoder_output)
        logits = in_groups(encoder_output, self._kernel) + self._bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / in_rows(odds)[:, None], np.float32)

    def _listen(self, output: Floats) -> Floats:
        return self.class_probabilities(output)


class JointHead(_ImportedHead):
    """Sound and words in one space, `(n, dim)` unit encoder output; a text vector has one number more."""

    def _read(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._names = np.asarray(arrays["names"], np.float32)
        self._scale = np.float32(arrays["scale"][0])
        self._turned = np.ascontiguousarray(self._names.T * self._scale)
        self.class_vectors = np.asarray(_with(self._names, 1.0) * self._scale, np.float32)

    def _listen(self, output: Floats) -> Floats:
        fits = in_groups(output, self._turned)
        best = fits.max(axis=1)
        together = best + np.log(in_rows(np.exp(fits - best[:, None])))
        return np.concatenate((output, -together[:, None] / self._scale), axis=1).astype(np.float32)

    def understand(self, direction: Floats) -> tuple[Floats, float, Floats]:
        """Words' direction `(dim,)` -> query vector `(dim + 1,)`, the nearest label's similarity, and weights `(labels,)`."""
        near = self._names @ direction
        odds = np.exp(self._scale * (near - near.max()))
        vector = np.asarray(_with(direction[None], 1.0)[0] * self._scale, np.float32)
        return vector, float(near.max()), np.asarray(odds / odds.sum(), np.float32)


KINDS: Mapping[str | None, type[Head]] = {None: Head, "classes": ClassHead, "joint": JointHead, "sound": SoundHead}


def read_head(kind: str | None, arrays: Mapping[str, npt.NDArray[Any]]) -> Head:
    """The head of a manifest's `kind`; None is the shipped model's.

    Raises:
        ModelError: there is no such kind, or an array is missing.
    """
    if kind not in KINDS:
        raise ModelError(f"The model's head is of the unknown kind {kind!r}.", hint="Update Earmark.")
    return KINDS[kind](arrays)


def _unit(rows: Floats) -> tuple[Floats, Floats]:
    """Unit rows `(n, dim)` and their lengths `(n,)`; a row of zeros stays one."""
    length = np.sqrt(in_rows(rows * rows))
    return np.asarray(rows / np.maximum(length, np.float32(1e-12))[:, None], np.float32), length


def _with(rows: Floats, value: float) -> Floats:
    return np.concatenate((rows, np.full((len(rows), 1), value, np.float32)), axis=1)
