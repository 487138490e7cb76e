"""Framed hashes and key derivation: every byte that is hashed or derived from goes through one framing.

`frame` gives each part its length, so that no two lists of parts can ever be the same bytes; `label` keeps one use apart
from every other. Integers are big-endian and fixed width.

    digest("earmark/sa1/commit", t1, u16(3), seed)         # 32 bytes
"""

from __future__ import annotations

import hashlib
import struct

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HASH_SIZE = 32
KEY_SIZE = 32


def u16(number: int) -> bytes:
    """Encode an index."""
    return number.to_bytes(2, "big")


def u32(number: int) -> bytes:
    """Encode a count."""
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    """Encode a version, or a time in seconds."""
    return number.to_bytes(8, "big")


def f64(number: float) -> bytes:
    """Encode a real number as IEEE-754 binary64."""
    return struct.pack(">d", number)


def frame(label: str, *parts: bytes | bytearray) -> bytes:
    """Return `u16(len(label)) || label || u32(len(part)) || part ...`."""
    name = label.encode("ascii")
    return b"".join([u16(len(name)), name, *(piece for part in parts for piece in (u32(len(part)), part))])


def digest(label: str, *parts: bytes | bytearray) -> bytes:
    """Return the SHA-256 of the framed parts, 32 bytes (H in the design)."""
    return hashlib.sha256(frame(label, *parts)).digest()


def derive_key(secret: bytes | bytearray, salt: bytes, label: str, *parts: bytes) -> bytearray:
    """Return a 32-byte key, HKDF-SHA256 with the framed parts as info (KDF in the design)."""
    key = bytearray(KEY_SIZE)
    HKDF(SHA256(), KEY_SIZE, salt, frame(label, *parts)).derive_into(secret, key)
    return key
