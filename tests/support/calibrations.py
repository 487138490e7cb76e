"""Calibrations with round constants, for tests that fake a model."""

from earmark_client.model.calibration import Calibration

CALIBRATION = Calibration(
    text_slope=1.0,
    text_offset=0.0,
    text_similarity=0.0,
    example_slope=20.0,
    example_offset=-10.0,
    word_weight=0.9,
    threshold=0.5,
)
