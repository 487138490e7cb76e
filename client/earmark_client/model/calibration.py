"""A model's calibration: the constants that turn raw evidence into a probability that means what it says."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from earmark_shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats = npt.NDArray[np.float32]

SMALLEST_RAW = 1e-3
"""Raw text evidence below this says as little as this."""


@dataclass(frozen=True)
class Calibration:
    """What turns raw evidence into a probability: the model's constants, from its manifest's calibration."""

    text_slope: float
    text_offset: float
    text_similarity: float
    """Weight of how near the words are to any sound the model knows."""
    example_slope: float
    example_offset: float
    word_weight: float
    """Probability that a clip named exactly like the query is what was asked for."""
    threshold: float
    """The probability a hit needs; below it, nothing was found."""
    is_log_odds: float = 0.0
    """1 where raw text evidence is log-odds already, 0 where it is a share in [0, 1]."""

    @classmethod
    def read(cls, part: Mapping[str, Any]) -> Calibration:
        """Read the constants from a manifest's calibration.

        Raises:
            ModelError: one is missing or not a number.
        """
        try:
            wanted = [field.name for field in fields(cls) if field.default is MISSING or field.name in part]
            return cls(**{name: float(part[name]) for name in wanted})
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("The model's calibration is incomplete.") from error


def text_probability(raw: Floats, similarity: float | Floats, calibration: Calibration) -> Floats:
    """How likely it is that a clip (or segment) is what the words ask for.

    Args:
        raw: Raw evidence, any shape.
        similarity: How near the words are to the nearest label text, in [-1, 1]; broadcasts against `raw`.
        calibration: The model's.
    """
    log_odds: Any = raw
    if not calibration.is_log_odds:
        inside = np.minimum(np.maximum(raw, SMALLEST_RAW), 1 - SMALLEST_RAW)
        log_odds = np.log(inside / (1 - inside))
    return _sigmoid(calibration.text_slope * log_odds + calibration.text_similarity * similarity + calibration.text_offset)


def example_probability(raw: Floats, calibration: Calibration) -> Floats:
    """How likely it is that a clip (or segment) is the same kind of sound as the example; any shape."""
    return _sigmoid(calibration.example_slope * raw + calibration.example_offset)


def _sigmoid(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.minimum(np.maximum(log_odds, -60), 60))), np.float32)
