"""Segments' waveforms become what a library stores: vectors, strength and the encoder's output.

One object joins the three layers that may not know each other: features (`audio`), the encoder and the head (`model`).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from earmark_client import blas
from earmark_client.audio.features import FeatureExtractor, MelSpec
from earmark_client.audio.segment import Segmenter
from earmark_client.model.encoder import AudioEncoder
from earmark_client.model.head import quantize_output
from earmark_client.model.labeler import Labeler

if TYPE_CHECKING:
    import numpy.typing as npt

    from earmark_client.model.active import Correction
    from earmark_client.model.bundle import Bundle
    from earmark_client.model.head import Vectors

    Floats = npt.NDArray[np.float32]

NO_FEATURES = np.zeros((0, 0), np.float32)


class Model:
    """One model folder and at most one correction, its parts opened when first needed.

    A search by words never loads the audio encoder.
    """

    correction: Correction | None = None
    """The released head in force."""

    def __init__(self, bundle: Bundle, *, device: str = "cpu") -> None:
        """Keep `bundle` and where its encoder runs ("cpu" or "cuda")."""
        blas.use_one_thread()
        self.bundle = bundle
        self.device = device

    @property
    def version(self) -> str:
        """The tag of the text vectors that are searched."""
        return self.correction.release.version if self.correction else self.bundle.version

    @property
    def base_version(self) -> str:
        """The tag of what no correction changes: encoder output, strength, sound vectors, uncorrected text vectors."""
        return self.bundle.version

    @property
    def keeps_output(self) -> bool:
        """Whether encoder output is stored, for released heads to be trained and put on: the shipped model's is."""
        return self.bundle.section("head").get("kind") is None

    def corrected_by(self, correction: Correction | None) -> Self:
        """The same model with another correction, or none; what is open stays open and is shared."""
        other = copy.copy(self)
        other.correction = correction
        return other

    @cached_property
    def labeler(self) -> Labeler:
        """The head, the label texts and the calibration."""
        return Labeler(self.bundle)

    @cached_property
    def features(self) -> FeatureExtractor:
        """The front end that this model's encoder was trained on."""
        return FeatureExtractor(MelSpec(**self.bundle.manifest["frontend"]))

    @cached_property
    def encoder(self) -> AudioEncoder:
        """The frozen audio encoder."""
        return AudioEncoder(self.bundle, device=self.device)

    def segmenter(self) -> Segmenter:
        """A fresh segmenter of this model's segment length and hop."""
        part = self.bundle.section("segment")
        return Segmenter(int(part["samples"]), int(part["hop_samples"]))

    def open_audio(self) -> None:
        """Open now, in one thread, all that `describe` needs in several."""
        _ = (self.encoder, self.labeler)
        if not self.encoder.hears_waveforms:
            _ = self.features

    def describe(self, waveforms: Floats) -> tuple[Vectors, Floats]:
        """Describe segments.

        Args:
            waveforms: `(segments, segment_samples) float32`, 16 kHz mono; the model's own `segmenter` cuts them.

        Returns:
            Their vectors, and the encoder's output `(segments, encoder_dim) float32`; the same to the bit for a segment
            alone or among others.
        """
        if self.encoder.hears_waveforms:
            output = self.encoder.encode(waveforms)
            return self.labeler.describe(output, NO_FEATURES), output
        features = self.features(waveforms)
        output = self.encoder.encode(features.log_mel)
        vectors = self.labeler.describe(output, features.multi_scale)
        if self.correction is not None:  # from what will be stored, so that an update comes to the same bits without the sound
            stored = vectors.text.astype(np.float16)
            vectors = replace(vectors, corrected=self.correction.apply(*quantize_output(output), stored))
        return vectors, output
