"""What privacy costs a training step of the head: DP-SGD (Opacus's gradients, our clipping, grid and noise) over the same step without.

Both take a drawn batch of the same clips through the same correction and move the same 24,960 weights, on one thread. The plain step is
what torch does by itself: float32, one backward pass, SGD. Steps alternate, and medians are compared, so that a busy machine
slows both. Synthetic encoder outputs: a step's time doesn't depend on what they say.

    python benchmarks/dp_step.py [--clips 256] [--expected 32] [--segments 20] [--steps 60]

The last line is one JSON object; `vs_plain` is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
from common import Parser, at_least, finish, run

from earmark_client.learn.finetune import (
    ClipBatch,
    ClipBatches,
    Integers,
    TrainingPlan,
    TrainingSet,
    planned_event,
    private_gradient,
)
from earmark_shared.head import Arrays, HeadSchema, first_head, flatten, unit_rows
from earmark_shared.privacy.mechanism import poisson_sample

LABELS = 50


def make_clips(count: int, segments: int) -> TrainingSet:
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(count), segments)
    targets = np.zeros((count, LABELS), dtype=np.int8)
    targets[np.arange(count), rng.integers(0, LABELS, count)] = 1
    return TrainingSet(
        encoder_outputs=rng.normal(size=(len(owners), 1024)).astype("f4"),
        text=unit_rows(rng.normal(size=(len(owners), 384)).astype("f4")),
        clips=owners,
        targets=targets[owners],
        label_vectors=unit_rows(rng.normal(size=(LABELS, 384)).astype("f4")),
    )


def as_float32(data: TrainingSet) -> TrainingSet:
    return replace(data, encoder_outputs=data.encoder_outputs.astype("f4"), text=data.text.astype("f4"))


def plain_step(schema: HeadSchema, head: Arrays, data: TrainingSet, plan: TrainingPlan) -> Callable[[ClipBatch], None]:
    """The step without DP."""
    import torch

    from earmark_client.learn.correction import Correction, clip_losses

    module, labels = Correction(schema, head).float(), torch.from_numpy(data.label_vectors)
    optimizer = torch.optim.SGD([w for w in module.parameters() if w.requires_grad], lr=plan.learning_rate)

    def step(batch: ClipBatch) -> None:
        optimizer.zero_grad()
        text = module(torch.from_numpy(batch.encoder_outputs), torch.from_numpy(batch.text))
        (clip_losses(text @ labels.T * plan.sharpness, batch).sum() / plan.expected_clips).backward()
        optimizer.step()

    return step


def timed(work: Callable[[Integers], None], drawn: Integers) -> float:
    began = time.perf_counter()
    work(drawn)
    return time.perf_counter() - began


def measure(clips: int, expected: int, segments: int, steps: int) -> dict[str, float]:
    """Take turns at both steps."""
    import torch

    from earmark_client.learn.correction import ClipGradients

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    schema = HeadSchema(1024, 384, 64, ("up", "bias"), tuple(f"label {number}" for number in range(LABELS)))
    head, data = first_head(schema, b"benchmark"), make_clips(clips, segments)
    plan = TrainingPlan(clipping_bound=1.0, noise_multiplier=1.0, expected_clips=expected, steps=1, learning_rate=0.1)
    probability = planned_event(plan, clips).sampling_probability
    gradients, weights = ClipGradients(schema, head, data.label_vectors, plan.sharpness), flatten(schema, head).astype(np.float64)
    prepared = gradients.prepared(data)
    plain = plain_step(schema, head, data, plan)
    batches, narrow = ClipBatches(prepared), ClipBatches(as_float32(prepared))

    def private_steps(drawn: Integers) -> None:
        nonlocal weights
        weights = weights - plan.learning_rate * private_gradient(
            gradients, weights, batches, drawn, plan=plan, entropy=os.urandom
        )

    def plain_steps(drawn: Integers) -> None:
        for batch in narrow.of(drawn):
            plain(batch)

    private_s, plain_s = [], []
    for _ in range(steps + 5):
        drawn = poisson_sample(clips, probability, os.urandom)
        private_s.append(timed(private_steps, drawn))
        plain_s.append(timed(plain_steps, drawn))
    dp_ms, plain_ms = 1e3 * median(private_s[5:]), 1e3 * median(plain_s[5:])
    print(f"{schema.size} parameters, {expected} clips of {segments} segments a step, median of {steps}")
    return {"vs_plain": round(dp_ms / plain_ms, 2), "dp_ms": round(dp_ms, 2), "plain_ms": round(plain_ms, 2)}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = Parser(__doc__)
    for name, default in (("clips", 256), ("expected", 32), ("segments", 20), ("steps", 60)):
        parser.add_argument(f"--{name}", type=at_least(1), default=default)
    return parser.parse_args(given)


def main() -> None:
    """Run from the command line."""
    finish(measure(**vars(arguments())))


if __name__ == "__main__":
    run(main)
