"""Head files that are not what a head may be: refused within a second and without memory, before anything is computed with them."""

import json
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load, save
from tests.support.releases import SCHEMA, some_head

from earmark_shared import release
from earmark_shared.errors import ModelError
from earmark_shared.head import NAMES
from earmark_shared.release import dump_head, load_head

ARRAYS = some_head(1)
GOOD = dump_head(SCHEMA, ARRAYS)


def parts(data=GOOD):
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def whole(header, body, *, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def changed(name="up", body=None, **entry):
    header, rest = parts()
    header[name] |= entry
    return whole(header, rest if body is None else body)


def with_value(value):
    return save({name: np.where(array == array.flat[0], np.float32(value), array) for name, array in ARRAYS.items()})


class Bomb:
    def __reduce__(self):
        return (print, ("a pickle was opened",))


def without(name):
    return save({other: array for other, array in ARRAYS.items() if other != name})


def overlapping():
    header, body = parts()
    header["up"]["data_offsets"] = [start - 4 for start in header["up"]["data_offsets"]]
    return whole(header, body)


def with_a_gap():
    header, body = parts()
    last = max(header, key=lambda name: header[name]["data_offsets"])
    header[last]["data_offsets"] = [place + 4 for place in header[last]["data_offsets"]]
    return whole(header, body + bytes(4))


def twice():
    header, body = parts()
    return whole((json.dumps(header)[:-1] + ', "up": ' + json.dumps(header["up"]) + "}").encode(), body)


def same_place():
    header, body = parts()
    header["down"]["data_offsets"] = [0, 48]
    header["up"]["data_offsets"] = [0, 32]
    return whole(header, body)


HOSTILE = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "no header": struct.pack("<Q", 0) + b"",
    "a header longer than the file": whole(b"{}", b"", size=1 << 40),
    "the longest length": whole(b"{}", b"", size=2**64 - 1),
    "a huge header": whole(b'{"a":"' + b"x" * (2 << 20) + b'"}', b""),
    "a deep header": whole(b"[" * 500_000 + b"]" * 500_000, b""),
    "many names": whole({f"n{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(10_000)}, b""),
    "a number without end": whole(b'{"up": ' + b"9" * 1_000_000 + b"}", b""),
    "not JSON": whole(b"\xff" * 64, b""),
    "a header that is a list": whole(b"[]", b""),
    "a name twice": twice(),
    "an extra array": save(ARRAYS | {"sideways": np.zeros(3, np.float32)}),
    "metadata": save(dict(ARRAYS), metadata={"by": "somebody"}),
    "an array missing": without("bias"),
    "overlapping arrays": overlapping(),
    "two arrays in one place": same_place(),
    "a gap between arrays": with_a_gap(),
    "bytes behind the arrays": GOOD + bytes(8),
    "half of the file": GOOD[: len(GOOD) // 2],
    "offsets beyond the file": changed(data_offsets=[0, 2**40]),
    "offsets beyond numbers": changed(data_offsets=[2**63, 2**63 + 32]),
    "offsets the wrong way round": changed(data_offsets=[32, 0]),
    "negative offsets": changed(data_offsets=[-32, 0]),
    "offsets that are no numbers": changed(data_offsets=["0", "32"]),
    "true for an offset": changed(data_offsets=[False, True]),
    "one offset": changed(data_offsets=[0]),
    "a shape transposed": changed(shape=[2, 4]),
    "a shape that overflows": changed(shape=[2**40, 2**40]),
    "a negative shape": changed(shape=[-4, -2]),
    "a shape of fractions": changed(shape=[4.0, 2.0]),
    "F64": save({name: array.astype(np.float64) for name, array in ARRAYS.items()}),
    "I32": save({name: array.view(np.int32) for name, array in ARRAYS.items()}),
    "BF16": changed(dtype="BF16"),
    "a dtype that is a list": changed(dtype=["F32"]),
    "F16 on F32's bytes": changed(dtype="F16"),
    "an entry that is a list": whole(parts()[0] | {"up": []}, parts()[1]),
    "an entry with more in it": changed(code="import os"),
    "not a number": with_value(np.nan),
    "infinity": with_value(-np.inf),
    "a weight too large": with_value(20_000.0),
    "a pickle": pickle.dumps({"up": Bomb()}),
    "a zip": b"PK\x03\x04" + bytes(200),
    "zeros": bytes(1 << 20),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_it_is_refused_fast_and_small(data):
    tracemalloc.start()
    started_s = time.process_time()
    with pytest.raises(ModelError):
        load_head(SCHEMA, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - started_s < 1.0
    assert peak < 64 << 20


def test_a_pickle_is_not_even_looked_into(capsys):
    with pytest.raises(ModelError):
        load_head(SCHEMA, pickle.dumps(Bomb()))
    assert capsys.readouterr().out == ""
    pickle.loads(pickle.dumps(Bomb()))  # the control: whoever does look into it runs it  # noqa: S301
    assert "opened" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["not a number", "infinity", "a weight too large"])
def test_without_the_check_of_values_such_a_head_is_loaded(kind, monkeypatch):
    monkeypatch.setattr(release, "check_arrays", lambda *_: None)
    assert set(load_head(SCHEMA, HOSTILE[kind])) == set(NAMES)


def test_without_the_check_of_places_arrays_share_bytes(monkeypatch):
    monkeypatch.setattr(release, "pairwise", lambda _: ())
    monkeypatch.setattr(release, "check_arrays", lambda *_: None)
    assert set(load_head(SCHEMA, HOSTILE["overlapping arrays"])) == set(NAMES)


def test_a_change_of_any_byte_is_refused_or_harmless():
    """Every byte of the header and every 7th of the rest, each to three other values: an error of ours, or a head of the schema."""
    header = 8 + int.from_bytes(GOOD[:8], "little")
    for place in [*range(header), *range(header, len(GOOD), 7)]:
        for flip in (1, 0x20, 0x80):
            data = bytearray(GOOD)
            data[place] ^= flip
            try:
                arrays = load_head(SCHEMA, bytes(data))
            except ModelError:
                continue
            assert {name: array.shape for name, array in arrays.items()} == SCHEMA.shapes


def test_what_is_written_is_read_again_and_is_safetensors():
    for name, array in load_head(SCHEMA, GOOD).items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        np.testing.assert_array_equal(load(GOOD)[name], array)
    assert dump_head(SCHEMA, dict(reversed(ARRAYS.items()))) == GOOD


def test_halves_are_taken_too():
    halves = {name: array.astype(np.float16) for name, array in ARRAYS.items()}
    for name, array in load_head(SCHEMA, save(halves)).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, halves[name].astype(np.float32))
