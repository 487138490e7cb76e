"""Files that mean harm: every header field out of range, every container cut, flipped and spliced."""

from __future__ import annotations

import numpy as np
from tests.soundmaker import CONTAINERS, sound_bytes, wav_bytes

RATES = (0, 1, 7, 7_999, 192_001, 2**31 - 1, 2**31, 2**32 - 1)
CHANNELS = (0, 9, 255, 256, 32_767, 65_535)
BITS = (0, 1, 7, 9, 15, 31, 33, 64, 65_535)
CODES = (0, 2, 3, 6, 7, 17, 49, 80, 85, 0x161, 0xFFFE, 0xFFFF)
LENGTHS = (1, 0x7FFFFFFE, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def headers():
    """(name, bytes) of WAV files whose header lies or asks for the impossible."""
    payload = np.random.default_rng(0).integers(-9_000, 9_000, 12_000, dtype=np.int16).tobytes()
    for rate_hz in RATES:
        yield f"rate-{rate_hz}", wav_bytes(payload, rate_hz=rate_hz)
    for channels in CHANNELS:
        yield f"channels-{channels}", wav_bytes(payload, channels=channels)
    for bits in BITS:
        yield f"bits-{bits}", wav_bytes(payload, bits=bits)
    for code in CODES:
        yield f"code-{code}", wav_bytes(payload, code=code)
    for length in LENGTHS:
        yield f"length-{length}", wav_bytes(payload, data_length=length, riff_length=length)


def samples():
    """(name, bytes) of float WAV files with samples that aren't sound."""
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf), ("huge", 1e30), ("int16-range", 32_767.0)):
        for place in (0, 5_999, slice(None)):
            values = np.full(6_000, 0.1, "<f4")
            values[place] = value
            yield f"{name}-{place if isinstance(place, int) else 'all'}", wav_bytes(values.tobytes(), bits=32, code=3)
    doubles = np.full(6_000, 1e308, "<f8")
    yield "double", wav_bytes(doubles.tobytes(), bits=64, code=3)


def fragments():
    """(name, bytes) of files that are little more than a beginning."""
    for magic in (
        b"RIFF\0\0\0\0WAVE",
        b"RF64\0\0\0\0WAVE",
        b"fLaC",
        b"OggS",
        b"ID3",
        b"\xff\xfb\x90\x00",
        b"FORM\0\0\0\0AIFF",
        b"FORM\0\0\0\0AIFC",
    ):
        for name, rest in (("bare", b""), ("zeros", bytes(5_000)), ("ones", b"\xff" * 5_000), ("again", magic * 400)):
            yield f"{magic[:3].hex()}-{magic[-4:].hex()}-{name}", magic + rest
    noise = np.random.default_rng(1).bytes(20_000)
    yield "random", noise
    yield "empty", b""
    yield "one-byte", b"R"


def mutants(folder, each):
    """(name, bytes): `each` cuts, flips, overwritten runs and splices of every container."""
    random = np.random.default_rng(2)
    seeds = {container: sound_bytes(folder, container) for container in CONTAINERS}
    for container, data in seeds.items():
        for k in range(each):
            place = int(random.integers(1, len(data)))
            yield f"{container}-cut-{k}", data[:place]
            flipped = bytearray(data)
            for _ in range(1 + k % 8):
                near = int(random.integers(0, 200 if k % 2 else len(data))) % len(data)
                flipped[near] ^= 1 << int(random.integers(0, 8))
            yield f"{container}-flip-{k}", bytes(flipped)
            run = bytearray(data)
            start = int(random.integers(0, len(data)))
            run[start : start + 40] = random.bytes(40)
            yield f"{container}-run-{k}", bytes(run)
            other = seeds[list(seeds)[k % len(seeds)]]
            yield f"{container}-splice-{k}", data[:place] + other[len(other) // 2 :]


def whole(folder, each=8):
    """All of it: at least 300 files."""
    yield from headers()
    yield from samples()
    yield from fragments()
    yield from mutants(folder, each)
