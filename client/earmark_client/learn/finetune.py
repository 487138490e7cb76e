"""Fine-tune the head's correction on this device's clips, with record-level differential privacy.

A clip with all its segments is one record: it is drawn as a whole, its segments' gradients are averaged, and the average is clipped
once. Opacus gives the gradient of every clip; drawing, clipping, summing and noise are `earmark_shared.privacy`'s, in integers, from
a cryptographic stream. Nothing here calls torch's or numpy's generators.

A step: draw clips with probability q, sum their clipped gradients, add noise, divide by the *expected* number of clips (how many
were drawn is private), keep what moves text vectors within the span of the label set, take a gradient step plus a pull back to
where the round began. Span, step size, momentum and pull are public and only reshape what is private already.

    paid = planned_event(plan, data.clip_count)              # what the ledger reserves before a gradient exists
    trained = train(schema, arrays, data, plan, paid=paid, entropy=os.urandom)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from earmark_shared.errors import BudgetError, NoiseError
from earmark_shared.head import MAX_WEIGHT, Arrays, HeadSchema, flatten
from earmark_shared.privacy.accountant import SampledGaussian
from earmark_shared.privacy.mechanism import add_grid_noise, grid_sum, poisson_sample, public_bucket
from earmark_shared.privacy.sampler import Entropy

if TYPE_CHECKING:
    from earmark_client.learn.correction import ClipGradients

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MAX_SEGMENTS = 64
"""Segments of one clip that a step looks at, evenly spaced: a day of sound must not cost more memory than a minute."""


@dataclass(frozen=True)
class TrainingPlan:
    """One round's local training. Every value comes from public data or the round plan, none from this device's sound."""

    clipping_bound: float
    """C: the longest averaged gradient of one clip (l2)."""
    noise_multiplier: float
    """Noise on each step's sum, in units of C."""
    expected_clips: int
    """B: clips a step draws on average."""
    steps: int
    learning_rate: float
    momentum: float = 0.0
    proximal: float = 0.0
    """Strength of the pull back to the round's first head (FedProx)."""
    sharpness: float = 20.0
    """Factor on cosines before the softmax over the label set."""
    is_lab: bool = False
    """In a home that joined with `--lab`, 16 clips are enough to train."""


@dataclass(frozen=True)
class TrainingSet:
    """Corrected clips, segment by segment; every clip has one."""

    encoder_outputs: Floats | Doubles
    """`(segments, inputs)`."""
    text: Floats | Doubles
    """`(segments, outputs)`: the text vectors before any correction."""
    clips: Integers
    """`(segments,)` clip index in [0, clip_count)."""
    targets: npt.NDArray[np.int8]
    """`(segments, labels)`: 1 a person said yes, -1 no, 0 nothing."""
    label_vectors: Floats
    """`(labels, outputs)` unit text vectors of the schema's label set."""

    @property
    def clip_count(self) -> int:
        """How many records there are."""
        return int(self.clips.max(initial=-1)) + 1


@dataclass(frozen=True)
class Trained:
    """What a round's training gave."""

    update: Floats
    """`(d,)` new head minus old."""
    event: SampledGaussian
    """What was spent, equal to what was reserved."""


def planned_event(plan: TrainingPlan, clip_count: int) -> SampledGaussian:
    """Return what training on `clip_count` clips will spend; their number enters only as a public bucket.

    Raises:
        NoiseError: too few clips, or a plan that protects nothing.
    """
    bucket = public_bucket(clip_count, is_lab=plan.is_lab)
    if not 1 <= plan.expected_clips <= bucket:
        raise NoiseError(f"{plan.expected_clips} clips a step can't be drawn from {bucket}")
    return SampledGaussian(plan.noise_multiplier, plan.expected_clips / bucket, plan.steps)


def train(
    schema: HeadSchema, arrays: Arrays, data: TrainingSet, plan: TrainingPlan, *, paid: SampledGaussian, entropy: Entropy
) -> Trained:
    """Run the plan's steps from `arrays` and return the update. Deterministic but for `entropy`.

    Raises:
        BudgetError: `paid` is not what this training spends.
        NoiseError: too few clips, or arrays that don't fit together: nothing that a clip's sound decides.
    """
    if paid != planned_event(plan, data.clip_count):
        raise BudgetError("the ledger reserved something else than this training spends")
    check_training_set(schema, data)
    from earmark_client.learn.correction import ClipGradients

    start, span = flatten(schema, arrays).astype(np.float64), label_span(data.label_vectors)
    weights, speed = start.copy(), np.zeros_like(start)
    with _one_thread():
        gradients = ClipGradients(schema, arrays, data.label_vectors, plan.sharpness)
        batches = ClipBatches(gradients.prepared(data))
        for _ in range(plan.steps):
            drawn = poisson_sample(data.clip_count, paid.sampling_probability, entropy)
            step = private_gradient(gradients, weights, batches, drawn, plan=plan, entropy=entropy)
            speed = plan.momentum * speed + within(schema, span, step) + plan.proximal * (weights - start)
            weights = weights - plan.learning_rate * speed
    return Trained((_sane(weights) - start).astype(np.float32), paid)


