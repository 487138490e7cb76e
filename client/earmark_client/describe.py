"""Segments' waveforms become what a library stores: vectors, strength and the encoder's output.

One object joins the three layers that may not know each other: features (`audio`), the encoder and the head (`model`).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from earmark_client import blas
from earmark_client.audio.features import FeatureExtractor, MelSpec
from earmark_client.audio.segment import Segmenter
from earmark_client.model.encoder import AudioEncoder
from earmark_client.model.labeler import Labeler

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from earmark_client.model.bundle import Bundle
    from earmark_client.model.labeler import Vectors

    Floats = npt.NDArray[np.float32]


class Model:
    """One model folder, its parts opened when first needed: a search by words never loads the audio encoder."""

    def __init__(self, bundle: Bundle, *, device: str = "cpu") -> None:
        """Keep `bundle` and where its encoder runs ("cpu" or "cuda")."""
        blas.use_one_thread()
        self.bundle = bundle
        self.device = device

    @property
    def version(self) -> str:
        """The tag that every stored vector carries."""
        return self.bundle.version

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
        return Segmenter()

    def open_audio(self) -> None:
        """Open now, in one thread, all that `describe` needs in several."""
        _ = (self.features, self.encoder, self.labeler)

    def describe(self, waveforms: Floats) -> tuple[Vectors, Floats]:
        """Describe segments.

        Args:
            waveforms: `(segments, segment_samples) float32`, 16 kHz mono.

        Returns:
            Their vectors, and the encoder's output `(segments, encoder_dim) float32`; the same to the bit for a segment
            alone or among others.
        """
        features = self.features(waveforms)
        output = self.encoder.encode(features.log_mel)
        return self.labeler.describe(output, features.multi_scale), output
