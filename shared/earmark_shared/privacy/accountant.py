"""What was done, as frozen records, and what it costs: epsilon at a delta.

Two questions are kept apart, each with its own neighbours and its own delta:

* record level: two devices' libraries differ in that one *clip* (all its segments) is there or not (add or remove one);
* device level: two cohorts differ in that one *device* takes part or sends zeros (add or remove one).

The arithmetic is `dp_accounting`'s privacy loss distributions, discretized at 1e-3 and rounded against us, so that what is reported
is an upper bound; for events without sampling it is never below the closed form (Balle and Wang 2018). What the samplers fall
short of the exact distribution is charged to delta as `(1 + e^epsilon)` times the distance.

    record_epsilon((SampledGaussian(noise_multiplier=1.2, sampling_probability=0.1, steps=20),), delta=1e-5)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from earmark_shared.errors import NoiseError
from earmark_shared.privacy.sampler import DISTANCE_PER_SAMPLE

RECORD_DELTA = 1e-5
DEVICE_DELTA = 1e-6
MAX_DIMENSIONS = 4_000_000
"""Coordinates of the longest vector a device agrees to; the samplers' shortfall is charged as if every one were this long."""
INTERVAL = 1e-3
SURE_OF_INTEGERS = 4.0
"""Below this standard deviation in integer steps only the bound that is proven for integers (concentrated DP) is used."""


@dataclass(frozen=True)
class SampledGaussian:
    """`steps` sums over Poisson-sampled clips, each clip's part at most C long, noise of `noise_multiplier * C` on each sum."""

    noise_multiplier: float
    sampling_probability: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse what has no meaning, so that no accountant sees it."""
        _require_noise(self.noise_multiplier)
        if not 0.0 < self.sampling_probability <= 1.0:
            raise NoiseError(f"a sampling probability of {self.sampling_probability} is not one")
        if self.steps < 1:
            raise NoiseError(f"{self.steps} steps are not a number of steps")


@dataclass(frozen=True)
class DeviceGaussian:
    """One opened sum with noise of `noise_multiplier` times the longest device vector; nothing is gained from who was invited."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        """Refuse what has no meaning, so that no accountant sees it."""
        _require_noise(self.noise_multiplier)


def record_epsilon(events: Iterable[SampledGaussian], *, delta: float = RECORD_DELTA) -> float:
    """Return epsilon for one clip (add or remove) after all `events`; 0 for none, infinity when `delta` can't pay for them."""
    groups: Counter[tuple[float, float]] = Counter()
    for event in events:
        groups[event.noise_multiplier, event.sampling_probability] += event.steps
    return _with_shortfall(groups, delta)


def device_epsilon(events: Iterable[DeviceGaussian], *, delta: float = DEVICE_DELTA) -> float:
    """Return epsilon for one device (add or remove) after all `events`; 0 for none, infinity when `delta` can't pay for them."""
    return _with_shortfall(Counter((event.noise_multiplier, 1.0) for event in events), delta)


def device_noise_multiplier(
    noise_stddev: float, sensitivity: float, *, contributors: int, colluders: int, dimensions: int
) -> float:
    """Return the noise multiplier that may be claimed for a sum of discrete Gaussians, one of `noise_stddev` from each device.

    `noise_stddev` and `sensitivity` (the longest vector, l2) are in integer steps. `contributors` is how many uploads are
    certainly in the sum (the threshold t); `colluders` of them take their own noise out again. A sum of discrete Gaussians is
    not one: the loss is counted by Theorem 1 of Kairouz, Liu, Steinke 2021 (both of its bounds, the worse of the two). Below
    SURE_OF_INTEGERS the multiplier is lowered until the Gaussian's epsilon covers what concentrated DP proves.

    Raises:
        NoiseError: nobody honest contributes, or a value is not positive.
    """
    honest = contributors - colluders
    _require_noise(noise_stddev)
    if honest < 1 or dimensions < 1 or not 0.0 < sensitivity < math.inf:
        raise NoiseError(f"noise of {honest} honest devices over {dimensions} coordinates protects nothing")
    exponent = -2.0 * (math.pi * noise_stddev) ** 2
    tau = 10.0 * math.fsum(math.exp(exponent * k / (k + 1)) for k in range(1, honest))
    plain = sensitivity / (math.sqrt(honest) * noise_stddev)
    concentrated = max(math.sqrt(plain**2 + tau * dimensions / 2.0), plain + tau * math.sqrt(dimensions))
    multiplier = 1.0 / concentrated
    return multiplier if noise_stddev >= SURE_OF_INTEGERS else _covering(multiplier)


