"""Seed -> ChaCha20 keystream (RFC 8439), as little-endian 32-bit words, and adding such streams to a vector.

The counter and the nonce are sixteen zero bytes; a seed is 32 bytes and makes one stream in its life. Streams are added a
block at a time, so that the block and its stream stay in the nearest cache.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from earmark_shared.errors import ProtocolError

SEED_SIZE = 32
Words = NDArray[np.uint32]
_BLOCK_WORDS = 16_384
_ZEROS = bytes(4 * _BLOCK_WORDS)


def keystream(seed: bytes | bytearray, size: int) -> Words:
    """Return the first `size` words of the seed's stream, `(size,) uint32`."""
    words = np.zeros(size, dtype="<u4")
    add_keystreams(words, [seed])
    return words


def add_keystreams(words: Words, seeds: Iterable[bytes | bytearray]) -> None:
    """Add the stream of every seed to `words` modulo 2^32, in place.

    Raises:
        ProtocolError: a seed is not 32 bytes, or the vector not contiguous little-endian uint32.
    """
    _combine(words, seeds, np.add)


def subtract_keystreams(words: Words, seeds: Iterable[bytes | bytearray]) -> None:
    """Subtract the stream of every seed from `words` modulo 2^32, in place; undoes `add_keystreams`.

    Raises:
        ProtocolError: as `add_keystreams`.
    """
    _combine(words, seeds, np.subtract)


def _combine(words: Words, seeds: Iterable[bytes | bytearray], operation: np.ufunc) -> None:
    if words.dtype != np.dtype("<u4") or words.ndim != 1 or not words.flags.c_contiguous:
        raise ProtocolError("a mask is added to one contiguous vector of little-endian uint32")
    stream = bytearray(len(_ZEROS))
    stream_words = np.frombuffer(stream, dtype="<u4")
    blocks = [words[start : start + _BLOCK_WORDS] for start in range(0, len(words), _BLOCK_WORDS)]
    for seed in seeds:
        if len(seed) != SEED_SIZE:
            raise ProtocolError(f"a seed is {SEED_SIZE} bytes, not {len(seed)}")
        cipher = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
        for block in blocks:
            cipher.update_into(_ZEROS[: 4 * len(block)], stream)
            operation(block, stream_words[: len(block)], out=block)
    stream[:] = _ZEROS
