"""Shamir's secret sharing of 32 bytes over the prime field of p = 2^256 + 297.

Share i (counted from 0) is the polynomial at x = i + 1, 33 bytes big-endian; the secret is its value at 0, the 32 bytes
read as one big-endian integer. Fewer than `threshold` shares say nothing at all about the secret. Python integers are not
constant time and are not erased: a device shares each secret once, in a round that it can't be made to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from earmark_shared.crypto.secrets import Entropy
from earmark_shared.errors import MalformedError, ProtocolError
from earmark_shared.round import SHARE_SIZE

PRIME = 2**256 + 297
SECRET_SIZE = 32


def split(secret: bytes | bytearray, threshold: int, count: int, entropy: Entropy) -> list[bytearray]:
    """Return `count` shares, any `threshold` of which give `secret` back.

    Raises:
        ProtocolError: the secret is not 32 bytes, or not 1 <= threshold <= count < 2^16.
    """
    if len(secret) != SECRET_SIZE or not 1 <= threshold <= count < 2**16:
        raise ProtocolError(f"can't share {len(secret)} bytes as {threshold} of {count}")
    coefficients = [int.from_bytes(secret, "big"), *(_below_prime(entropy) for _ in range(threshold - 1))]
    return [bytearray(_evaluate(coefficients, x).to_bytes(SHARE_SIZE, "big")) for x in range(1, count + 1)]


def combine(shares: Mapping[int, bytes | bytearray]) -> bytearray:
    """Return the secret of exactly these shares, index -> share; undoes `split`.

    Raises:
        MalformedError: a share is not a field element, or together they are nobody's 32 bytes.
    """
    weights = weights_at_zero(list(shares))
    return weighted(weights, list(shares.values()))


def weights_at_zero(indices: Sequence[int]) -> list[int]:
    """Return Lagrange's weight of each index for the value at 0; one set serves every secret shared alike."""
    points = [index + 1 for index in indices]
    weights = []
    for here in points:
        above, below = 1, 1
        for there in points:
            if there != here:
                above = above * there % PRIME
                below = below * (there - here) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights


def weighted(weights: Sequence[int], shares: Sequence[bytes | bytearray]) -> bytearray:
    """Return the secret from shares in the order of their weights.

    Raises:
        MalformedError: as `combine`.
    """
    value = sum(weight * element(share) for weight, share in zip(weights, shares, strict=True)) % PRIME
    if value >= 2 ** (8 * SECRET_SIZE):
        raise MalformedError("the shares don't fit together")
    return bytearray(value.to_bytes(SECRET_SIZE, "big"))


def element(share: bytes | bytearray) -> int:
    """Return the field element that a share is.

    Raises:
        MalformedError: it has a wrong size, or is not below the prime.
    """
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_SIZE or value >= PRIME:
        raise MalformedError("a share is not an element of the field")
    return value


def _below_prime(entropy: Entropy) -> int:
    """Draw uniformly below the prime: 257 of 264 bits, drawn again while too large (about every other time)."""
    while True:
        value = int.from_bytes(entropy(SHARE_SIZE), "big") >> 7
        if value < PRIME:
            return value


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
