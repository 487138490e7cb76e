"""What a released head is: its files, and the checks that a file must pass before anyone computes with it.

A release is three small files, named by their hashes in signed metadata:

    release.json                   its number, the base model it corrects, the hashes of the two others
    schema.json                    the arrays' names and shapes and the label set (earmark_shared/head.py), canonical
    head-<sha256>.safetensors      the arrays

safetensors is a length, a JSON header and raw numbers, so we parse it ourselves: nothing is read that the schema does not ask for,
and nothing here can run code. Everything is checked before a byte is copied; a hostile file costs its own length in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from earmark_shared.errors import ModelError
from earmark_shared.head import Arrays, Floats, HeadSchema, check_arrays

RELEASE_NAME = "release.json"
SCHEMA_NAME = "schema.json"
RELEASE_BYTES_MOST = 4096
SCHEMA_BYTES_MOST = 1 << 20
HEAD_BYTES_MOST = 256 << 20
HEADER_BYTES_MOST = 1 << 20
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
"""What weights may be stored as; they are computed with as float32."""
FORMAT = 1
RANGES_MOST = 100
"""Ranges of numbers in a release; what was taken back long ago is told less exactly (`undoing`)."""
CANARY_SHARE = 20
"""One device in so many tries a release first."""
_ALIGNMENT = 8
_DIGITS = re.compile(r"[0-9a-f]{64}")

Shapes = Mapping[str, tuple[int, ...]]
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Release:
    """A head that was released. Numbers only ever grow: taking a head back is a new release of an older one."""

    number: int
    base: str
    """Version of the model whose text vectors it corrects."""
    head_sha256: str
    schema_sha256: str
    undone: Ranges = ()
    """First and last numbers of all releases that were ever taken back, in order and apart: whoever has one takes this one at once."""

    def __post_init__(self) -> None:
        """Refuse what no release can be."""
        digits = (self.head_sha256, self.schema_sha256)
        ends = [0, *(number for first, last in self.undone for number in (first - 1, last)), self.number - 1]
        if (
            not 0 < self.number < 2**63
            or ends != sorted(ends)
            or any(last < first for first, last in self.undone)
            or len(self.undone) > RANGES_MOST
            or not 1 <= len(self.base) <= 200
            or not all(_DIGITS.fullmatch(text) for text in digits)
        ):
            raise ModelError("the release names no number, base model or hashes that can be")

    def undoes(self, number: int) -> bool:
        """Whether release `number` was taken back."""
        return any(first <= number <= last for first, last in self.undone)

    @property
    def head_name(self) -> str:
        """The name of the file with the arrays."""
        return f"head-{self.head_sha256}.safetensors"

    @property
    def version(self) -> str:
        """The version of base model and head together: what vectors made by both carry."""
        return f"{self.base}+{self.head_sha256[:12]}"

    def to_json(self) -> bytes:
        """Return the one text of this release; `undone` is in it only where there is something."""
        table = {name: value for name, value in asdict(self).items() if name != "undone" or value}
        return json.dumps(table | {"format": FORMAT}, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Release:
        """Read what `to_json` wrote; ModelError if it is anything else, byte for byte."""
        try:
            table: dict[str, Any] = json.loads(data) if len(data) <= RELEASE_BYTES_MOST else {}
            texts = {name: str(table[name]) for name in ("base", "head_sha256", "schema_sha256")}
            undone = tuple((int(first), int(last)) for first, last in table.get("undone", ()))
            release = cls(number=int(table["number"]), undone=undone, **texts)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ModelError("the release can't be read") from error
        if release.to_json() != data:
            raise ModelError("the release is not in its canonical form")
        return release


def make_release(number: int, base: str, schema: HeadSchema, head: bytes, *, undone: Ranges = ()) -> Release:
    """Name a head's bytes."""
    return Release(number, base, sha256_hex(head), sha256_hex(schema.to_json().encode()), undone)