def closed_form_epsilon(noise_multiplier: float, delta: float) -> float:
    """Return the exact epsilon of one Gaussian sum without sampling (Balle and Wang 2018, Theorem 8)."""
    low, high = 0.0, 1.0
    while _closed_form_delta(noise_multiplier, high) > delta:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _closed_form_delta(noise_multiplier, middle) > delta else (low, middle)
    return high


def _with_shortfall(groups: Counter[tuple[float, float]], delta: float) -> float:
    """Find the epsilon whose own `(1 + e^epsilon) * distance` still fits into `delta`."""
    if not 0.0 < delta < 1.0:
        raise NoiseError(f"a delta of {delta} is not a probability")
    if not groups:
        return 0.0
    distance = sum(groups.values()) * MAX_DIMENSIONS * DISTANCE_PER_SAMPLE
    spent, known = -1.0, _epsilon(groups, delta)
    while known > spent:
        spent = known
        left = delta - (1.0 + math.exp(min(spent, 700.0))) * distance
        if left <= 0.0:
            return math.inf
        # What is charged is 2^-60 or so: below a millionth of delta the answer can't move by as much as the discretization.
        if delta - left > 1e-6 * delta:
            known = _epsilon(groups, left)
    return known


def _epsilon(groups: Counter[tuple[float, float]], delta: float) -> float:
    import dp_accounting  # type: ignore[import-untyped]  # noqa: PLC0415  1.7 s: only who spends privacy pays it
    from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]  # noqa: PLC0415

    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=INTERVAL)
    for (noise_multiplier, probability), count in sorted(groups.items()):
        gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
        accountant.compose(gaussian if probability == 1.0 else dp_accounting.PoissonSampledDpEvent(probability, gaussian), count)
    known = float(accountant.get_epsilon(delta))
    if all(probability == 1.0 for _, probability in groups):
        together = math.fsum(count / noise_multiplier**2 for (noise_multiplier, _), count in groups.items())
        known = max(known, closed_form_epsilon(1.0 / math.sqrt(together), delta))
    return known


def _covering(multiplier: float) -> float:
    """Lower `multiplier` until the Gaussian's epsilon at DEVICE_DELTA is that of `1 / (2 multiplier^2)`-concentrated DP."""
    rho = 1.0 / (2.0 * multiplier**2)
    proven = rho + 2.0 * math.sqrt(rho * -math.log(DEVICE_DELTA))
    low, high = multiplier / 16.0, multiplier
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if closed_form_epsilon(middle, DEVICE_DELTA) > proven else (low, middle)
    return low


def _closed_form_delta(noise_multiplier: float, epsilon: float) -> float:
    half, shift = 0.5 / noise_multiplier, epsilon * noise_multiplier
    below = _normal_tail(shift + half)
    # e^epsilon times a tail, through logarithms: the factor alone overflows long before the product does.
    return _normal_tail(shift - half) - (math.exp(min(epsilon + math.log(below), 0.0)) if below > 0.0 else 0.0)


def _normal_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2.0))


def _require_noise(noise: float) -> None:
    if not 0.0 < noise < math.inf:
        raise NoiseError(f"noise of {noise} protects nothing")