def _sane(weights: Doubles) -> Doubles:
    """Return `weights` within what a head may hold. To refuse those that ran away would tell, uncharged, what noise hid."""
    return np.clip(np.nan_to_num(weights, posinf=MAX_WEIGHT, neginf=-MAX_WEIGHT), -MAX_WEIGHT, MAX_WEIGHT)


def private_gradient(
    gradients: ClipGradients,
    weights: Doubles,
    batches: ClipBatches,
    drawn: Integers,
    *,
    plan: TrainingPlan,
    entropy: Entropy,
) -> Doubles:
    """Return `(d,) float64`: the noisy sum of the drawn clips' clipped gradients over the expected number of clips."""
    total = np.zeros(weights.size, dtype=np.int64)
    for part in batches.of(drawn):
        total += grid_sum(gradients.of(weights, part), plan.clipping_bound)
    return add_grid_noise(total, plan.clipping_bound, plan.noise_multiplier, entropy) / plan.expected_clips


def label_span(label_vectors: Floats) -> Doubles | None:
    """Return an orthonormal basis `(outputs, k)` of what `(labels, outputs)` vectors span, or None when that may be everything.

    Where few labels are shared most noise would go elsewhere: no label sees it, but it makes text vectors longer, so that all that
    they said before counts less.
    """
    labels, outputs = label_vectors.shape
    if labels >= outputs:
        return None
    _, lengths, axes = np.linalg.svd(label_vectors.astype(np.float64), full_matrices=False)
    return np.asarray(axes[lengths > 1e-6 * lengths[0]].T, dtype=np.float64)


def within(schema: HeadSchema, span: Doubles | None, step: Doubles) -> Doubles:
    """Return `step` `(d,)` without what moves text vectors out of `span`; how the head hears is left as it is."""
    if span is None:
        return step
    kept, at = step.copy(), 0
    for name in schema.trained:
        count = int(np.prod(schema.shapes[name]))
        if name in ("up", "bias"):
            part = step[at : at + count].reshape(schema.outputs, -1)
            kept[at : at + count] = (span @ (span.T @ part)).reshape(-1)
        at += count
    return kept


def check_training_set(schema: HeadSchema, data: TrainingSet) -> None:
    """Pass arrays that fit the schema and each other.

    Raises:
        NoiseError: they don't; the message says what, never a value.
    """
    segments = len(data.clips)
    expected = {
        "encoder_outputs": (data.encoder_outputs.shape, (segments, schema.inputs)),
        "text": (data.text.shape, (segments, schema.outputs)),
        "targets": (data.targets.shape, (segments, len(schema.labels))),
        "label_vectors": (data.label_vectors.shape, (len(schema.labels), schema.outputs)),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise NoiseError(f"training data: {name} is {found}, not {wanted}")
    if not np.array_equal(np.unique(data.clips), np.arange(data.clip_count)):
        raise NoiseError("training data: a clip has no segment, or a segment no clip")


@dataclass(frozen=True)
class ClipBatch:
    """Some clips, their segments padded to the same number; a padded segment weighs nothing."""

    encoder_outputs: Floats | Doubles
    """`(clips, segments, inputs)`."""
    text: Floats | Doubles
    """`(clips, segments, outputs)`."""
    weights: Doubles
    """`(clips, segments)`, each row sums to one."""
    targets: npt.NDArray[np.int8]
    """`(clips, segments, labels)`."""


class ClipBatches:
    """Cuts drawn clips into batches of a bounded size."""

    CLIPS = 64

    def __init__(self, data: TrainingSet) -> None:
        """Look up each clip's segments once."""
        self._data = data
        order = np.argsort(data.clips, kind="stable")
        ends = np.cumsum(np.bincount(data.clips, minlength=data.clip_count))
        self._segments = [_spaced(rows) for rows in np.split(order, ends[:-1])]

    def of(self, drawn: Integers) -> Iterator[ClipBatch]:
        """Yield the drawn clips, at most CLIPS at a time; none at all for an empty draw."""
        for at in range(0, len(drawn), self.CLIPS):
            yield self._batch(drawn[at : at + self.CLIPS])

    def _batch(self, drawn: Integers) -> ClipBatch:
        parts = [self._segments[clip] for clip in drawn]
        places = np.zeros((len(parts), max(map(len, parts))), dtype=np.int64)
        weights = np.zeros(places.shape)
        for row, part in enumerate(parts):
            places[row, : len(part)] = part
            weights[row, : len(part)] = 1.0 / len(part)
        # Padding repeats some clip's segment; its values must not matter, so they are zeroed as well as unweighted.
        real = (weights > 0.0)[:, :, None]
        outputs = np.where(real, self._data.encoder_outputs[places], self._data.encoder_outputs.dtype.type(0))
        text = np.where(real, self._data.text[places], self._data.text.dtype.type(0))
        return ClipBatch(outputs, text, weights, self._data.targets[places])


def _spaced(rows: Integers) -> Integers:
    if len(rows) <= MAX_SEGMENTS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MAX_SEGMENTS).astype(np.int64)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train beside a person's work, not instead of it; and without torch's warning that inputs have no gradient."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield
    finally:
        torch.set_num_threads(before)
