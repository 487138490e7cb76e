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
    query_slope: float = 0.0
    """The first of four constants that words asked for have instead of the three `text` ones, which are then a label's alone; 0: none."""
    query_offset: float = 0.0
    query_similarity: float = 0.0
    query_background: float = 0.0
    """Weight of what other recordings reach for the same words."""

    @classmethod
    def read(cls, part: Mapping[str, Any]) -> Calibration:
        """Read the constants from a manifest's calibration.

        Raises:
            ModelError: one is missing or not a number.
        """
        try:
            has_query = any(name.startswith("query_") for name in part)
            wanted = [
                field.name
                for field in fields(cls)
                if field.default is MISSING or field.name in part or (has_query and field.name.startswith("query_"))
            ]
            return cls(**{name: float(part[name]) for name in wanted})
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("The model's calibration is incomplete.") from error


def text_probability(raw: Floats, similarity: float | Floats, calibration: Calibration) -> Floats:
    """How likely it is that a clip (or segment) is what a label says.

    Args:
        raw: Raw evidence, any shape.
        similarity: How near the words are to the nearest label text, in [-1, 1]; broadcasts against `raw`.
        calibration: The model's.
    """
    log_odds = raw if calibration.is_log_odds else share_log_odds(raw)
    return _sigmoid(calibration.text_slope * log_odds + calibration.text_similarity * similarity + calibration.text_offset)


def query_probability(raw: Floats, similarity: float, background: float | None, calibration: Calibration) -> Floats:
    """How likely it is that a clip (or segment) is what the words ask for.

    Words whose classes no recording is ever heard as say less than their evidence: scores are normalized by what a background of
    other recordings reaches (zero normalization; Auckenthaler, Carey, Lloyd-Thomas 2000), as one more term of the regression.

    Args:
        raw: Raw evidence, any shape.
        similarity: How near the words are to the nearest label text, in [-1, 1].
        background: What a tenth of public recordings exceed for these words, as raw evidence; None where nobody knows, as for the
            classes of an imported model, which inherits the shipped one's constants: then words are judged as labels are.
        calibration: The model's; without constants for a background, the same.
    """
    if background is None or not calibration.query_slope:
        return text_probability(raw, similarity, calibration)
    reached = float(share_log_odds(np.asarray(background, np.float32)))
    constant = calibration.query_similarity * similarity + calibration.query_background * reached + calibration.query_offset
    return _sigmoid(calibration.query_slope * share_log_odds(raw) + np.float32(constant))


def share_log_odds(raw: Floats) -> Floats:
    """A share in [0, 1] as log-odds, kept away from its ends."""
    inside = np.minimum(np.maximum(raw, SMALLEST_RAW), 1 - SMALLEST_RAW)
    odds: Floats = np.log(inside / (1 - inside))
    return odds


def example_probability(raw: Floats, calibration: Calibration) -> Floats:
    """How likely it is that a clip (or segment) is the same kind of sound as the example; any shape."""
    return _sigmoid(calibration.example_slope * raw + calibration.example_offset)


def _sigmoid(log_odds: npt.NDArray[np.floating[Any]]) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.minimum(np.maximum(log_odds, -60), 60))), np.float32)
