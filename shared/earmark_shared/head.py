"""The part of the labeler that learns: a small correction of the text vectors, as named arrays and as one flat vector.

For a segment's encoder output x and its frozen text vector t, both rows, the corrected text vector is

    unit(unit(t) + unit(x @ down.T + shift) @ up.T + bias)

`down` (rank, inputs) and `shift` (rank,) find a few directions in what the encoder hears; `up` (outputs, rank) and `bias`
(outputs,) say where to move the text vector. Which of the four are trained is the schema's to say. With `up` and `bias` alone the
correction is linear in what is trained: averages of devices' corrections mean something, and noise is not multiplied by noise.
All zeros in `up` and `bias` is no correction at all.

Rules: a schema names every array, shape and dtype and the label set; its hash is in every round plan. Arrays that don't fit are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from earmark_shared.errors import ModelError

Floats = npt.NDArray[np.float32]
Arrays = Mapping[str, Floats]

MAX_TRAINED = 25_000
"""More parameters than this drown in the noise that protects them."""
MAX_WEIGHT = 1e4
NAMES = ("down", "shift", "up", "bias")
DTYPE = "float32"


@dataclass(frozen=True)
class HeadSchema:
    """Everything two devices must agree on to add up their corrections."""

    inputs: int
    """Length of an encoder output."""
    outputs: int
    """Length of a text vector."""
    rank: int
    trained: tuple[str, ...]
    """Which of NAMES a round changes, in the order they are laid out in the flat vector."""
    labels: tuple[str, ...]
    """The shared label set; no other text ever takes part in training."""

    def __post_init__(self) -> None:
        """Refuse a schema that can't be trained in private."""
        if min(self.inputs, self.outputs, self.rank) < 1 or not self.labels or len(set(self.labels)) != len(self.labels):
            raise ModelError("the head's schema has an empty side, or a label twice")
        if not self.trained or tuple(name for name in NAMES if name in self.trained) != self.trained:
            raise ModelError(f"the head's schema trains {self.trained}, which is not a selection of {NAMES}")
        if self.size > MAX_TRAINED:
            raise ModelError(f"the head's schema trains {self.size} parameters, more than {MAX_TRAINED}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every array's shape."""
        return {
            "down": (self.rank, self.inputs),
            "shift": (self.rank,),
            "up": (self.outputs, self.rank),
            "bias": (self.outputs,),
        }

    @property
    def size(self) -> int:
        """How many parameters a round changes: the length d of the flat vector."""
        return sum(int(np.prod(self.shapes[name])) for name in self.trained)

    def to_json(self) -> str:
        """Return the canonical text that is hashed and published."""
        table = vars(self) | {"dtype": DTYPE, "arrays": self.shapes}  # `asdict` would copy hundreds of labels, one by one
        return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> HeadSchema:
        """Read what `to_json` wrote.

        Raises:
            ModelError: it is anything else, byte for byte.
        """
        try:
            table = json.loads(text)
            sides = {key: int(table[key]) for key in ("inputs", "outputs", "rank")}
            schema = cls(**sides, trained=tuple(map(str, table["trained"])), labels=tuple(map(str, table["labels"])))
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError("the head's schema can't be read") from error
        if schema.to_json() != text:
            raise ModelError("the head's schema is not in its canonical form")
        return schema

    def sha256(self) -> bytes:
        """Return the 32 bytes that a round plan names this schema by."""
        label, body = b"earmark/head/schema", self.to_json().encode()
        return hashlib.sha256(len(label).to_bytes(2, "big") + label + len(body).to_bytes(4, "big") + body).digest()


def check_arrays(schema: HeadSchema, arrays: Arrays) -> None:
    """Pass exactly the schema's arrays: names, shapes, dtype, finite, and of a sane size.

    Raises:
        ModelError: anything differs.
    """
    if set(arrays) != set(NAMES):
        raise ModelError(f"the head has the arrays {sorted(arrays)} instead of {sorted(NAMES)}")
    for name, shape in schema.shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.dtype(DTYPE):
            raise ModelError(f"the head's {name} is {array.dtype} {array.shape}, not {DTYPE} {shape}")
        if not np.isfinite(array).all() or float(np.abs(array).max(initial=0.0)) > MAX_WEIGHT:
            raise ModelError(f"the head's {name} holds a value that is no weight")


def arrays_sha256(schema: HeadSchema, arrays: Arrays) -> bytes:
    """Return the 32 bytes that a round plan names this very head by, whatever file it is kept in."""
    check_arrays(schema, arrays)
    whole = hashlib.sha256(b"earmark/head/arrays" + schema.sha256())
    for name in NAMES:
        whole.update(arrays[name].astype("<f4").tobytes())
    return whole.digest()


def flatten(schema: HeadSchema, arrays: Arrays) -> Floats:
    """Lay the trained arrays out as one `(d,) float32`, in the schema's order, row by row."""
    check_arrays(schema, arrays)
    return np.concatenate([arrays[name].reshape(-1) for name in schema.trained])


def unflatten(schema: HeadSchema, vector: Floats, arrays: Arrays) -> dict[str, Floats]:
    """Return `arrays` with the trained ones read from `vector`: the inverse of `flatten`.

    Raises:
        ModelError: the vector's length or dtype is wrong, or a value is no weight.
    """
    if vector.shape != (schema.size,) or vector.dtype != np.dtype(DTYPE):
        raise ModelError(f"a head of {schema.size} parameters can't be read from {vector.dtype} {vector.shape}")
    filled, at = dict(arrays), 0
    for name in schema.trained:
        shape = schema.shapes[name]
        count = int(np.prod(shape))
        filled[name] = vector[at : at + count].reshape(shape).copy()
        at += count
    check_arrays(schema, filled)
    return filled


def first_head(schema: HeadSchema, seed: bytes) -> dict[str, Floats]:
    """Return a head that corrects nothing yet: random public directions spread from `seed`, zeros elsewhere."""
    count = schema.rank * schema.inputs
    bits = np.frombuffer(hashlib.shake_256(b"earmark/head/first" + seed).digest(4 * count), dtype="<u4")
    # Uniform in [-1, 1) with variance 1/3; scaled so that a unit input gives a feature of unit length on average.
    spread = (bits.astype(np.float64) / 2.0**31 - 1.0) * np.sqrt(3.0 / schema.rank)
    heads = {name: np.zeros(shape, dtype=np.float32) for name, shape in schema.shapes.items()}
    return heads | {"down": spread.reshape(schema.shapes["down"]).astype(np.float32)}


def correct(arrays: Arrays, encoder_outputs: Floats, text: Floats) -> Floats:
    """Return `(segments, outputs) float32` corrected unit text vectors for `(segments, inputs)` and `(segments, outputs)`."""
    features = unit_rows(encoder_outputs @ arrays["down"].T + arrays["shift"])
    return unit_rows(unit_rows(text) + features @ arrays["up"].T + arrays["bias"])


def unit_rows(rows: Floats) -> Floats:
    """Scale every row to length one; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)
