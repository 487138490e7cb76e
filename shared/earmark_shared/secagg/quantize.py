"""Update <-> integers: clip to a norm, scale, round at random without bias; and back, from the opened sum to a mean.

The rounded vector's norm is bounded by Delta (Kairouz et al. 2021, distributed discrete Gaussian, section 4, with
beta = e^-1/2, so that sqrt(2 ln(1/beta)) = 1); a vector beyond it is rounded again.

    steps = quantize(update, plan, os.urandom)              # (d,) int32
    mean = dequantize(total, plan, count=len(survivors))    # (d,) float64
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from earmark_shared.crypto.keystream import SEED_SIZE, keystream
from earmark_shared.crypto.secrets import Entropy, draw, erase
from earmark_shared.errors import NormError
from earmark_shared.round import RoundPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDINGS_MOST = 64


def norm_bound(plan: RoundPlan) -> float:
    """Return Delta, the largest l2 norm of a quantized update, in integer steps."""
    bound, d = 2.0**plan.log2_scale_c, plan.d
    likely = bound**2 + d / 4 + bound + math.sqrt(d) / 2
    return math.sqrt(min(likely, (bound + math.sqrt(d)) ** 2))


def clip_to_norm(update: NDArray[np.floating], bound: float) -> NDArray[np.float64]:
    """Return `update` scaled down to l2 norm `bound` if it is longer.

    Raises:
        NormError: it holds a value that is not finite.
    """
    exact = np.asarray(update, dtype=np.float64)
    largest = float(np.max(np.abs(exact), initial=0.0))
    if not math.isfinite(largest):
        raise NormError("the update holds a value that is not finite")
    if largest == 0:
        return exact
    length = largest * float(np.linalg.norm(exact / largest))  # neither squares nor the sum can overflow
    return exact * (bound / length) if length > bound else exact


def quantize(update: NDArray[np.floating], plan: RoundPlan, entropy: Entropy) -> NDArray[np.int32]:
    """Return the update `(d,)` as integers `(d,) int32` with norm at most `norm_bound`; the mean over draws is exact.

    Raises:
        NormError: the update is not `(d,)`, not finite, or no rounding of it was short enough.
    """
    if update.shape != (plan.d,):
        raise NormError(f"the update has shape {update.shape}, the round's is ({plan.d},)")
    scaled = clip_to_norm(update, plan.clip_c) * plan.scale
    low = np.floor(scaled)
    chances = (scaled - low) * 2.0**32
    for _ in range(ROUNDINGS_MOST):
        steps = (low + (_uniform(plan.d, entropy) < chances)).astype(np.int64)
        if int(steps @ steps) <= norm_bound(plan) ** 2:
            return steps.astype(np.int32)
    raise NormError("no rounding of the update stays within its bound")


def dequantize(total: NDArray[np.integer], plan: RoundPlan, *, count: int) -> NDArray[np.float64]:
    """Return the mean update of `count` devices from their integer sum `(d,)`; undoes `quantize` up to rounding."""
    return total / (plan.scale * count)


def _uniform(size: int, entropy: Entropy) -> NDArray[np.uint32]:
    seed = draw(entropy, SEED_SIZE)
    words = keystream(seed, size)
    erase(seed)
    return words
