"""Membership inference: made-up clips in clusters, an attacker's own fast copy of a federation, a loss attack and LiRA.

LiRA (Carlini et al. 2022): for every clip the scores of models that had it and of models that hadn't are two normal distributions;
the target's score is more like one of them. The attacker's models are trained by its own arithmetic, which knows everything about
the product's training but the noise and the draws; that the attack works is what the control is for.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from earmark_client.learn.finetune import TrainingSet
from earmark_shared.head import HeadSchema, correct, first_head, unit_rows

SEGMENTS = 3
SCHEMA = HeadSchema(
    inputs=128, outputs=64, rank=32, trained=("up", "bias"), labels=tuple(f"label {place}" for place in range(50))
)


@dataclass(frozen=True)
class Pool:
    """Clips of SEGMENTS segments each, what a person said they are, and the head that rounds begin with."""

    encoder: np.ndarray
    text: np.ndarray
    said: np.ndarray
    label_vectors: np.ndarray
    first: dict

    def training_set(self, clips):
        rows = (np.asarray(clips)[:, None] * SEGMENTS + np.arange(SEGMENTS)).ravel()
        targets = np.zeros((len(clips), len(SCHEMA.labels)), np.int8)
        targets[np.arange(len(clips)), self.said[clips]] = 1
        owners = np.repeat(np.arange(len(clips)), SEGMENTS)
        return TrainingSet(self.encoder[rows], self.text[rows], owners, targets[owners], self.label_vectors)


def make_pool(count, *, seed=0, wrong=0.1):
    """Encoder outputs as a rectifier gives them, in wide clusters; text vectors that say the label faintly; one label in ten wrong."""
    draw, labels = np.random.default_rng(seed), len(SCHEMA.labels)
    centres, truth = draw.normal(size=(labels, SCHEMA.inputs)), draw.integers(0, labels, count)
    clips = centres[truth] + 4.0 * draw.normal(size=(count, SCHEMA.inputs))
    segments = np.repeat(clips, SEGMENTS, axis=0)
    encoder = np.maximum(segments + 0.5 * draw.normal(size=segments.shape), 0.0).astype("f4")
    vectors = unit_rows(draw.normal(size=(labels, SCHEMA.outputs)).astype("f4"))
    faint = 0.15 * np.repeat(vectors[truth], SEGMENTS, axis=0)
    text = unit_rows((faint + draw.normal(size=faint.shape) / np.sqrt(SCHEMA.outputs)).astype("f4"))
    said = np.where(draw.random(count) < wrong, draw.integers(0, labels, count), truth)
    return Pool(encoder, text, said, vectors, first_head(SCHEMA, b"membership") | _basis(draw, centres))


def _basis(draw, centres):
    """`down` and `shift` along the main axes of other, public clips of the same kind."""
    public = np.maximum(centres[draw.integers(0, len(centres), 3000)] + 4.0 * draw.normal(size=(3000, SCHEMA.inputs)), 0.0)
    mean = public.mean(axis=0)
    _, lengths, axes = np.linalg.svd(public - mean, full_matrices=False)
    down = axes[: SCHEMA.rank] / np.sqrt(lengths[: SCHEMA.rank, None] / lengths[0])
    return {"down": down.astype("f4"), "shift": (-down @ mean).astype("f4")}


def confidence(pool, arrays, sharpness=20.0):
    """`(clips,)`: the log odds that the model gives to what was said of each clip; all that a black-box attacker sees."""
    logits = sharpness * correct(arrays, pool.encoder, pool.text) @ pool.label_vectors.T
    likely = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    own = likely.reshape(len(pool.said), SEGMENTS, -1).mean(axis=1)[np.arange(len(pool.said)), pool.said]
    return own - np.log(-np.expm1(np.minimum(own, -1e-9)))


def shadow(pool, members, plan, *, devices, rounds, rate, seed):
    """A head as a federation of `devices` might have trained it on `members`, in plain floats and without aggregation's rounding."""
    draw, data = np.random.default_rng(seed), pool.training_set(members)
    shape = (devices, len(members) // devices, SEGMENTS, -1)
    heard = unit_rows(data.encoder_outputs @ pool.first["down"].T + pool.first["shift"]).reshape(shape)
    with_one = np.concatenate([heard, np.ones((*heard.shape[:3], 1), "f4")], axis=3)
    text, missed = unit_rows(data.text).reshape(shape), (data.targets > 0).reshape(shape)
    head = np.zeros((SCHEMA.outputs, SCHEMA.rank + 1), "f4")
    for _ in range(rounds):
        weights = np.repeat(head[None], devices, axis=0)
        for _ in range(plan.steps):
            drawn = draw.random(shape[:2]) < plan.expected_clips / shape[1]
            total = _clipped_sums(weights, (with_one, text, missed, data.label_vectors), drawn, plan)
            total = total + plan.noise_multiplier * plan.clipping_bound * draw.standard_normal(weights.shape, "f4")
            weights -= np.float32(plan.learning_rate / plan.expected_clips) * total
        head = head + np.float32(rate) * (weights.mean(axis=0) - head)
    return pool.first | {"up": head[:, :-1].copy(), "bias": head[:, -1].copy()}


def _clipped_sums(weights, clips, drawn, plan):
    """`(devices, outputs, rank + 1)`: every device's sum of its drawn clips' clipped gradients."""
    with_one, text, missed, vectors = clips
    moved = text + with_one @ weights.swapaxes(1, 2)[:, None]
    length = np.linalg.norm(moved, axis=3, keepdims=True)
    unit = moved / length
    logits = plan.sharpness * unit @ vectors.T
    likely = np.exp(logits - logits.max(axis=3, keepdims=True))
    back = plan.sharpness * (likely / likely.sum(axis=3, keepdims=True) - missed) @ vectors
    back = (back - unit * (unit * back).sum(axis=3, keepdims=True)) / length / SEGMENTS
    # A clip's gradient is a sum of outer products, so its length needs only their inner products.
    norms = np.sqrt((back @ back.swapaxes(2, 3) * (with_one @ with_one.swapaxes(2, 3))).sum(axis=(2, 3)))
    back *= (drawn * np.minimum(1.0, plan.clipping_bound / np.maximum(norms, 1e-12)))[:, :, None, None].astype("f4")
    devices = len(weights)
    return back.reshape(devices, -1, back.shape[3]).swapaxes(1, 2) @ with_one.reshape(devices, -1, with_one.shape[3])


def likelihood_ratios(target, scores, present):
    """LiRA: `(clips,)` from the target's scores and the shadows' `(models, clips)`; one spread for all clips, as there are few models."""
    sides = []
    for mask in (present, ~present):
        mean = (scores * mask).sum(axis=0) / np.maximum(mask.sum(axis=0), 1)
        spread = np.sqrt((((scores - mean) ** 2) * mask).sum() / mask.sum())
        sides.append(stats.norm.logpdf(target, mean, spread))
    return sides[0] - sides[1]


def true_positives(scores, present, false_positives=0.01):
    """The share of members that score above all but `false_positives` of the others."""
    return float((scores[present] > np.quantile(scores[~present], 1.0 - false_positives)).mean())
