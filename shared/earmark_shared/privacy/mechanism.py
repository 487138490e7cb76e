"""How one record's or one device's say is bounded, drawn and drowned in noise.

Record level (DP-SGD): a record is one clip. `poisson_sample` picks clips independently; `grid_sum` scales each clip's gradient
to the clipping bound C and cuts it toward zero onto a grid of `C * 2^-20`, so that from there on sums are exact integers whose
change, when one clip comes or goes, is at most `2^20` steps = C (no float rounding can add to it: Mironov 2012);
`add_grid_noise` adds the discrete Gaussian on the same grid.

A gradient that is not finite counts as zero: an abort would tell whether a clip is there.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from earmark_shared.errors import NoiseError
from earmark_shared.privacy.sampler import Entropy, Integers, discrete_gaussian, uniform_words

GRID_STEPS = 1 << 20
"""Steps of the grid in one clipping bound."""
SLACK_STEPS = 16
"""Noise is drawn as if a clip moved the sum by this many steps more: covers 256 coordinates of other clips cut one step off."""
MIN_RECORDS = 64
"""A device with fewer clips does not train: its sampling rate would be too high."""
LAB_MIN_RECORDS = 16
"""The same in a home that joined with `--lab`."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def clip_to_norm(vector: npt.ArrayLike, clipping_bound: float) -> Doubles:
    """Scale `(d,)` down to an l2 norm of at most `clipping_bound`; a shorter vector comes back unchanged, as float64.

    Raises:
        NoiseError: a coordinate is not finite, or the bound is not positive.
    """
    values = np.asarray(vector, dtype=np.float64)
    _require_positive("clipping bound", clipping_bound)
    if not np.isfinite(values).all():
        raise NoiseError("an update with a coordinate that is not a number is never sent")
    peak = float(np.abs(values).max(initial=0.0))
    if peak == 0.0:
        return values.copy()
    norm = peak * float(np.linalg.norm(values / peak))
    # Two ulps a coordinate of float64 error, far below the 1e-12 that is given away here.
    return values * min(1.0, clipping_bound * (1.0 - 1e-12) / norm) if norm > clipping_bound else values.copy()


def grid_sum(gradients: npt.NDArray[np.floating], clipping_bound: float) -> Integers:
    """Sum `(records, d)` gradients, each clipped to `clipping_bound`, as `(d,) int64` in steps of `clipping_bound / GRID_STEPS`."""
    # Whole numbers of at most 2^20 each: float64 adds 2^33 of them without rounding.
    return np.asarray(_clip_to_grid(gradients, clipping_bound).sum(axis=0)).astype(np.int64)


def add_grid_noise(total: Integers, clipping_bound: float, noise_multiplier: float, entropy: Entropy) -> Doubles:
    """Return `(d,) float64`: the sum of `grid_sum` plus noise of `noise_multiplier * clipping_bound`, back in the gradient's unit."""
    _require_positive("noise multiplier", noise_multiplier)
    noise = discrete_gaussian(noise_multiplier * (GRID_STEPS + SLACK_STEPS), total.size, entropy)
    return np.asarray((total + noise) * (clipping_bound / GRID_STEPS), dtype=np.float64)


def poisson_sample(records: int, sampling_probability: float, entropy: Entropy) -> Integers:
    """Return the indices of the records drawn, each with `sampling_probability` on its own; often another number, at times none.

    Raises:
        NoiseError: the probability is not in (0, 1].
    """
    if not 0.0 < sampling_probability <= 1.0:
        raise NoiseError(f"a sampling probability of {sampling_probability} is not one")
    # Rounded down to a multiple of 2^-64, compared as integers: never likelier than was accounted for.
    threshold = min(int(math.ldexp(sampling_probability, 64)), (1 << 64) - 1)
    words = uniform_words(records, entropy)
    return np.flatnonzero(words < np.uint64(threshold)).astype(np.int64)


def public_bucket(records: int, *, is_lab: bool = False) -> int:
    """Return `records` rounded down to a power of two: all that the outside may learn about how much a device holds.

    Raises:
        NoiseError: fewer than MIN_RECORDS, or LAB_MIN_RECORDS in a lab home.
    """
    least = LAB_MIN_RECORDS if is_lab else MIN_RECORDS
    if records < least:
        raise NoiseError(f"{records} clips are too few to learn from in private", hint=f"training starts at {least} clips")
    return 1 << (records.bit_length() - 1)


def _clip_to_grid(gradients: npt.NDArray[np.floating], clipping_bound: float) -> Doubles:
    """Return `(records, d) float64` rows of whole numbers, each of norm at most GRID_STEPS, checked exactly (below 2^53)."""
    _require_positive("clipping bound", clipping_bound)
    rows = np.array(gradients, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("rd,rd->r", rows, rows))
    # A norm that is no number marks a row with a coordinate that is none, or one beyond 1e150: both count as zero.
    rows[~np.isfinite(norms)] = 0.0
    norms[~np.isfinite(norms)] = 0.0
    rows *= (GRID_STEPS / np.maximum(norms, clipping_bound))[:, None]
    np.trunc(rows, out=rows)
    while (long := np.einsum("rd,rd->r", rows, rows) > float(GRID_STEPS**2)).any():
        rows[long] -= np.sign(rows[long])
    return rows


def _require_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise NoiseError(f"a {name} of {value} protects nothing")
