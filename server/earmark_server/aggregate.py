"""Opened sums become a candidate: integers back to a mean update, robust over many shards, added to the head.

    mean = aggregate(sums, plan)                       # (d,) float64
    arrays = apply_update(schema, arrays, mean)

With five shards or more each coordinate's largest and smallest fifth are left out, so that one poisoned shard moves nothing far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from earmark_shared.errors import CountError
from earmark_shared.head import HeadSchema, flatten, unflatten
from earmark_shared.secagg.quantize import dequantize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from earmark_shared.head import Arrays, Floats
    from earmark_shared.round import RoundPlan
    from earmark_shared.secagg.server import ShardSum

TRIMMED_FROM = 5
"""Shards from which the mean is trimmed."""
NORM_OF_MEDIAN = 3.0
"""A shard whose mean is longer than this many times the median shard's is left out; a median says something from three shards on."""


def aggregate(sums: Sequence[ShardSum], plan: RoundPlan) -> NDArray[np.float64]:
    """Return the mean update `(d,)` of all devices in `sums`, or from five shards on the trimmed mean of the shards' means.

    Raises:
        CountError: there is no sum.
    """
    if not sums:
        raise CountError("no shard's sum was opened")
    counts = np.array([len(each.survivors) for each in sums], dtype=np.float64)
    means = np.stack([dequantize(each.steps, plan, count=len(each.survivors)) for each in sums])
    kept = _near_the_median(means)
    if kept.sum() >= TRIMMED_FROM:
        return trimmed_mean(means[kept])
    return np.asarray(np.average(means[kept], axis=0, weights=counts[kept]), dtype=np.float64)


def trimmed_mean(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `(d,)`: of `(shards, d)` each coordinate's mean without its largest and smallest fifth."""
    cut = len(means) // TRIMMED_FROM
    ordered = np.sort(means, axis=0)
    return np.asarray(ordered[cut : len(means) - cut].mean(axis=0), dtype=np.float64)


def apply_update(schema: HeadSchema, arrays: Arrays, mean: NDArray[np.float64], *, rate: float = 1.0) -> dict[str, Floats]:
    """Return the head moved by `rate` times the mean update `(d,)`.

    Raises:
        ModelError: the result holds a value that is no weight.
    """
    moved = flatten(schema, arrays).astype(np.float64) + rate * mean
    return unflatten(schema, moved.astype(np.float32), arrays)


def _near_the_median(means: NDArray[np.float64]) -> NDArray[np.bool_]:
    lengths = np.linalg.norm(means, axis=1)
    if len(means) < 3:
        return np.ones(len(means), dtype=np.bool_)
    return np.asarray(lengths <= NORM_OF_MEDIAN * np.median(lengths), dtype=np.bool_)
