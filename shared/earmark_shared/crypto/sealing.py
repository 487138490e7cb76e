"""Sealed bytes: ChaCha20-Poly1305 under a key that is used once, bound to its context.

The nonce is zero because no key ever seals two messages: a key is derived for one box of one attempt of one round.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from earmark_shared.errors import BoxError

_NONCE = bytes(12)


def seal_once(key: bytes | bytearray, plaintext: bytes | bytearray, context: bytes) -> bytes:
    """Encrypt and authenticate `plaintext`; 16 bytes longer. Requires: a key that seals nothing else."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, context)


def open_sealed(key: bytes | bytearray, sealed: bytes, context: bytes) -> bytearray:
    """Return what was sealed under the same key and context.

    Raises:
        BoxError: it was changed, or meant for somebody else.
    """
    try:
        return bytearray(ChaCha20Poly1305(key).decrypt(_NONCE, sealed, context))
    except (InvalidTag, ValueError) as error:
        raise BoxError("a sealed share does not open") from error
