"""What one attempt of a round holds: its secrets, and the update that outlives it into the one retry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from earmark_shared.crypto.exchange import ExchangeKey
from earmark_shared.crypto.secrets import Entropy, draw, erase
from earmark_shared.errors import NormError, PhaseError
from earmark_shared.secagg.quantize import norm_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from earmark_shared.round import RoundPlan

DrawNoise = Callable[[float, int], "NDArray[np.int64]"]
"""Noise of a standard deviation in integer steps and a size -> `(size,) int64`."""
ATTEMPTS_MOST = 2


class Secrets:
    """The secrets of one attempt, all in bytearrays."""

    def __init__(self, entropy: Entropy) -> None:
        """Draw the mask key, the share key and the self-mask seed, in this order."""
        self.mask_key = ExchangeKey.create(entropy)
        self.share_key = ExchangeKey.create(entropy)
        self.self_seed = draw(entropy, 32)
        self.inbox_keys: dict[int, bytearray] = {}
        """Keys of the boxes to this device, by sender."""
        self.seed_shares: dict[int, bytearray] = {}
        """Shares of self-mask seeds, by owner."""
        self.key_shares: dict[int, bytearray] = {}
        """Shares of mask keys, by owner."""

    def erase_masking(self) -> None:
        """Overwrite what nothing needs once the masked vector is made."""
        self.mask_key.erase()
        self.share_key.erase()
        erase(self.self_seed, *self.inbox_keys.values())
        self.inbox_keys.clear()

    def erase(self) -> None:
        """Overwrite everything."""
        self.erase_masking()
        erase(*self.seed_shares.values(), *self.key_shares.values())
        self.seed_shares.clear()
        self.key_shares.clear()


class NoisyUpdate:
    """A quantized update with the noise that was added so far, for at most two attempts at one round.

    A second attempt adds only what its smaller threshold asks for on top of the first one's noise, so that the difference of
    the two says nothing about the update. A device that helped to open the first attempt makes no second.
    """

    def __init__(self, plan: RoundPlan, steps: NDArray[np.integer], draw_noise: DrawNoise) -> None:
        """Hold `steps` `(d,)`, integers.

        Raises:
            NormError: they are not `(d,)`, or longer than the plan's bound.
        """
        if steps.shape != (plan.d,) or float(np.linalg.norm(steps.astype(np.float64))) > norm_bound(plan) * (1 + 1e-9):
            raise NormError("the update is not of the round's shape, or longer than its bound")
        self._steps: NDArray[np.integer] = steps
        self._draw_noise = draw_noise
        self._noise_stddev = 0.0
        self._attempts = 0
        self._is_opened = False

    def begin_attempt(self) -> int:
        """Return the number of a new attempt; the one before it is over.

        Raises:
            PhaseError: there were two, or the update may have been opened.
        """
        if self._attempts == ATTEMPTS_MOST or self._is_opened:
            raise PhaseError("this device does not try this round again")
        self._attempts += 1
        return self._attempts

    def check_current(self, attempt: int) -> None:
        """Refuse to go on with an attempt after another began.

        Raises:
            PhaseError: another began.
        """
        if attempt != self._attempts:
            raise PhaseError("this device has begun another attempt")

    def mark_opened(self) -> None:
        """Say that this device has helped to open a sum with this update in it."""
        self._is_opened = True

    def with_noise(self, stddev: float) -> NDArray[np.integer]:
        """Return the update with noise of at least `stddev` in integer steps, `(d,)`."""
        lacking = math.sqrt(max(0.0, stddev**2 - self._noise_stddev**2))
        if lacking > 0:
            self._steps = self._steps.astype(np.int64) + self._draw_noise(lacking, len(self._steps))
            self._noise_stddev = stddev
        return self._steps
