"""Where secrets come from and how they go: bytes of a given entropy source, held in bytearrays, overwritten after use.

Python may have copied what passed through an `int` or `bytes`; those copies live until the interpreter reuses their memory.
"""

from __future__ import annotations

from collections.abc import Callable

from earmark_shared.errors import ProtocolError

Entropy = Callable[[int], bytes]
"""A source of secret bytes: `os.urandom` in a program, a counted stream in a test."""


def draw(entropy: Entropy, size: int) -> bytearray:
    """Draw `size` secret bytes.

    Raises:
        ProtocolError: the source gave fewer or more.
    """
    secret = bytearray(entropy(size))
    if len(secret) != size:
        raise ProtocolError(f"the entropy source gave {len(secret)} bytes instead of {size}")
    return secret


def erase(*secrets: bytearray) -> None:
    """Overwrite every secret with zeros, in place."""
    for secret in secrets:
        secret[:] = bytes(len(secret))