def undoing(undone: Ranges, restored: int, newest: int) -> Ranges:
    """Return what is undone once the head of release `restored` (0: the one before the first) is released again after `newest`.

    Where there are too many ranges, the oldest two become one: a device that still has what lies between moves on without a wait.
    """
    if restored >= newest:
        return undone
    kept = [each for each in undone if each[1] <= restored]
    # A range that reaches over `restored` names it too: it was itself taken back before it was good enough again.
    first = min([restored + 1, *(start for start, last in undone if last > restored)])
    ranges = (*kept, (first, newest))
    return ranges if len(ranges) <= RANGES_MOST else ((ranges[0][0], ranges[1][1]), *ranges[2:])


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes as 64 digits."""
    return hashlib.sha256(data).hexdigest()


def is_canary(alias: bytes) -> bool:
    """Whether the device of this pseudonym tries releases first: always the same ones, so that they get the next one at once too."""
    return int.from_bytes(hashlib.sha256(b"earmark/canary" + alias).digest()[:8]) % CANARY_SHARE == 0


def open_release(release: Release, schema_json: bytes, head: bytes) -> tuple[HeadSchema, dict[str, Floats]]:
    """Check a release's two files against it and against each other; return the schema and the arrays, float32.

    Raises:
        ModelError: a hash, the schema or the arrays are not what they must be.
    """
    if len(schema_json) > SCHEMA_BYTES_MOST or sha256_hex(schema_json) != release.schema_sha256:
        raise ModelError("the head's schema is not the one that the release names")
    if len(head) > HEAD_BYTES_MOST or sha256_hex(head) != release.head_sha256:
        raise ModelError("the head is not the one that the release names")
    schema = read_schema(schema_json)
    return schema, load_head(schema, head)


def read_schema(schema_json: bytes) -> HeadSchema:
    """Read a head's schema; ModelError if it is none."""
    try:
        return HeadSchema.from_json(schema_json.decode())
    except UnicodeDecodeError as error:
        raise ModelError("the head's schema is not text") from error


def load_head(schema: HeadSchema, data: bytes) -> dict[str, Floats]:
    """Read a head file: exactly the schema's arrays, F32 or F16, finite, at most 1e4 in size; float32.

    Raises:
        ModelError: anything else.
    """
    arrays = {name: array.astype(np.float32) for name, array in load_arrays(schema.shapes, data, DTYPES).items()}
    check_arrays(schema, arrays)
    return arrays


def dump_head(schema: HeadSchema, arrays: Arrays) -> bytes:
    """Write a head file: the inverse of `load_head`, and always the same bytes for the same arrays."""
    check_arrays(schema, arrays)
    return dump_arrays({name: np.asarray(arrays[name], "<f4") for name in sorted(arrays)}, DTYPES)


def load_arrays(shapes: Shapes, data: bytes, dtypes: Mapping[str, np.dtype[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Read exactly the arrays of `shapes` from safetensors bytes, in one of `dtypes`, as views of `data`; -1 is any length.

    Raises:
        ModelError: the header is too long or no header, an array is missing, left over, of another shape or type, or the arrays
            don't fill the file one after the other.
    """
    header, body = _split(data)
    if set(header) != set(shapes):
        raise ModelError(f"the file holds the arrays {sorted(header)[:8]} instead of {sorted(shapes)}")
    arrays, spans = {}, [(0, 0), (len(body), len(body))]
    for name, shape in shapes.items():
        start, end, dtype, found = _entry(name, header[name], dtypes)
        fits = len(found) == len(shape) and all(wanted in (-1, size) for wanted, size in zip(shape, found, strict=True))
        if not fits or end - start != _count(found) * dtype.itemsize or not 0 <= start <= end <= len(body):
            raise ModelError(f"the file's {name} is not of the shape {shape}")
        spans.append((start, end))
        arrays[name] = np.frombuffer(body[start:end], dtype).reshape(found)
    if any(left[1] != right[0] for left, right in pairwise(sorted(spans))):
        raise ModelError("the file's arrays overlap, or leave bytes between them")
    return arrays


def dump_arrays(arrays: Mapping[str, npt.NDArray[Any]], dtypes: Mapping[str, np.dtype[Any]]) -> bytes:
    """Write arrays as safetensors bytes, in the mapping's order: the inverse of `load_arrays`."""
    names = {dtype: name for name, dtype in dtypes.items()}
    header, parts, at = {}, [], 0
    for name, array in arrays.items():
        part = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": names[array.dtype], "shape": array.shape, "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(HEADER_BYTES_MOST, len(data) - 8):
        raise ModelError("the file has no header that can be")
    try:
        header = json.loads(data[8 : 8 + size].decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ModelError("the file's header can't be read") from error
    if not isinstance(header, dict):
        raise ModelError("the file's header is no table")
    return header, memoryview(data)[8 + size :]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a table of pairs; a name that comes twice would mean one thing to one reader and another to the next."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ModelError("the file's header names something twice")
    return table


def _entry(name: str, entry: object, dtypes: Mapping[str, np.dtype[Any]]) -> tuple[int, int, np.dtype[Any], tuple[int, ...]]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"the file's entry for {name} is not one")
    shape, offsets = entry["shape"], entry["data_offsets"]
    numbers = (shape, offsets) if isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2 else ()
    if not numbers or any(type(number) is not int or not 0 <= number < 2**48 for part in numbers for number in part):
        raise ModelError(f"the file's {name} has no shape or place that can be")
    dtype = dtypes.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise ModelError(f"the file's {name} is of a type that is not taken; these are: {', '.join(dtypes)}")
    return offsets[0], offsets[1], dtype, tuple(shape)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
