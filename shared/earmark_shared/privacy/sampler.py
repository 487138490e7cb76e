"""Randomness for privacy: uniform words and the discrete Gaussian, in integers, from a cryptographic stream.

Rules: no float is drawn, compared or added on the way from entropy to a sample, so there are no low bits to snap to. Entropy
is passed in (`os.urandom` in the product) and asked for again at every call: two calls, or a parent and its fork, share nothing.

The discrete Gaussian is `P(k) ~ exp(-k^2 / 2 sigma^2)` over the integers (Canonne, Kamath, Steinke 2020). A table of cumulative
thresholds of 128 bits is searched by the upper 64; the lower 64 are drawn only on a tie. A sigma too large for a table is
split as `k = fine + spread * coarse`; with `sigma_fine = 4 * spread` the sum is off from the discrete Gaussian by a factor within
`1 +- 4 exp(-2 pi^2 * 16 / (1 + 16 / sigma_coarse^2))`, below 2^-400 (as in Micciancio and Walter 2017).

    discrete_gaussian(1.2 * 2**20, 25_000, os.urandom)    # (25000,) int64
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from earmark_shared.crypto.keystream import SEED_SIZE, keystream
from earmark_shared.errors import NoiseError

Entropy = Callable[[int], bytes]
"""Give this many unpredictable bytes; `os.urandom` in the product."""
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

MIN_STDDEV = 0.125
MAX_STDDEV = 2.0**24
TABLE_STDDEV = 2.0**11
"""Up to here one table is searched; above, two samples are combined."""
DISTANCE_PER_SAMPLE = 2.0**-100
"""Total variation distance from the exact distribution: two tables of at most 2^18 thresholds, each off by 2^-128, and the cut tails."""

_FIXED = 256
_THRESHOLD_BITS = 128
_TAIL_BITS = 132
_WORD = (1 << 64) - 1
_SMOOTHING = 4


@dataclass(frozen=True)
class _Table:
    """Cumulative thresholds of the values `lowest, lowest + 1, ...`, each `upper * 2^64 + lower`, ascending."""

    upper: Words
    lower: Words
    lowest: int


def uniform_words(count: int, entropy: Entropy) -> Words:
    """Return `(count,) uint64`, uniform: a ChaCha20 stream under a seed of its own from `entropy`."""
    seed = entropy(SEED_SIZE)
    if len(seed) != SEED_SIZE:
        raise NoiseError(f"entropy gave {len(seed)} bytes instead of {SEED_SIZE}")
    return keystream(seed, 2 * count).view("<u8").astype(np.uint64, copy=False)


def discrete_gaussian(noise_stddev: float, size: int, entropy: Entropy) -> Integers:
    """Return `(size,) int64` independent samples of the discrete Gaussian of parameter `noise_stddev` (sigma, in integer steps).

    Raises:
        NoiseError: sigma is not a number in [MIN_STDDEV, MAX_STDDEV], or entropy falls short.
    """
    if not MIN_STDDEV <= noise_stddev <= MAX_STDDEV:
        raise NoiseError(f"noise of standard deviation {noise_stddev} can't be drawn", hint=f"{MIN_STDDEV} to {MAX_STDDEV:.0f}")
    if noise_stddev <= TABLE_STDDEV:
        return _draw(_table(noise_stddev), size, entropy)
    spread, fine, coarse = _split(noise_stddev)
    return _draw(_table(fine), size, entropy) + spread * _draw(_table(coarse), size, entropy)


def _split(noise_stddev: float) -> tuple[int, float, float]:
    """Return `(spread, fine, coarse)` with `fine^2 + spread^2 coarse^2 = noise_stddev^2` and tables of similar size."""
    spread = 1 << round(math.log2(noise_stddev / _SMOOTHING) / 2)
    fine = float(_SMOOTHING * spread)
    return spread, fine, math.sqrt((noise_stddev - fine) * (noise_stddev + fine)) / spread


def _draw(table: _Table, size: int, entropy: Entropy) -> Integers:
    words = uniform_words(size, entropy)
    positions = np.searchsorted(table.upper, words, side="right")
    tied = np.flatnonzero(table.upper[np.maximum(positions, 1) - 1] == words)
    if tied.size:
        for place, low in zip(tied.tolist(), uniform_words(tied.size, entropy), strict=True):
            first = int(np.searchsorted(table.upper, words[place], side="left"))
            run = table.lower[first : positions[place]]
            positions[place] = first + int(np.searchsorted(run, low, side="right"))
    return positions.astype(np.int64) + table.lowest


@lru_cache(maxsize=8)
def _table(noise_stddev: float) -> _Table:
    """Build the thresholds in 256-bit fixed point; the weights follow from each other by `exp(-(2k+1) / 2 sigma^2)`."""
    weights = _weights(noise_stddev)
    two_sided = weights[:0:-1] + weights
    total, running, thresholds = sum(two_sided), 0, []
    for weight in two_sided[:-1]:
        running += weight
        thresholds.append((running << _THRESHOLD_BITS) // total)
    upper = np.array([threshold >> 64 for threshold in thresholds], dtype=np.uint64)
    lower = np.array([threshold & _WORD for threshold in thresholds], dtype=np.uint64)
    return _Table(upper=upper, lower=lower, lowest=1 - len(weights))


def _weights(noise_stddev: float) -> list[int]:
    """Return the fixed-point weights of 0, 1, 2, ... until what is left is below 2^-132 of one."""
    with localcontext() as context:
        context.prec = 120
        variance = Decimal(noise_stddev) ** 2
        ratio = int((-1 / (2 * variance)).exp() * (1 << _FIXED))
        shrink = int((-1 / variance).exp() * (1 << _FIXED))
    weight, weights = 1 << _FIXED, []
    while weight >> (_FIXED - _TAIL_BITS):
        weights.append(weight)
        weight = (weight * ratio) >> _FIXED
        ratio = (ratio * shrink) >> _FIXED
    return weights
