"""An attacker who has a device's update and wants its sound: gradients back to encoder outputs, those back to log-mel pictures."""

from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from scipy.ndimage import uniform_filter

from earmark_client.describe import Model
from earmark_client.learn.finetune import ClipBatches, TrainingSet, _one_thread
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_shared.base_head import base_arrays, base_schema
from earmark_shared.head import unit_rows

RATE_HZ = 16_000


@dataclass(frozen=True)
class Pieces:
    """Segments of sound and what the device, or an attacker with the same model, makes of them."""

    log_mel: np.ndarray
    encoder: np.ndarray
    text: np.ndarray
    source: np.ndarray
    """`(n,)` which recording each is from."""

    def __getitem__(self, rows):
        return Pieces(self.log_mel[rows], self.encoder[rows], self.text[rows], self.source[rows])


class Victim:
    """The shipped model and head, as everybody has them."""

    def __init__(self):
        self.model, self.schema, self.arrays = Model(Bundle.load(BASE_MODEL)), base_schema(), base_arrays()
        listed = self.model.labeler.label_list()
        places = {name: place for place, name in enumerate(listed.names)}
        self.label_vectors = unit_rows(listed.vectors[[places[label] for label in self.schema.labels]])
        self.down, self.shift = self.arrays["down"].astype("f8"), self.arrays["shift"].astype("f8")
        self.back = np.linalg.pinv(self.down)

    def hear(self, waveforms, source):
        """Describe `(n, samples)` segments."""
        waveforms = np.asarray(waveforms, "f4")
        vectors, encoder = self.model.describe(waveforms)
        return Pieces(self.model.features(waveforms).log_mel, encoder, vectors.text.astype("f4"), np.asarray(source))

    def training_set(self, pieces, labels):
        """A clip of one segment each, with a yes to its label."""
        targets = np.zeros((len(labels), len(self.schema.labels)), np.int8)
        targets[np.arange(len(labels)), labels] = 1
        return TrainingSet(pieces.encoder, unit_rows(pieces.text), np.arange(len(labels)), targets, self.label_vectors)

    def gradients(self, pieces, labels, sharpness=20.0):
        """`(n, d)`: what each clip alone would send, were there no clipping, no noise and no sum."""
        from earmark_client.learn.correction import ClipGradients  # loads torch: not for everybody who collects the tests

        data = self.training_set(pieces, labels)
        gradients = ClipGradients(self.schema, self.arrays, self.label_vectors, sharpness)
        weights = np.concatenate([self.arrays[name].ravel() for name in self.schema.trained]).astype("f8")
        batches = ClipBatches(gradients.prepared(data)).of(np.arange(len(labels)))
        with _one_thread():
            return np.concatenate([gradients.of(weights, batch) for batch in batches])

    def features(self, encoder):
        """`(n, rank)` unit: what the head makes of encoder outputs."""
        return unit_rows((encoder @ self.down.T + self.shift).astype("f4")).astype("f8")

    def invert(self, updates):
        """`(n, rank)` unit features from `(n, d)` gradients of `up`, but for their sign: one clip's is an outer product, read off exactly."""
        return np.linalg.svd(updates.reshape(len(updates), self.schema.outputs, self.schema.rank), full_matrices=False)[2][:, 0]

    def nearest(self, features, known):
        """`(n,)` the row of `known` sound that is nearest to each feature, and the features with the sign that is nearer."""
        likeness = features @ self.features(known.encoder).T
        rows = np.abs(likeness).argmax(axis=1)
        return rows, features * np.sign(likeness[np.arange(len(rows)), rows])[:, None]

    def encoder_outputs(self, features, public):
        """`(n, inputs)` from features: the pseudo-inverse of `down` about the public mean, as long as public sound is there."""
        typical = np.median(np.linalg.norm(public @ self.down.T + self.shift, axis=1))
        mean = public.mean(axis=0)
        around = typical * unit_rows(features.astype("f4")) - self.shift - self.down @ mean
        return np.maximum(mean + around @ self.back.T, 0.0)


def recordings(folder):
    """Name -> `(samples,)` 16 kHz mono of every recording in `folder`, at full level."""
    found = {}
    for path in sorted(folder.glob("*.mp3")):
        waveform, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        mono = soxr.resample(waveform.mean(axis=1), rate_hz, RATE_HZ)
        found[path.stem] = (0.5 * mono / np.abs(mono).max()).astype("f4")
    return found


def similarity(one, other, window=7):
    """SSIM of two `(frames, bands)` log-mel pictures (Wang et al. 2004), windows of 7 by 7, range that of the first."""
    spread = float(one.max() - one.min())
    small, smaller = (0.01 * spread) ** 2, (0.03 * spread) ** 2
    means = [uniform_filter(each.astype("f8"), window) for each in (one, other)]
    squares = [uniform_filter(each.astype("f8") ** 2, window) - mean**2 for each, mean in zip((one, other), means, strict=True)]
    both = uniform_filter(one.astype("f8") * other, window) - means[0] * means[1]
    above = (2 * means[0] * means[1] + small) * (2 * both + smaller)
    below = (means[0] ** 2 + means[1] ** 2 + small) * (squares[0] + squares[1] + smaller)
    return float((above / below).mean())


def cosines(one, other):
    """`(n,)` cosine of each pair of rows."""
    return np.einsum("nd,nd->n", unit_rows(one.astype("f4")), unit_rows(other.astype("f4")))
